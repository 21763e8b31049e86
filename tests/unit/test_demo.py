"""The demo's judge: what it must not overlook."""

import struct

import pytest

from demo.verify import Copy, Sent, altered, compare, kind_of

ETHERNET = bytes(range(12))


def ip(protocol: int, ports: tuple[int, int] = (40000, 9), options: int = 0) -> bytes:
    header = bytes([0x45 + options]) + bytes(8) + bytes([protocol]) + bytes(10 + options * 4)
    return ETHERNET + b"\x08\x00" + header + struct.pack("!HH", *ports) + bytes(20)


def sent(*frames: bytes, expected: bool | None = True) -> list[Sent]:
    return [Sent(frame, "before", expected) for frame in frames]


def copies(*frames: bytes) -> list[Copy]:
    return [Copy(frame, "VXLAN") for frame in frames]


def test_all_there() -> None:
    """Order between frames does not matter: the paths may overtake each other."""
    assert compare(sent(b"one", b"two", b"one"), copies(b"two", b"one", b"one")).exact


def test_one_of_two_alike_is_missing() -> None:
    """Of frames with the same bytes one missing is one missing; the later one, for want of a better."""
    items = sent(b"one", b"one", b"two")
    found = compare(items, copies(b"one", b"two"))
    assert not found.exact
    assert found.missing == (items[1],)
    assert not found.alien


def test_a_copy_that_came_twice() -> None:
    found = compare(sent(b"one"), copies(b"one", b"one"))
    assert not found.exact
    assert [copy.frame for copy in found.alien] == [b"one"]


def test_an_altered_frame_is_named_with_its_place() -> None:
    right, other = ip(17), ip(1)
    wrong = right[:-1] + b"\x01"
    found = compare(sent(right, other), copies(wrong, other))
    assert not found.exact
    ((item, copy, place),) = altered(found)
    assert (item.frame, copy.frame, place) == (right, wrong, len(right) - 1)


def test_a_truncated_frame_is_not_exact() -> None:
    found = compare(sent(b"whole"), copies(b"whol"))
    assert found.missing
    assert found.alien
    assert altered(found) == []


def test_two_frames_of_one_length_are_not_taken_for_one() -> None:
    """A lost frame and an alien one have nothing to do with each other when they differ everywhere."""
    assert altered(compare(sent(bytes(40)), copies(b"\xff" * 40))) == []


def test_copied_against_the_filter() -> None:
    found = compare(sent(b"no", expected=False), copies(b"no"))
    assert not found.exact
    assert len(found.unwanted) == 1
    assert not found.alien


def test_while_an_edit_takes_hold_either_way_is_right() -> None:
    for arrived in (copies(), copies(b"x")):
        assert compare(sent(b"x", expected=None), arrived).exact


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (ETHERNET + b"\x08\x06" + bytes(28), "ARP"),
        (ip(1), "ICMP"),
        (ip(6, (80, 40000)), "HTTP"),
        (ip(6, (40000, 80)), "HTTP"),
        (ip(6, (40000, 80), options=2), "HTTP"),
        (ip(6), "other"),
        (ip(17, (53, 40000)), "DNS"),
        (ip(17, (80, 40000)), "other"),
        (ETHERNET + b"\x86\xdd" + bytes(60), "other"),
        (ETHERNET + b"\x08\x00", "other"),
    ],
)
def test_kinds(frame: bytes, kind: str) -> None:
    assert kind_of(frame) == kind
