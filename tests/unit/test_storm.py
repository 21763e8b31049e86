"""The circuit breaker on paper: loops of any gain are stopped and tried again, through several nodes too; floods and
identical frames are not."""

import random
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
            wait_s = wait(self.breaker, self.now_s)
            held = bool(self.flags & LEASE_HELD)
            matches, repeats = self.traffic(self.now_s, held)
            self.matched += matches * wait_s
            self.repeated += repeats * wait_s if self.flags & LEASE_WATCHED else 0
            self.held_s += wait_s if held else 0
            self.now_s += wait_s
            found = self.breaker.look({ME: Counts(int(self.matched), int(self.repeated))}, self.now_s, self.now_s)
            self.flags = found.get(ME, 0)

    def stopped_s(self) -> float | None:
        return self.breaker.stopped(self.now_s).get(ME)


def wait(breaker: Breaker, now_s: float) -> float:
    """What an agent makes of it."""
    wait_s = breaker.wait_s(now_s)
    return 1.0 if wait_s is None else min(max(wait_s, 0.02), 1.0)


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
    assert 0 < world.held_s < 12
    held_s = world.held_s
    world.run(36_000)
    assert world.held_s - held_s < 0.001 * 36_000


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
        now_s += wait(breaker, now_s)
        counts = Counts(step * 100_000, step * 100_000)
        found = breaker.look({ME: counts, OTHER: Counts(step * 10, 0)}, now_s, now_s)
        assert OTHER not in found
    assert breaker.look({OTHER: Counts(1, 0)}, now_s + 1, now_s + 1) == {}
    assert breaker.stopped(now_s) == {}


@dataclass
class Member:
    """One of several nodes. ahead_s: its wall clock; late_s: how much its agent is, at most."""

    ahead_s: float = 0.0
    late_s: float = 0.25
    from_s: float = 0.0
    """When it is reached by the loop."""
    breaker: Breaker = field(default_factory=Breaker)
    matched: float = 0.0
    repeated: float = 0.0
    flags: int = 0
    due_s: float = 0.0

    def is_stopped(self, now_s: float) -> bool:
        return ME in self.breaker.stopped(now_s)


def run(members: list[Member], seconds: float, random: random.Random, own: float = 10.0) -> float | None:
    """A loop that any of them keeps up for all: who holds no copies back feeds all others. `own`: what matches at
    each node of itself. Returns when all were stopped, or None."""
    step_s, moment_s = 0.01, 0.0
    now_s = start_s = 1_000_000.0 + random.uniform(0, 60)
    while now_s < start_s + seconds:
        now_s, moment_s = now_s + step_s, now_s - start_s
        feeds = sum(not one.flags & LEASE_HELD for one in members if moment_s >= one.from_s)
        for one in members:
            rate = own + (100_000 * min(feeds, 2) if moment_s >= one.from_s else 0)
            one.matched += rate * step_s
            one.repeated += 0.98 * rate * step_s if one.flags & LEASE_WATCHED else 0
            if now_s >= one.due_s:
                found = one.breaker.look({ME: Counts(int(one.matched), int(one.repeated))}, now_s, now_s + one.ahead_s)
                one.flags = found.get(ME, 0)
                one.due_s = now_s + wait(one.breaker, now_s) + random.uniform(0, one.late_s)
        if all(one.is_stopped(now_s) for one in members):
            return moment_s
    return None


@pytest.mark.parametrize("nodes", [2, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_a_loop_through_several_nodes(nodes: int, seed: int) -> None:
    """B7. Each goes on with what the others send; clocks differ by a tenth of a second."""
    chance = random.Random(seed)
    members = [Member(chance.uniform(-0.05, 0.05)) for _ in range(nodes)]
    took_s = run(members, 120, chance)
    assert took_s is not None
    assert took_s < 30


@pytest.mark.parametrize("seed", range(3))
def test_a_node_that_comes_into_the_loop_later(seed: int) -> None:
    """The first has been let go by then; they meet at a minute's end."""
    chance = random.Random(seed)
    members = [Member(), Member(), Member(from_s=25.0)]
    took_s = run(members, 600, chance)
    assert took_s is not None


def test_nodes_without_a_common_clock_do_not_meet() -> None:
    """What the wall clock is for."""
    assert run([Member(ahead_s=1.2 * number) for number in range(8)], 300, random.Random(1)) is None


def test_a_flood_at_several_nodes_is_no_loop() -> None:
    members = [Member(), Member()]
    assert run(members, 600, random.Random(1), own=500_000.0) is None
    assert not any(one.breaker.stopped(1e9) for one in members)
