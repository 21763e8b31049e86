"""Who is watched, and who is said to refuse copies, from counters and time alone."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from sniffer.abi.limits import OuterKind
from sniffer.abi.records import OuterKey
from sniffer.kernel.refusals import errors
from sniffer.plan.refusal import AGAIN_S, ALONE_S, GROWS_WITHIN_S, QUIET_S, WATCH_S, Refusals

ANA, OTHER = (OuterKey(OuterKind.HEADER, bytes(15) + bytes([n]), 17, 4789, 42) for n in (1, 2))
LATER = OuterKey(OuterKind.LATER, ANA.address, 17)
STILL: Mapping[OuterKey, int] = {ANA: 1, OTHER: 1, LATER: 1}


class Clock:
    """Looks, one after the other."""

    def __init__(self) -> None:
        self.refusals, self.now_s, self.errors = Refusals(), 100.0, 7
        self.refusals.look(self.errors, {}, self.now_s)

    def look(self, after_s: float = 1.0, grown: int = 1, refused: Mapping[OuterKey, int] = STILL) -> Refusals:
        self.now_s += after_s
        self.errors += grown
        self.refusals.look(self.errors, refused, self.now_s)
        return self.refusals

    def suspect(self) -> None:
        self.look()
        assert self.look().watching


def rejects(clock: Clock, keys: Iterable[OuterKey] = (ANA,)) -> None:
    """From the first error to what is known after the watch."""
    clock.suspect()
    clock.look(refused=STILL)
    keys = frozenset(keys)
    refusals = clock.look(refused={key: 1 + (key in keys) for key in STILL})
    assert refusals.rejecting == keys, "at once"
    assert refusals.watching
    assert not clock.look(WATCH_S, refused={key: 1 + (key in keys) for key in STILL}).watching


def test_nothing_is_watched_while_errors_are_rare() -> None:
    clock = Clock()
    for _ in range(20):
        refusals = clock.look(GROWS_WITHIN_S + 0.1)
        assert not refusals.watching
        assert not clock.look(0.5, grown=0).watching


def test_what_there_was_before_is_nothing_new() -> None:
    clock = Clock()
    assert not clock.look(grown=0).watching
    assert not clock.look(grown=0).watching


def test_who_refuses_is_known_while_it_does() -> None:
    clock = Clock()
    rejects(clock)
    for _ in range(int(QUIET_S)):
        assert clock.look(grown=0).rejecting == {ANA}
    assert clock.look(0.1, grown=0).rejecting == frozenset()
    rejects(clock)


def test_only_headers_of_analyzers_are_told() -> None:
    clock = Clock()
    clock.suspect()
    clock.look()
    assert clock.look(refused={**STILL, LATER: 9}).rejecting == frozenset()


def test_a_header_that_comes_to_be_watched_counts_from_one() -> None:
    clock = Clock()
    clock.suspect()
    clock.look(refused={})
    assert clock.look(refused=STILL).rejecting == frozenset()
    assert clock.look(refused={**STILL, OTHER: 2}).rejecting == {OTHER}


def test_what_was_counted_before_the_watch_is_nothing_new() -> None:
    clock = Clock()
    clock.suspect()
    for _ in range(2):
        assert clock.look(refused={**STILL, ANA: 50}).rejecting == frozenset()


def test_who_refuses_is_looked_at_again() -> None:
    """One of two has stopped, while there are errors about other things all the time."""
    clock = Clock()
    rejects(clock, (ANA, OTHER))
    before_s = clock.now_s
    while not clock.look().watching:
        assert clock.refusals.rejecting == {ANA, OTHER}
    assert AGAIN_S <= clock.now_s - before_s <= AGAIN_S + 2
    after = {ANA: 9, OTHER: 2, LATER: 1}
    for _ in range(2):
        clock.look(refused=after)
    assert clock.look(WATCH_S, refused={**after, ANA: 10}).rejecting == {ANA}


def test_errors_about_something_else_are_left_alone() -> None:
    """For twice as long each time, until somebody does refuse copies."""
    clock = Clock()
    clock.suspect()
    for factor in (1, 2, 4):
        for busy in (True, True, False):  # a busy node looks late, but not once only
            assert clock.look(WATCH_S).watching is busy
        began_s = clock.now_s
        while not clock.look().watching:
            assert clock.refusals.rejecting == frozenset()
        assert clock.now_s - began_s == pytest.approx(factor * ALONE_S, abs=2)


def test_errors_are_those_by_which_packets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "snmp").write_text(
        "Ip: Forwarding DefaultTTL\nIp: 1 64\nIcmp: InMsgs InErrors InDestUnreachs\nIcmp: 90 8 5\n"
        "IcmpMsg: InType3\nIcmpMsg: 5\n"
    )
    assert errors(tmp_path) == 5, "no IPv6 here"
    (tmp_path / "snmp6").write_text(
        "Icmp6InMsgs 70\nIcmp6InDestUnreachs 4\nIcmp6InPktTooBigs 60\nIcmp6InParmProblems 3\n"
    )
    assert errors(tmp_path) == 12
    assert errors(tmp_path / "none") == 0
