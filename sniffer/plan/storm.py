"""The circuit breaker: finds mirrors whose copies come back as frames to copy, and stops them.

An analyzer that unwraps copies and sends them on where they are mirrored makes a loop: every frame is copied for ever,
as fast as the machines can. Its counters look like those of a flood, so it is found by two things that no flood does.
First the same frames come again at the same hook (`repeated`, which the programs look for while a busy mirror is
WATCHED). Then the proof: its copies are held back for a moment, and if what matches stops as well, the copies were what
had matched. Twice, since traffic may end just then. Whatever is held back is counted as dropped, reason `storm`.

A loop through several nodes goes on while one of them holds its copies back, for the others' feed it. So whoever is not
through with that is held once more at a moment that all nodes have in common, by their wall clocks, and for longer.

Times are seconds of one clock that only goes forward, but for `wall_s`; counts are packets since the mirror is there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from sniffer.abi.limits import LEASE_HELD, LEASE_WATCHED
from sniffer.model.identity import Identity

BUSY_PER_S = 2000.0
"""Matches a second below which nothing is looked into: such a loop would harm nobody."""
WATCH_S = 1.0
WATCH_EVERY_S = 10.0
"""Looking for repeated frames costs some tens of nanoseconds each: a busy mirror is watched a tenth of the time."""
REPEATED_SHARE = 0.5
DRAIN_S, HOLD_S = 0.05, 0.1
"""Held back, a loop has run dry after the first; what matches then is counted for the second."""
LEFT_SHARE = 0.25
"""Of the matches, while held: above it copies are not what matches."""
JOINT_EVERY_S = 10.0
"""Of the wall clock: at each multiple of it all nodes hold."""
JOINT_DRAIN_S, JOINT_S = 0.5, 1.2
"""Held with others: when counting begins, and when all is over. There is room for agents that are late, as in a storm
they may be, and for clocks that differ."""
PROOFS, PROOFS_S = 2, 30.0
"""So many, within so long of each other; after a storm one is enough."""
ACQUITTED_S, ACQUITTED_MAX_S = 60.0, 3840.0
"""Who has been held for nothing is left alone until the wall clock has a multiple of it, doubled each time: nodes that
did not hold together do so then."""
STOPPED_S, STOPPED_MAX_S = 10.0, 600.0
"""How long a storm's mirror copies nothing; doubled each time."""
FORGET_S = 600.0
"""Without another storm for so long, the next one is the first."""


class Stage(Enum):
    """Where a mirror stands."""

    QUIET = auto()
    WATCHED = auto()
    DRAINED = auto()
    """Held, while what is on its way runs dry."""
    HELD = auto()
    AWAITED = auto()
    """Not held: waits for the moment to be held with others."""
    KEPT = auto()
    """Held on, while others may still count."""
    STOPPED = auto()


_FLAGS = {
    Stage.QUIET: 0,
    Stage.WATCHED: LEASE_WATCHED,
    Stage.DRAINED: LEASE_HELD,
    Stage.HELD: LEASE_HELD,
    Stage.AWAITED: 0,
    Stage.KEPT: LEASE_HELD,
    Stage.STOPPED: LEASE_HELD,
}


_EXACT = {Stage.DRAINED, Stage.HELD, Stage.AWAITED, Stage.KEPT}
"""A second later would be too late."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one mirror."""

    matched: int
    repeated: int


@dataclass(slots=True)
class _Record:
    stage: Stage
    since_s: float
    counts: Counts
    """When the stage began."""
    ends_s: float
    """When it is over, or later."""
    busy_per_s: float = 0.0
    """Matches before it was held."""
    left_per_s: float = 0.0
    """And meanwhile."""
    joint_s: float | None = None
    """When it is held with others; None: alone."""
    proofs: int = 0
    proved_s: float = float("-inf")
    free_until_s: float = float("-inf")
    """Not watched before."""
    acquitted: int = 0
    storms: int = 0
    tried_s: float = 0.0
    """When it was, or will be, tried again after the last of them."""


class Breaker:
    """Told the counts at every look, says who is to be watched, held back or stopped."""

    def __init__(self, held: Iterable[Identity] = ()) -> None:
        """held: whom a former agent had stopped, or held back when it ended."""
        never_s = float("-inf")  # nobody knows when
        self._records = {one: _Record(Stage.STOPPED, never_s, Counts(0, 0), float("inf"), storms=1) for one in held}

    def look(self, counts: Mapping[Identity, Counts], now_s: float, wall_s: float) -> Mapping[Identity, int]:
        """The LEASE_ flags of those who have some. Whoever is in no counts is forgotten.

        wall_s: by a clock that all nodes share, more or less, and that may jump.
        """
        self._records = {
            one: self._records.get(one) or _Record(Stage.QUIET, now_s, found, now_s + WATCH_S)
            for one, found in counts.items()
        }
        for identity, record in self._records.items():
            if record.since_s == float("-inf"):
                record.since_s, record.ends_s = now_s, now_s + STOPPED_S
            if now_s >= record.ends_s:
                _step(record, counts[identity], now_s, wall_s)
        return {one: flags for one, record in self._records.items() if (flags := _FLAGS[record.stage])}

    def stopped(self, now_s: float) -> Mapping[Identity, float]:
        """In how many seconds each mirror that is stopped is tried again."""
        return {
            one: max(record.ends_s - now_s, 0) for one, record in self._records.items() if record.stage is Stage.STOPPED
        }

    def wait_s(self, now_s: float) -> float | None:
        """How soon to look again; None: in a second is soon enough."""
        ends_s = min((one.ends_s for one in self._records.values() if one.stage in _EXACT), default=None)
        return None if ends_s is None else max(ends_s - now_s, 0.0)


