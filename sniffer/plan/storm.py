"""The circuit breaker: finds mirrors whose copies come back as frames to copy, and stops them.

An analyzer that unwraps copies and sends them on where they are mirrored makes a loop: every frame is copied for ever,
as fast as the machines can. Its counters look like those of a flood, so it is found by two things that no flood does.
First the same frames come again at the same hook (`repeated`, which the programs look for while a busy mirror is
WATCHED). Then the proof: its copies are held back for a moment, and if what matches stops as well, the copies were what
had matched. Twice, since traffic may end just then. Whatever is held back is counted as dropped, reason `storm`.

Times are seconds of one clock that only goes forward; counts are packets since the mirror is there.
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
PROOFS, PROOFS_S = 2, 30.0
"""So many, within so long of each other; after a storm one is enough."""
ACQUITTED_S, ACQUITTED_MAX_S = 60.0, 3600.0
"""How long somebody who has been held for nothing is left alone; doubled each time."""
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
    STOPPED = auto()


_FLAGS = {
    Stage.QUIET: 0,
    Stage.WATCHED: LEASE_WATCHED,
    Stage.DRAINED: LEASE_HELD,
    Stage.HELD: LEASE_HELD,
    Stage.STOPPED: LEASE_HELD,
}


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
    busy_per_s: float = 0.0
    """Before it was held."""
    proofs: int = 0
    proved_s: float = float("-inf")
    free_until_s: float = float("-inf")
    """Not watched before."""
    acquitted: int = 0
    storms: int = 0
    until_s: float = 0.0
    """Of STOPPED."""


class Breaker:
    """Told the counts at every look, says who is to be watched, held back or stopped."""

    def __init__(self, held: Iterable[Identity] = ()) -> None:
        """held: whom a former agent had stopped, or held back when it ended."""
        self._records = {
            one: _Record(Stage.STOPPED, float("-inf"), Counts(0, 0), storms=1, until_s=float("inf")) for one in held
        }

    def look(self, counts: Mapping[Identity, Counts], now_s: float) -> Mapping[Identity, int]:
        """The LEASE_ flags of those who have some. Whoever is in no counts is forgotten."""
        self._records = {
            one: self._records.get(one) or _Record(Stage.QUIET, now_s, found) for one, found in counts.items()
        }
        for identity, record in self._records.items():
            _step(record, counts[identity], now_s)
        return {one: flags for one, record in self._records.items() if (flags := _FLAGS[record.stage])}

    def stopped(self, now_s: float) -> Mapping[Identity, float]:
        """In how many seconds each mirror that is stopped is tried again."""
        return {
            one: max(record.until_s - now_s, 0)
            for one, record in self._records.items()
            if record.stage is Stage.STOPPED
        }

    def wait_s(self) -> float | None:
        """How soon to look again; None: in a second is soon enough."""
        stages = {record.stage for record in self._records.values()}
        if Stage.DRAINED in stages:
            return DRAIN_S
        return HOLD_S if Stage.HELD in stages else None


def _step(record: _Record, counts: Counts, now_s: float) -> None:
    took_s = now_s - record.since_s
    matched = counts.matched - record.counts.matched
    rate = matched / took_s if took_s > 0 else 0.0
    match record.stage:
        case Stage.QUIET if took_s >= WATCH_S:
            busy = rate >= BUSY_PER_S and now_s >= record.free_until_s
            _enter(record, Stage.WATCHED if busy else Stage.QUIET, counts, now_s)
            if now_s - record.until_s > FORGET_S:
                record.storms = 0
            if now_s - record.proved_s > PROOFS_S:
                record.proofs = 0
        case Stage.WATCHED if took_s >= WATCH_S:
            repeated = counts.repeated - record.counts.repeated
            suspect = rate >= BUSY_PER_S and repeated >= REPEATED_SHARE * matched
            if suspect:
                record.busy_per_s = rate
            elif not record.proofs:
                record.free_until_s = now_s + WATCH_EVERY_S - WATCH_S
            _enter(record, Stage.DRAINED if suspect else Stage.QUIET, counts, now_s)
        case Stage.DRAINED if took_s >= DRAIN_S:
            _enter(record, Stage.HELD, counts, now_s)
        case Stage.HELD if took_s >= HOLD_S:
            _judge(record, rate, counts, now_s)
        case Stage.STOPPED:
            if record.since_s == float("-inf"):  # by a former agent: nobody knows when
                record.since_s, record.until_s = now_s, now_s + STOPPED_S
            if now_s >= record.until_s:
                _enter(record, Stage.WATCHED, counts, now_s)


def _judge(record: _Record, rate: float, counts: Counts, now_s: float) -> None:
    """What the matches did while the copies were held back."""
    if rate > LEFT_SHARE * record.busy_per_s:
        record.proofs = record.storms = 0
        alone_s = min(ACQUITTED_S * 2**record.acquitted, ACQUITTED_MAX_S)
        record.free_until_s, record.acquitted = now_s + alone_s, min(record.acquitted + 1, 10)
        _enter(record, Stage.QUIET, counts, now_s)
        return
    record.proofs, record.proved_s = record.proofs + 1, now_s
    if record.proofs < PROOFS and not record.storms:
        _enter(record, Stage.WATCHED, counts, now_s)
        return
    record.until_s = now_s + min(STOPPED_S * 2**record.storms, STOPPED_MAX_S)
    record.proofs = 0
    record.storms = min(record.storms + 1, 10)
    _enter(record, Stage.STOPPED, counts, now_s)


def _enter(record: _Record, stage: Stage, counts: Counts, now_s: float) -> None:
    record.stage, record.since_s, record.counts = stage, now_s, counts
