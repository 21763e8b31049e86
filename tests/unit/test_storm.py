"""The circuit breaker on paper: loops of any gain are stopped and tried again; floods and identical frames are not."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from sniffer.abi.limits import LEASE_HELD, LEASE_WATCHED
from sniffer.model.identity import Identity
from sniffer.plan import storm
from sniffer.plan.storm import Breaker, Counts

ME, OTHER = Identity("ClusterTrafficMirror", None, "a"), Identity("ClusterTrafficMirror", None, "b")


@dataclass
class World:
    """Traffic, by a rate of matches and one of repeated ones, each as they are while copies are held and while not."""

    traffic: Callable[[float, bool], tuple[float, float]]
    breaker: Breaker = field(default_factory=Breaker)
    now_s: float = 1000.0
    matched: float = 0.0
    repeated: float = 0.0
    flags: int = 0
    held_s: float = 0.0

    def run(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            wait_s = self.breaker.wait_s() or 1.0
            held = bool(self.flags & LEASE_HELD)
            matches, repeats = self.traffic(self.now_s, held)
            self.matched += matches * wait_s
            self.repeated += repeats * wait_s if self.flags & LEASE_WATCHED else 0
            self.held_s += wait_s if held else 0
            self.now_s += wait_s
            found = self.breaker.look({ME: Counts(int(self.matched), int(self.repeated))}, self.now_s)
            self.flags = found.get(ME, 0)

    def stopped_s(self) -> float | None:
        return self.breaker.stopped(self.now_s).get(ME)


def loop(_: float, held: bool) -> tuple[float, float]:
    return (10.0, 0.0) if held else (100_000.0, 99_000.0)


def flood(_: float, __: bool) -> tuple[float, float]:
    return 500_000.0, 0.0


def same_frames(_: float, __: bool) -> tuple[float, float]:
    return 500_000.0, 499_999.0


def test_a_loop_is_stopped_within_seconds() -> None:
    world = World(loop)
    world.run(5)
    assert world.stopped_s() is not None
    assert world.flags == LEASE_HELD


def test_it_is_tried_again_after_twice_as_long() -> None:
    world = World(loop)
    tries: list[float] = []
    before = False
    for _ in range(3000):
        world.run(0.1)
        stopped = world.stopped_s() is not None
        if stopped and not before:
            tries.append(world.breaker.stopped(world.now_s)[ME])
        before = stopped
    assert tries[:4] == pytest.approx([10, 20, 40, 80], abs=2)


def test_a_loop_that_ended_is_forgotten() -> None:
    world = World(lambda now_s, held: loop(now_s, held) if now_s < 1010 else (50.0, 0.0))
    world.run(8)
    assert world.stopped_s()
    world.run(20)
    assert (world.stopped_s(), world.flags) == (None, 0)


def test_a_flood_is_not_held_at_all() -> None:
    """A12."""
    world = World(flood)
    world.run(7200)
    assert world.held_s == 0


def test_identical_frames_are_held_seldom_and_never_stopped() -> None:
    world = World(same_frames)
    world.run(7200)
    assert world.stopped_s() is None
    assert 0 < world.held_s < 2


def test_traffic_that_ends_while_it_is_held_is_no_proof() -> None:
    world = World(lambda now_s, held: (0.0, 0.0) if now_s > 1002.5 else (100_000.0, 100_000.0))
    world.run(60)
    assert (world.stopped_s(), world.flags) == (None, 0)


def test_a_loop_that_takes_its_time_to_grow_again() -> None:
    """Between two proofs it may be quiet."""
    broken_s = [0.0]

    def slow(now_s: float, held: bool) -> tuple[float, float]:
        if held:
            broken_s[0] = now_s
            return 10.0, 0.0
        return (100_000.0, 99_000.0) if now_s - broken_s[0] > 5 else (100.0, 90.0)

    world = World(slow)
    world.run(12)
    assert world.stopped_s() is not None


def test_a_trickle_is_left_alone() -> None:
    world = World(lambda _, held: (0.0, 0.0) if held else (1000.0, 1000.0))
    world.run(600)
    assert world.held_s == 0


def test_what_a_former_agent_stopped_stays_stopped_for_a_while() -> None:
    world = World(loop, Breaker([ME]), flags=LEASE_HELD)
    world.run(5)
    assert world.flags == LEASE_HELD
    assert world.stopped_s() == pytest.approx(storm.STOPPED_S, abs=6)
    world.run(8)
    assert world.breaker.stopped(world.now_s)[ME] > 15  # one proof was enough


def test_others_are_others() -> None:
    breaker = Breaker()
    now_s = 0.0
    for step in range(40):
        now_s += breaker.wait_s() or 1.0
        counts = Counts(step * 100_000, step * 100_000)
        found = breaker.look({ME: counts, OTHER: Counts(step * 10, 0)}, now_s)
        assert OTHER not in found
    assert breaker.look({OTHER: Counts(1, 0)}, now_s + 1) == {}
    assert breaker.stopped(now_s) == {}
