"""Numbered datagrams: each payload of `blast` begins with its number, so losses and duplicates have names."""

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tests.wire import Frame

VXLAN = 50
"""Bytes of outer Ethernet, IPv4, UDP and VXLAN in front of a copy."""
_NUMBER_AT = 42
_NUMBERED = 0x0800, 17


class Datagram(NamedTuple):
    """One numbered datagram as it was seen."""

    number: int
    port: int
    vni: int
    when: float


def datagrams(frames: Iterable[Frame], outer: int = 0) -> list[Datagram]:
    """The numbered datagrams among frames, in order; what else is there is left out. outer: VXLAN for copies."""
    found = []
    for frame in list(frames):
        octets = frame.octets
        inner = octets[outer:]
        if len(inner) < _NUMBER_AT + 8 or (struct.unpack_from("!H", inner, 12)[0], inner[23]) != _NUMBERED:
            continue
        port, (number,) = struct.unpack_from("!H", inner, 36)[0], struct.unpack_from("!Q", inner, _NUMBER_AT)
        vni = int.from_bytes(octets[46:49], "big") if outer else 0
        found.append(Datagram(number, port, vni, frame.when))
    return found


def numbers(found: Iterable[Datagram], **wanted: int) -> list[int]:
    """Their numbers; `port` or `vni` picks."""
    return [item.number for item in found if all(getattr(item, key) == value for key, value in wanted.items())]


def assert_each_once(found: Sequence[int], sent: int, what: str) -> None:
    """Numbers 0 to sent - 1, each once, in order."""
    missing = sorted(set(range(sent)) - set(found))
    assert not missing, f"{what}: {len(missing)} of {sent} are missing: {missing[:10]}"
    assert len(found) == sent, f"{what}: {len(found) - sent} came twice"
    assert list(found) == sorted(found), f"{what}: out of order"
