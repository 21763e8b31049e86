"""Losses by sequence number, much as RFC 3550 (A.1) has them: what comes late is not lost, and senders start anew."""

from dataclasses import dataclass

SPACE = 1 << 32
WINDOW = 4096
"""How far behind the highest number one may arrive and still be only late."""
JUMP = 1 << 24
"""Numbers ahead: as many may be lost at once; farther, the sender has started anew."""
RESTART_LENGTH, RESTART_LENGTH_NEAR = 4, 32
"""Numbers, all out of place, that ascend in steps of at most RESTART_STEP and so make a new start; the second for those
within the window, where a network that doubles packets looks alike."""
RESTART_STEP = 16


@dataclass(slots=True)
class _Run:
    """Numbers that fit nowhere and follow one another."""

    last: int
    length: int = 1
    skipped: int = 0
    near: int = 0


class Sequence:
    """The numbers of one sender and key: 32 bits, one more with each packet."""

    def __init__(self) -> None:
        self.received = 0
        self.late = 0
        """Arrived after a higher one."""
        self.duplicates = 0
        self.restarts = 0
        self._gone = 0
        self._missing: dict[int, None] = {}  # in the order of the numbers
        self._highest = -1
        self._run: _Run | None = None

    @property
    def lost(self) -> int:
        """Numbers below the highest that have not arrived so far."""
        return self._gone + len(self._missing)

    def add(self, number: int) -> None:
        """Counts a packet that arrived."""
        self.received += 1
        if self._highest < 0:
            self._highest = number
            return
        ahead = (number - self._highest) % SPACE
        if ahead == 1:
            self._highest = number
            self._run = None
            if self._missing:
                self._forget()
        elif 1 < ahead <= JUMP:
            self._skip(ahead)
            self._highest = number
            self._run = None
        elif number in self._missing:
            del self._missing[number]
            self.late += 1
            self._run = None
        else:
            self._stray(number, SPACE - ahead)

    def _skip(self, ahead: int) -> None:
        kept = min(ahead - 1, WINDOW)
        if kept == WINDOW:
            self._gone += len(self._missing)
            self._missing.clear()
        self._gone += ahead - 1 - kept
        first = self._highest + ahead - kept
        self._missing.update(((number % SPACE), None) for number in range(first, first + kept))
        self._highest = (self._highest + ahead) % SPACE
        self._forget()

    def _forget(self) -> None:
        """Numbers that are too old to be awaited are lost for good."""
        while self._missing and (self._highest - (oldest := next(iter(self._missing)))) % SPACE > WINDOW:
            del self._missing[oldest]
            self._gone += 1

    def _stray(self, number: int, behind: int) -> None:
        """One that came already, or that is far from all others: the first of a new start, if more follow."""
        run = self._run
        step = (number - run.last) % SPACE if run else 0
        if run and 0 < step <= RESTART_STEP:
            run.last, run.length, run.skipped = number, run.length + 1, run.skipped + step - 1
        else:
            run = self._run = _Run(number)
        if behind % SPACE <= WINDOW:
            run.near += 1
            self.duplicates += 1
        if run.length >= (RESTART_LENGTH_NEAR if run.near else RESTART_LENGTH):
            self.restarts += 1
            self.duplicates -= run.near
            self._gone += len(self._missing) + run.skipped
            self._missing.clear()
            self._highest = number
            self._run = None
