"""When statuses are written, how many in all, and what happens again and again."""

from collections import Counter

import pytest

from sniffer.model.identity import Identity
from sniffer.plan.jitter import jitter_s
from sniffer.plan.schedule import EVERY_S, FRESH_EVERY_S, LIMIT_S, NODES_S, TARGET_EVERY_S, Pace, Schedule

ONE, TWO = Identity("TrafficMirror", "shop", "one"), Identity("TrafficMirror", "shop", "two")


def test_a_change_of_its_generation_is_written_at_once_and_all_else_once_in_ten_seconds() -> None:
    schedule = Schedule()
    schedule.mark(ONE, 1, 0)
    assert schedule.take(0) == ONE
    schedule.wrote(ONE, 1, 0)
    schedule.mark(ONE, 1, 1)
    assert schedule.take(1) is None
    assert schedule.next_s() == EVERY_S
    schedule.mark(ONE, 2, 2)
    assert schedule.take(2) == ONE
    schedule.wrote(ONE, 2, 2)
    schedule.mark(ONE, 2, 3)
    assert schedule.take(11.9) is None
    assert schedule.take(12) == ONE
    assert schedule.take(12) is None
    assert schedule.next_s() == float("inf")


def test_where_copies_go_is_said_within_a_second() -> None:
    schedule, target = Schedule(), Identity("MirrorTarget", None, "zeek")
    schedule.mark(target, 1, 0, TARGET_EVERY_S)
    assert schedule.take(0) == target
    schedule.wrote(target, 1, 0)
    schedule.mark(target, 1, 0.5, TARGET_EVERY_S)
    assert schedule.take(0.9) is None
    assert schedule.take(TARGET_EVERY_S) == target


def test_the_first_word_on_a_generation_waits_for_the_nodes() -> None:
    schedule = Schedule()
    schedule.mark(ONE, 1, 0)
    assert schedule.take(0) == ONE
    assert schedule.waits(ONE, 1, 0)
    schedule.mark(ONE, 1, 0.3)  # a node has said something
    assert schedule.take(0.3) == ONE
    assert schedule.waits(ONE, 1, 0.3)
    assert schedule.take(0.7) is None
    assert schedule.take(NODES_S) == ONE
    assert not schedule.waits(ONE, 1, NODES_S)
    schedule.wrote(ONE, 1, NODES_S)
    assert not schedule.waits(ONE, 1, 1), "the second word keeps to the ten seconds"
    assert schedule.waits(ONE, 2, 5), "another generation, another first word"


def test_what_is_as_it_should_be_may_be_written_at_once_later() -> None:
    schedule = Schedule()
    schedule.mark(ONE, 1, 0)
    schedule.take(0)
    schedule.unchanged(ONE, 1)
    schedule.mark(ONE, 1, 5)
    assert schedule.take(5) == ONE


def test_new_generations_go_first() -> None:
    schedule = Schedule()
    schedule.unchanged(ONE, 1)
    schedule.mark(ONE, 1, 0)
    schedule.mark(TWO, 1, 5)
    assert [schedule.take(5), schedule.take(5)] == [TWO, ONE]


def test_nobody_is_kept_waiting_by_others_of_its_kind() -> None:
    """Namespaces take turns, with new generations and with all else; a change while it waits costs nobody its place."""
    many = [Identity("TrafficMirror", "a", f"m{number:02}") for number in range(100)]
    for known in (0, 1):
        schedule = Schedule()
        for identity in (*many, ONE, TWO):
            schedule.unchanged(identity, known)
            schedule.mark(identity, 1, 1.0 if identity.namespace == "a" else 2.0)
        assert schedule.take(3) == many[0]
        assert schedule.take(3) == ONE
        schedule.mark(TWO, 1, 3)
        assert [schedule.take(4), schedule.take(4), schedule.take(4)] == [many[1], TWO, many[2]]
        assert len(schedule) == 97


