"""Analyzers that refuse copies with ICMP errors: found without a program on an uplink, but for seconds of doubt.

The node's own counters of ICMP errors cost nothing to read, and do not say what the errors are about. Where they grow
again and again, hooks without a list watch the uplinks for a moment (guard REFUSALS): the programs count, by analyzer,
the errors that quote a copy. What is found holds while the node's counters go on growing, and is looked at again now
and then.

Hosts send few errors for many copies (Linux one a second to each address), so few are enough. Anybody can forge them:
nothing but a status comes of it.

Times are seconds of one clock that only goes forward.
"""

from collections.abc import Mapping

from sniffer.abi.limits import OuterKind
from sniffer.abi.records import OuterKey

GROWS_WITHIN_S = 5.0
"""Between two looks that find more errors than the one before, for a suspicion."""
WATCH_S, LOOKS = 3.0, 3
"""How long, and how often at least on a node that is too busy to look in time."""
QUIET_S = 5.0
"""Without any ICMP error nobody refuses any more."""
AGAIN_S = 30.0
"""How often who refuses is watched again, to see who still does."""
ALONE_S, ALONE_MAX_S = 60.0, 3600.0
"""How long errors that were about something else are not looked into again; doubled each time."""


class Refusals:
    """Told the counters at every look, says whether to watch, and who refuses."""

    def __init__(self) -> None:
        self.watching = False
        self.rejecting: frozenset[OuterKey] = frozenset()
        """Headers of analyzers."""
        self._errors: int | None = None
        self._grew_s = float("-inf")
        self._since_s = 0.0
        self._next_s = float("-inf")
        self._alone_s = ALONE_S
        self._before: Mapping[OuterKey, int] | None = None
        """At the last look of this watch."""
        self._found: frozenset[OuterKey] = frozenset()
        self._looks = 0

    def look(self, errors: int, refused: Mapping[OuterKey, int], now_s: float) -> None:
        """errors: ICMP errors the node has received; refused: those that quote a copy, by its header, while watched.
        Only that they grow matters.
        """
        grew = self._errors is not None and errors != self._errors
        self._errors = errors
        if self.watching:
            self._watch(refused, now_s)
        elif grew and now_s - self._grew_s <= GROWS_WITHIN_S and now_s >= self._next_s:
            self.watching, self._since_s, self._looks = True, now_s, 0
            self._found, self._before = frozenset(), None
        if grew:
            self._grew_s = now_s
        elif self.rejecting and now_s - self._grew_s > QUIET_S:
            self.rejecting, self._next_s = frozenset(), now_s

    def _watch(self, refused: Mapping[OuterKey, int], now_s: float) -> None:
        before = refused if self._before is None else self._before
        # A header that was not counted before is new, and begins with 1.
        grown = (key for key, count in refused.items() if count != before.get(key, 1))
        self._found |= {key for key in grown if key.kind == OuterKind.HEADER}
        self._before, self._looks = refused, self._looks + 1
        self.rejecting |= self._found
        if now_s - self._since_s < WATCH_S or self._looks < LOOKS:
            return
        self.watching, self.rejecting = False, self._found
        if self._found:
            self._next_s, self._alone_s = now_s + AGAIN_S, ALONE_S
        else:
            self._next_s, self._alone_s = now_s + self._alone_s, min(2 * self._alone_s, ALONE_MAX_S)
