"""When a status is written: what its owner changed at once, everything else at most once in ten seconds.

That of a target says where copies go, and waits for a second only: an analyzer that ends is gone soon.

Times are seconds of one clock that only goes forward.
"""

from dataclasses import dataclass

from sniffer.model.identity import Identity

EVERY_S = 10.0
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


class Schedule:
    """Which object is looked at next."""

    def __init__(self) -> None:
        self._due: dict[Identity, tuple[bool, float]] = {}
        self._writes: dict[Identity, _Writes] = {}

    def __len__(self) -> int:
        """How many wait to be looked at."""
        return len(self._due)

    def mark(self, identity: Identity, generation: int, now_s: float, every_s: float = EVERY_S) -> None:
        """It may have to be written. every_s: how often at most, what its owner changes aside."""
        writes = self._writes.setdefault(identity, _Writes())
        fresh = generation != writes.generation
        due_s = now_s if fresh else max(now_s, writes.at_s + every_s)
        self._due[identity] = (not fresh, max(due_s, writes.not_before_s))

    def take(self, now_s: float) -> Identity | None:
        """One that is due, those first whose generation is new; it is no longer marked."""
        ready = [(late, due_s, identity) for identity, (late, due_s) in self._due.items() if due_s <= now_s]
        if not ready:
            return None
        chosen = min(ready)[2]
        del self._due[chosen]
        return chosen

    def waits(self, identity: Identity, generation: int, now_s: float) -> bool:
        """Whether the first word on a generation is put off for what the nodes say of it."""
        writes = self._writes.setdefault(identity, _Writes())
        if generation == writes.generation:
            return False
        if writes.looked != generation:
            writes.looked, writes.since_s = generation, now_s
        until_s = writes.since_s + NODES_S
        if now_s >= until_s:
            return False
        self._due[identity] = (False, until_s)
        return True

    def next_s(self) -> float:
        """When something is due; inf: nothing is marked."""
        return min((due_s for _, due_s in self._due.values()), default=float("inf"))

    def wrote(self, identity: Identity, generation: int, now_s: float) -> None:
        """It was written."""
        self._writes[identity] = _Writes(generation, now_s)

    def unchanged(self, identity: Identity, generation: int) -> None:
        """It was as it should be."""
        writes = self._writes.setdefault(identity, _Writes())
        writes.generation, writes.failures = generation, 0

    def failed(self, identity: Identity, now_s: float, first_s: float = 1.0) -> None:
        """It could not be written: later again, after twice as long each time."""
        writes = self._writes.setdefault(identity, _Writes())
        wait_s = min(first_s * 2**writes.failures, LIMIT_S)
        writes.failures = min(writes.failures + 1, 10)
        writes.not_before_s = now_s + wait_s
        self._due[identity] = (False, writes.not_before_s)

    def forget(self, identity: Identity) -> None:
        """It is gone."""
        self._due.pop(identity, None)
        self._writes.pop(identity, None)


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