@pytest.mark.parametrize("mirrors", [1, 5, 60, 500])
def test_one_tenant_s_edits_do_not_keep_another_waiting(mirrors: int) -> None:
    """240 edits a second in one namespace: what another says, and what nodes say of another's, is written in time."""
    schedule, pace = Schedule(), Pace()
    edited = [Identity("TrafficMirror", "bad", f"m{number}") for number in range(mirrors)]
    generations = dict.fromkeys([*edited, ONE, TWO], 1)
    for identity in generations:
        schedule.wrote(identity, 1, 0)
    schedule.mark(ONE, 1, 5)  # a node has said something: due at 10
    generations[TWO] = 2
    at_s: dict[Identity, list[float]] = {identity: [] for identity in generations}
    edits, now_s = 0, 0.0
    while now_s < 20:
        while edits / 240 <= now_s:
            identity = edited[edits % mirrors]
            generations[identity] += 1
            schedule.mark(identity, generations[identity], now_s)
            edits += 1
        if now_s >= 15 and not at_s[TWO]:
            schedule.mark(TWO, 2, 15)
        if now_s >= pace.next_s and (one := schedule.take(now_s)):
            pace.spend(now_s)
            schedule.wrote(one, generations[one], now_s)
            at_s[one].append(now_s)
        now_s += 0.001
    assert len(at_s[ONE]) == 1
    assert 10 <= at_s[ONE][0] < 10.2, "nor did it come too early"
    assert at_s[TWO][0] < 15.2, "a new generation has its answer within a second"
    assert len(at_s[edited[0]]) <= 20 / FRESH_EVERY_S + 1
    seconds = Counter(int(moment) for moments in at_s.values() for moment in moments)
    assert max(seconds.values()) <= 50


def test_who_edits_all_the_time_hears_of_it_all_the_same() -> None:
    """The first word waits for the nodes, but not for ever."""
    schedule, now_s, generation, written = Schedule(), 0.0, 0, 0
    while now_s < 60:
        generation += 1
        schedule.mark(ONE, generation, now_s)
        if schedule.take(now_s) and not schedule.waits(ONE, generation, now_s):
            schedule.wrote(ONE, generation, now_s)
            written += 1
        now_s += 0.1
    assert 4 <= written <= 6


def test_failures_wait_twice_as_long_each_time() -> None:
    schedule = Schedule()
    schedule.mark(ONE, 1, 0)
    waits = []
    now_s = 0.0
    for _ in range(8):
        assert schedule.take(now_s) == ONE
        schedule.failed(ONE, now_s)
        schedule.mark(ONE, 1, now_s)  # an event meanwhile does not shorten it
        waits.append(schedule.next_s() - now_s)
        now_s = schedule.next_s()
    assert waits == [1, 2, 4, 8, 16, LIMIT_S, LIMIT_S, LIMIT_S]
    schedule.take(now_s)
    schedule.wrote(ONE, 1, now_s)
    schedule.mark(ONE, 2, now_s)
    assert schedule.take(now_s + FRESH_EVERY_S) == ONE


def test_what_is_gone_is_forgotten() -> None:
    schedule = Schedule()
    schedule.mark(ONE, 1, 0)
    schedule.forget(ONE)
    assert len(schedule) == 0
    assert schedule.take(100) is None


def test_at_most_fifty_writes_in_any_second() -> None:
    pace, now_s, done = Pace(), 0.0, []
    while now_s < 10:
        now_s = max(now_s, pace.next_s)
        pace.spend(now_s)
        done.append(now_s)
        now_s += 0.001
    assert max(Counter(int(at_s) for at_s in done).values()) <= 50
    assert len(done) > 480
    pace.pause(now_s + 5)
    assert pace.next_s == now_s + 5


@pytest.mark.parametrize(
    ("nodes", "seconds"), [(0, 0), (49, 0), (50, 1), (51, 2), (100, 2), (101, 4), (1000, 32), (5000, 128)]
)
def test_agents_spread_their_writes_over_so_many_seconds(nodes: int, seconds: int) -> None:
    assert jitter_s(nodes) == seconds
    assert nodes < 50 or nodes / seconds <= 50
