"""What is true of this node, as netlink and the kernel tell it: the input of a compile beside the resources."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from sniffer.model.identity import Identity
from sniffer.plan.cluster import Binding

EARLIEST = datetime.min.replace(tzinfo=UTC)


class PathState(StrEnum):
    """Whether copies for an endpoint can leave."""

    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"
    NO_ROUTE = "no_route"


class Mechanism(StrEnum):
    """How a program is attached to a hook."""

    TCX = "tcx"
    CLSACT = "clsact"


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface of this network namespace."""

    index: int
    name: str
    alias: str | None
    kind: str | None
    """rtnetlink's IFLA_INFO_KIND (veth, bridge, vxlan...), None for a physical device or loopback."""
    mtu: int
    up: bool
    arphrd: int
    """ARPHRD_* of <linux/if_arp.h>; 1 is Ethernet."""
    lower: int | None
    """IFLA_LINK: the device below, or a veth's peer."""
    master: int | None
    address: bytes
    peer: tuple[int, int] | None = None
    """(nsid, ifindex) of a veth's other end where that is in another network namespace that lives."""


@dataclass(frozen=True, slots=True)
class Path:
    """How packets for one endpoint leave this node."""

    address: str
    state: PathState
    device: str | None = None
    ifindex: int = 0
    source: str | None = None
    nexthop: str | None = None
    mtu: int = 0
    """Bytes of the outer IP packet."""
    local: bool = False
    """The address is this node's own."""

    def carried(self) -> "Path":
        """As far as the programs can: an IPv4 route by an IPv6 neighbour is no route to them."""
        if self.nexthop and ":" in self.nexthop and ":" not in self.address:
            return Path(self.address, PathState.NO_ROUTE)
        return self


@dataclass(frozen=True, slots=True)
class Relay:
    """Our private veth pair, by ifindex."""

    sender: int
    receiver: int
    ring: int | None = None
    """Id of the XDP program on the receiving end."""
    faults: tuple[str, ...] = ()
    """What is not as it was made, in words."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One look at the node."""

    now_ns: int
    """CLOCK_MONOTONIC, the clock of leases."""
    lease_ns: int
    links: tuple[Link, ...]
    paths: Mapping[str, Path]
    """By endpoint address; every endpoint of every target is in it."""
    relay: Relay | None
    mechanism: Mechanism
    programs: Mapping[str, int]
    """Ids of the loaded programs, by name; `relay_ring` is not among them where the kernel cannot have it."""
    bindings: Mapping[str, Binding] = field(default_factory=dict)
    """Where the traffic of this node's pods passes, by their uid."""
    time: datetime = EARLIEST
    """The wall clock, for mirrors that end."""
    node: str = ""
    """This node's name."""
    flags: Mapping[Identity, int] = field(default_factory=dict)
    """LEASE_ flags of mirrors whose copies seem to make more copies (plan/storm.py)."""
    stamps: frozenset[int] = frozenset()
    """Devices, by ifindex, that stamp what they send with the time of it (IEEE 1588)."""
    renews: bool = True
    """False: the source has been silent for too long, and leases run out."""
    unclaimed: tuple[int, ...] = ()
    """Ifindexes of veths of pods that have just come: whose they are is not known yet."""
