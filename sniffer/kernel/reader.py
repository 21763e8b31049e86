"""What is read of a node under the kernel's one lock of links, which is held for long where pods come and go.

It only reads (but for asking after neighbours), with sockets of its own, and hands on values: any thread may do it, one
at a time.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from sniffer.abi.records import Hook
from sniffer.errors import KernelError
from sniffer.kernel import bpf
from sniffer.kernel.attached import BUSY_S, QUIET_S, Pace
from sniffer.kernel.netlink import Device, Netlink
from sniffer.kernel.netns import Namespaces
from sniffer.kernel.observe import attachments_of, relay_hooks, relay_of
from sniffer.kernel.pins import Pins
from sniffer.kernel.stamps import Stamps
from sniffer.plan.binding import Horizon
from sniffer.plan.facts import Link, Mechanism, Path, PathState, Relay
from sniffer.plan.select import RELAY_LINKS
from sniffer.plan.state import Attachment

PROBE_S = 1.0
"""How often the kernel is asked again for a neighbour that does not answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be read besides the links."""

    addresses: Collection[str]
    """Of endpoints."""
    hooks: Collection[Hook]
    """Where programs of ours may be attached."""
    horizon: Horizon
    """What is known already; namespaces that turned up since are added."""
    everything: bool
    """Also what is read once in a while only: relay and attachments."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer."""

    links: tuple[Link, ...]
    horizon: Horizon
    paths: Mapping[str, Path]
    relay: Relay | None
    stamps: frozenset[int]
    attachments: Mapping[Hook, Attachment] | None
    """None: they were not read this time."""


class Reader:
    """Knows what it read when."""

    def __init__(self, pins: Pins, namespaces: Namespaces, mechanism: Mechanism, *, probes: bool) -> None:
        """probes: whether to have the kernel resolve the nexthops that are not. Attachments are read of TCX only."""
        self._pins = pins
        self._namespaces = namespaces
        self._mechanism = mechanism
        self._probes = probes
        self._netlink = Netlink()
        self._probed: dict[str, int] = {}
        self._stamps = Stamps()
        self._pace = Pace()
        self._links: tuple[Link, ...] = ()
        self._relay: tuple[int, tuple[Link, ...], Relay | None] | None = None
        """When it was looked at, its links, and what was found."""

    def close(self) -> None:
        """Closes the sockets."""
        self._netlink.close()

    def read(self, question: Question) -> Reading:
        """KernelError; MachineError: links of others have the relay's names."""
        known = question.horizon.namespaces | self._namespaces.keys()  # before the links: see plan/binding.py
        devices = self._netlink.devices()
        links = tuple(link for link, _, _ in devices.values())
        now_ns = bpf.monotonic_ns()
        paths = {address: self._netlink.path_to(address, devices).carried() for address in question.addresses}
        if self._probes:
            self._probe(paths.values(), now_ns)
        relay = self._relay_of(devices.values(), now_ns, everything=question.everything, quiet=links == self._links)
        self._links = links
        return Reading(
            links=links,
            horizon=Horizon(known, question.horizon.look),
            paths=paths,
            relay=relay,
            stamps=self._stamps.of(links),
            attachments=self._attachments(question, relay, links, now_ns),
        )

    def _probe(self, paths: Iterable[Path], now_ns: int) -> None:
        for path in paths:
            due = now_ns - self._probed.get(path.address, 0) > PROBE_S * 0.9e9
            if path.state == PathState.UNREACHABLE and path.nexthop and due:
                self._probed[path.address] = now_ns
                # A table of neighbours that is full, a device that can have none, or is gone: others have to go on.
                with suppress(KernelError):
                    self._netlink.probe_neighbour(path.ifindex, path.nexthop)

    def _relay_of(self, devices: Iterable[Device], now_ns: int, *, everything: bool, quiet: bool) -> Relay | None:
        """Its offloads are asked for once in a while only: see kernel/attached.py."""
        ends = tuple(link for link, _, _ in devices if link.name in RELAY_LINKS)
        good_ns = (QUIET_S if quiet else BUSY_S) * 1e9
        if everything or self._relay is None or self._relay[1] != ends or now_ns - self._relay[0] > good_ns:
            self._relay = now_ns, ends, relay_of(self._netlink, self._pins, devices)
        return self._relay[2]

    def _attachments(
        self, question: Question, relay: Relay | None, links: tuple[Link, ...], now_ns: int
    ) -> Mapping[Hook, Attachment] | None:
        """The kernel tells of a clsact filter that goes: those are looked at every time, by the loop."""
        due = self._pace.due(links, {hook.ifindex for hook in question.hooks}, now_ns)
        if self._mechanism != Mechanism.TCX or not (due or question.everything):
            return None
        found = attachments_of(self._pins, self._netlink, {*question.hooks, *(relay_hooks(relay) if relay else ())})
        self._pace.read(links, now_ns)
        return found