def _step(record: _Record, counts: Counts, now_s: float, wall_s: float) -> None:
    """What comes after a stage that is over."""
    matched = counts.matched - record.counts.matched
    rate = matched / max(now_s - record.since_s, 1e-3)
    match record.stage:
        case Stage.QUIET:
            _forget(record, now_s)
            busy = rate >= BUSY_PER_S and now_s >= record.free_until_s
            _enter(record, Stage.WATCHED if busy else Stage.QUIET, counts, now_s, now_s + WATCH_S)
        case Stage.WATCHED:
            repeated = counts.repeated - record.counts.repeated
            suspect = rate >= BUSY_PER_S and repeated >= REPEATED_SHARE * matched
            record.busy_per_s = rate
            _watched(record, suspect, counts, now_s, wall_s)
        case Stage.AWAITED:
            _enter(record, Stage.DRAINED, counts, now_s, max(record.ends_s + JOINT_DRAIN_S, now_s + DRAIN_S))
        case Stage.DRAINED:
            _enter(record, Stage.HELD, counts, now_s, now_s + HOLD_S)
        case Stage.HELD:
            record.left_per_s = rate
            if record.joint_s is None:
                _judge(record, counts, now_s, wall_s)
            else:
                _enter(record, Stage.KEPT, counts, now_s, record.joint_s + JOINT_S)
        case Stage.KEPT:
            _judge(record, counts, now_s, wall_s)
        case Stage.STOPPED:
            _enter(record, Stage.WATCHED, counts, now_s, now_s + WATCH_S)


def _watched(record: _Record, suspect: bool, counts: Counts, now_s: float, wall_s: float) -> None:
    if not suspect:
        if not record.proofs:
            record.free_until_s = now_s + WATCH_EVERY_S - WATCH_S
        _enter(record, Stage.QUIET, counts, now_s, now_s + WATCH_S)
    elif record.joint_s is None:
        _enter(record, Stage.DRAINED, counts, now_s, now_s + DRAIN_S)
    else:
        _await(record, counts, now_s, wall_s)


def _judge(record: _Record, counts: Counts, now_s: float, wall_s: float) -> None:
    """What the matches did while the copies were held back."""
    if record.left_per_s <= LEFT_SHARE * record.busy_per_s:
        record.proofs, record.proved_s = record.proofs + 1, now_s
        if record.proofs < PROOFS and not record.storms:
            _enter(record, Stage.WATCHED, counts, now_s, now_s + WATCH_S)
            return
        record.tried_s = now_s + min(STOPPED_S * 2**record.storms, STOPPED_MAX_S)
        record.joint_s, record.proofs, record.storms = None, 0, min(record.storms + 1, 10)
        _enter(record, Stage.STOPPED, counts, now_s, record.tried_s)
    elif record.joint_s is None:
        record.proofs = 0
        _await(record, counts, now_s, wall_s)
    else:
        alone_s = min(ACQUITTED_S * 2**record.acquitted, ACQUITTED_MAX_S)
        record.free_until_s, record.acquitted = _next_s(alone_s, now_s, wall_s), min(record.acquitted + 1, 10)
        record.joint_s, record.proofs, record.storms = None, 0, 0
        _enter(record, Stage.QUIET, counts, now_s, now_s + WATCH_S)


def _await(record: _Record, counts: Counts, now_s: float, wall_s: float) -> None:
    record.joint_s = _next_s(JOINT_EVERY_S, now_s, wall_s)
    _enter(record, Stage.AWAITED, counts, now_s, record.joint_s)


def _forget(record: _Record, now_s: float) -> None:
    """What is too long ago."""
    if now_s - record.tried_s > FORGET_S:
        record.storms = 0
    if now_s - record.proved_s > PROOFS_S:
        record.proofs, record.joint_s = 0, None


def _next_s(every_s: float, now_s: float, wall_s: float) -> float:
    """When the wall clock has a multiple of `every_s`."""
    return now_s + every_s - wall_s % every_s


def _enter(record: _Record, stage: Stage, counts: Counts, now_s: float, ends_s: float) -> None:
    record.stage, record.since_s, record.counts, record.ends_s = stage, now_s, counts, ends_s
