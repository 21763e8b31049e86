"""What is known of our attachments without reading them all at every look.

The kernel tells of each only under its one lock of links, which is held for long where pods come and go, and says
nothing when a TCX link is detached. So they are read once in a while; in between they are what we made of them, where
the interface is still there.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from sniffer.abi.records import Hook
from sniffer.plan import ops
from sniffer.plan.facts import Link
from sniffer.plan.state import Attachment

QUIET_S, BUSY_S = 0.9, 5.0
"""How long they are taken for true while the interfaces stay as they are, and while they do not."""


class Pace:
    """When they are read: the reader's."""

    def __init__(self) -> None:
        self._links: tuple[Link, ...] = ()
        self._read_ns: int | None = None

    def read(self, links: tuple[Link, ...], now_ns: int) -> None:
        """They were just read, beside these interfaces."""
        self._links, self._read_ns = links, now_ns

    def due(self, links: tuple[Link, ...], ours: Collection[int], now_ns: int) -> bool:
        """Whether it is time. ours: the ifindexes of what we are attached to."""
        quiet = links == self._links
        if self._read_ns is None or now_ns - self._read_ns > (QUIET_S if quiet else BUSY_S) * 1e9:
            return True
        before = {link.index: (link.name, link.address) for link in self._links if link.index in ours}
        self._links = links
        # Perhaps another that has its index.
        return any(before.get(link.index, known) != known for link in links for known in [(link.name, link.address)])


class Attached:
    """What they are: the loop's. Those of interfaces that are gone have program 0."""

    def __init__(self, programs: Mapping[str, int]) -> None:
        """programs: ids by name."""
        self._programs = programs
        self._found: dict[Hook, Attachment] | None = None
        self._since: list[tuple[ops.Plan, bool]] = []

    def begin(self) -> None:
        """They may be read from now on: what is done meanwhile comes on top of it."""
        self._since = []

    def read(self, found: Mapping[Hook, Attachment]) -> None:
        """They were read, since `begin`."""
        self._found = dict(found)
        for plan, failed in self._since:
            self._apply(plan, failed)

    def seen(self, links: Iterable[Link]) -> None:
        """Only these interfaces are left."""
        present, found = {link.index for link in links}, self._found or {}
        for hook, attachment in found.items():
            if hook.ifindex not in present:
                found[hook] = replace(attachment, program=0)

    def forget(self) -> None:
        """Something went wrong: only the kernel knows."""
        self._found = None

    def last(self) -> Mapping[Hook, Attachment] | None:
        """None: they have to be read."""
        return None if self._found is None else dict(self._found)

    def applied(self, plan: ops.Plan, failed: Iterable[Hook]) -> None:
        """What was done meanwhile; failed: hooks that could not be attached to."""
        self._since.append((plan, any(failed)))
        self._apply(*self._since[-1])

    def _apply(self, plan: ops.Plan, failed: bool) -> None:
        if self._found is None:
            return
        for op in plan:
            match op:
                case ops.Attach(hook, mechanism, program):
                    self._found[hook] = Attachment(mechanism, self._programs[program])
                case ops.Detach(hook, _):
                    self._found.pop(hook, None)
                case ops.CreateRelay():
                    failed = True
        if failed:
            self._found = None
