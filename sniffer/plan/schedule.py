"""When a status is written: what its owner changed within half a second, everything else at most once in ten seconds.

That of a target says where copies go, and waits for a second only: an analyzer that ends is gone soon.

Nobody's edits, however many, keep others waiting: namespaces take turns, and of four writes one is for what no edit is
the cause of.

Times are seconds of one clock that only goes forward.
"""

from dataclasses import dataclass

from sniffer.model.identity import Identity

EVERY_S = 10.0
FRESH_EVERY_S = 0.5
"""An object that is edited all the time is written so often: each edit has its answer within a second."""
FRESH_IN_A_ROW = 3
"""Of new generations, while something else is due."""
TARGET_EVERY_S = 1.0
NODES_S = 0.8
"""The first word on a generation waits so long for those of the nodes: else it would be old at once, and stand long."""
WRITES_PER_S = 49.0
"""With the renewals of the lease, fifty."""
LIMIT_S = 30.0


@dataclass(slots=True)
class _Writes:
    """Of one object: what was written last, and what went wrong since."""

    generation: int = -1
    at_s: float = float("-inf")
    failures: int = 0
    not_before_s: float = float("-inf")
    looked: int = -1
    """The generation that was first looked at `since_s`."""
    since_s: float = 0
    unanswered_s: float = float("inf")
    """When the first generation was looked at that has no word yet."""


@dataclass(frozen=True, slots=True)
class _Due:
    fresh: bool
    """Its generation is new."""
    at_s: float


class Schedule:
    """Which object is looked at next."""

    def __init__(self) -> None:
        self._due: dict[Identity, _Due] = {}
        self._writes: dict[Identity, _Writes] = {}
        self._in_a_row = 0
        self._takes = 0
        self._turns: dict[tuple[str, bool], int] = {}
        """Whose turn was when: the number of the take."""

    def __len__(self) -> int:
        """How many wait to be looked at."""
        return len(self._due)

    def mark(self, identity: Identity, generation: int, now_s: float, every_s: float = EVERY_S) -> None:
        """It may have to be written. every_s: how often at most, what its owner changes aside."""
        writes = self._writes.setdefault(identity, _Writes())
        fresh = generation != writes.generation
        due_s = max(now_s, writes.at_s + (FRESH_EVERY_S if fresh else every_s))
        if identity in self._due:
            due_s = min(due_s, self._due[identity].at_s)  # who is changed while it waits loses no place by it
        self._due[identity] = _Due(fresh, max(due_s, writes.not_before_s))

    def take(self, now_s: float) -> Identity | None:
        """One that is due; it is no longer marked.

        New generations first, three in a row while something else is due; of either the namespace whose turn is longest
        ago; there what is due longest.
        """
        ready = [(due, identity) for identity, due in self._due.items() if due.at_s <= now_s]
        if not ready:
            return None
        kinds = {due.fresh for due, _ in ready}
        fresh = True in kinds and (len(kinds) == 1 or self._in_a_row < FRESH_IN_A_ROW)
        self._in_a_row = self._in_a_row + 1 if fresh and len(kinds) > 1 else 0
        _, _, chosen = min((self._turn(one, fresh), due.at_s, one) for due, one in ready if due.fresh == fresh)
        if len(ready) == 1:
            self._turns.clear()  # nobody else waits
        self._takes += 1
        self._turns[_whose(chosen), fresh] = self._takes
        del self._due[chosen]
        return chosen

    def _turn(self, identity: Identity, fresh: bool) -> int:
        return self._turns.get((_whose(identity), fresh), 0)

    def waits(self, identity: Identity, generation: int, now_s: float) -> bool:
        """Whether the first word on a generation is put off for what the nodes say of it."""
        writes = self._writes.setdefault(identity, _Writes())
        if generation == writes.generation:
            return False
        if writes.looked != generation:
            writes.looked, writes.since_s = generation, now_s
        writes.unanswered_s = min(writes.unanswered_s, now_s)
        until_s = min(writes.since_s + NODES_S, writes.unanswered_s + EVERY_S)
        if now_s >= until_s:
            return False
        self._due[identity] = _Due(True, until_s)
        return True

    def next_s(self) -> float:
        """When something is due; inf: nothing is marked."""
        return min((due.at_s for due in self._due.values()), default=float("inf"))

    def wrote(self, identity: Identity, generation: int, now_s: float) -> None:
        """It was written."""
        self._writes[identity] = _Writes(generation, now_s)

    def unchanged(self, identity: Identity, generation: int) -> None:
        """It was as it should be."""
        writes = self._writes.setdefault(identity, _Writes())
        writes.generation, writes.failures, writes.unanswered_s = generation, 0, float("inf")

    def failed(self, identity: Identity, now_s: float, first_s: float = 1.0) -> None:
        """It could not be written: later again, after twice as long each time."""
        writes = self._writes.setdefault(identity, _Writes())
        wait_s = min(first_s * 2**writes.failures, LIMIT_S)
        writes.failures = min(writes.failures + 1, 10)
        writes.not_before_s = now_s + wait_s
        self._due[identity] = _Due(True, writes.not_before_s)

    def forget(self, identity: Identity) -> None:
        """It is gone."""
        self._due.pop(identity, None)
        self._writes.pop(identity, None)


def _whose(identity: Identity) -> str:
    return identity.namespace or identity.kind


class Pace:
    """At most so many writes a second in all."""

    def __init__(self, per_s: float = WRITES_PER_S) -> None:
        self._each_s = 1 / per_s
        self.next_s = float("-inf")
        """When the next one may be."""

    def spend(self, now_s: float) -> None:
        """One is done now."""
        self.next_s = now_s + self._each_s

    def pause(self, until_s: float) -> None:
        """None before this time."""
        self.next_s = max(self.next_s, until_s)
