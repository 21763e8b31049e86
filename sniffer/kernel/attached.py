"""What is known of our attachments without reading them all at every look.

The kernel tells of each only under its one lock of links, which is held for long where pods come and go, and says
nothing when a TCX link is detached. So they are read once in a while; in between they are what we made of them, where
the interface is still there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from sniffer.abi.records import Hook
from sniffer.plan import ops
from sniffer.plan.facts import Link
from sniffer.plan.state import Attachment

QUIET_S, BUSY_S = 0.9, 5.0
"""How long they are taken for true while the interfaces stay as they are, and while they do not."""


class Attached:
    """TCX links; those of interfaces that are gone have program 0."""

    def __init__(self, programs: Mapping[str, int]) -> None:
        """programs: ids by name."""
        self._programs = programs
        self._found: dict[Hook, Attachment] | None = None
        self._links: tuple[Link, ...] = ()
        self._read_ns = 0

    def read(self, found: Mapping[Hook, Attachment], links: tuple[Link, ...], now_ns: int) -> None:
        """They were just read, beside these interfaces."""
        self._found, self._links, self._read_ns = dict(found), links, now_ns

    def forget(self) -> None:
        """Something went wrong: only the kernel knows."""
        self._found = None

    def known(self, links: tuple[Link, ...], now_ns: int) -> Mapping[Hook, Attachment] | None:
        """None: they have to be read."""
        quiet = links == self._links
        if self._found is None or now_ns - self._read_ns > (QUIET_S if quiet else BUSY_S) * 1e9:
            return None
        if not quiet:
            now = {link.index: (link.name, link.address) for link in links}
            before = {link.index: (link.name, link.address) for link in self._links}
            for hook, attachment in self._found.items():
                if hook.ifindex not in now:
                    self._found[hook] = replace(attachment, program=0)
                elif before.get(hook.ifindex, now[hook.ifindex]) != now[hook.ifindex]:
                    return None  # perhaps another that has its index
            self._links = links
        return dict(self._found)

    def last(self) -> Mapping[Hook, Attachment] | None:
        """The same, however long ago they were read."""
        return None if self._found is None else dict(self._found)

    def applied(self, plan: Iterable[ops.Op], failed: Iterable[Hook]) -> None:
        """What was done meanwhile; failed: hooks that could not be attached to."""
        if self._found is None:
            return
        for op in plan:
            match op:
                case ops.Attach(hook, mechanism, program):
                    self._found[hook] = Attachment(mechanism, self._programs[program])
                case ops.Detach(hook, _):
                    self._found.pop(hook, None)
                case ops.CreateRelay():
                    self._found = None
                    return
        if any(failed):
            self._found = None
