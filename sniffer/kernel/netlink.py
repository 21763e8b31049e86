"""The one door to pyroute2: links, routes, neighbours, qdiscs, offloads of the network namespace that we are in.

Questions go through kernel/rtnetlink.py, changes through pyroute2. Everything is synchronous and needs no thread.
"""

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pyroute2 import IPRoute, NetlinkError
from pyroute2.ethtool.ioctl import IoctlEthtool, NoSuchDevice, NotSupportedError

from sniffer.abi.limits import Direction
from sniffer.errors import KernelError
from sniffer.kernel import clsact, relay, rtnetlink
from sniffer.kernel import monitor as events
from sniffer.kernel.rtnetlink import Attributes, attribute, attributes, s32, text, u32
from sniffer.plan.facts import Link, Path, PathState, Relay

_UP, _LOOPBACK, _POINT_TO_POINT, _NOARP = 0x1, 0x8, 0x10, 0x80  # IFF_*
_LINK_HEADER = struct.Struct("=BxHiII")  # struct ifinfomsg
_ROUTE_HEADER = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_NEIGHBOUR_HEADER = struct.Struct("=BxxxiHBB")  # struct ndmsg
_TRAFFIC_HEADER = struct.Struct("=BxxxiIII")  # struct tcmsg
_SKIP_STATS = attribute(29, struct.pack("=I", 8))  # IFLA_EXT_MASK: RTEXT_FILTER_SKIP_STATS
_RESOLVED = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80  # REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT
_USE = 1  # NTF_USE
_UNICAST, _LOCAL = 1, 2  # RTN_*
_NO_ROUTE = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.EAGAIN}
    | {errno.EOPNOTSUPP, errno.EAFNOSUPPORT}  # a kernel without IPv6
)
_INGRESS_QDISC = 0xFFFFFFF1  # TC_H_INGRESS, where both ingress and clsact sit

# Not an offload: whether a frame may lie in more than one piece of memory. Off, every frame of a NIC is copied.
_MEMORY_LAYOUT = frozenset({"tx-scatter-gather", "tx-scatter-gather-fraglist", "highdma"})


Device = tuple[Link, int, Attributes]
"""An interface, its IFF_* flags and its attributes."""


class Netlink:
    """One open connection to rtnetlink, for the network namespace in which it was made."""

    def __init__(self) -> None:
        self.questions = rtnetlink.Socket()
        self._changes = IPRoute()
        self._offloads = IoctlEthtool()

    def close(self) -> None:
        """Closes the sockets."""
        self.questions.close()
        self._changes.close()
        self._offloads.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def change(self, about: str, method: str, *arguments: Any, **options: Any) -> None:
        """Calls one of pyroute2's methods (`link`, `tc`...); `about` says in the KernelError what was to be done."""
        try:
            getattr(self._changes, method)(*arguments, **options)
        except NetlinkError as error:
            said = str(error.args[1]) if len(error.args) > 1 and error.args[1] else ""
            raise KernelError(about, error.code, said) from None

    # Links

    def links(self) -> tuple[Link, ...]:
        """All interfaces, in the order of their index. `lower` is None where it is in another namespace."""
        return tuple(link for link, _, _ in self.devices().values())

    def devices(self) -> dict[int, Device]:
        """The same by index, each as `link_message` tells of it.

        Each question about links waits for the kernel's one lock of them, which is held for long where pods come and
        go: one dump is cheaper than a few questions.
        """
        body = _LINK_HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _SKIP_STATS
        found = map(_device, self.questions.dump("RTM_GETLINK", rtnetlink.GET_LINK, body))
        return {device[0].index: device for device in sorted(found, key=lambda device: device[0].index)}

    def link_message(self, which: int | str) -> Device | None:
        """One interface by index or by name, with its IFF_* flags and its attributes; None where there is none."""
        index, name = (which, b"") if isinstance(which, int) else (0, attribute(3, which.encode() + b"\0"))
        body = _LINK_HEADER.pack(socket.AF_UNSPEC, 0, index, 0, 0) + name + _SKIP_STATS
        try:
            message = self.questions.ask(f"RTM_GETLINK of {which}", rtnetlink.GET_LINK, body)
        except KernelError as error:
            if error.errno in (errno.ENODEV, errno.EINVAL):  # EINVAL: index 0, or a name no interface can have
                return None
            raise
        return _device(message)

    def attach_xdp(self, ifindex: int, program_fd: int | None) -> None:
        """Puts an XDP program on the interface in place of what is there; None takes it away.

        The offloads stay as they are: some kernels (not 6.18) switch GRO on with the first XDP program on a veth, and
        we off again. The ring that comes with the program stays; without GRO nothing in it is merged.
        """
        device = self.link_message(ifindex)
        if device is None:
            raise KernelError(f"XDP of ifindex {ifindex}", errno.ENODEV)
        name = device[0].name
        before = self.offloads(name)
        fd = -1 if program_fd is None else program_fd
        self.change(f"XDP of {name}", "link", "set", index=ifindex, xdp_fd=fd)
        self._switch_off(name, self.offloads(name) - before)

    def offloads(self, name: str) -> frozenset[str]:
        """The offloads of this interface that are on and could be off, by the kernel's names (`ethtool -k`)."""
        on = {feature for feature, active, changeable, _, _ in self._features(name) if active and changeable}
        return frozenset(on - _MEMORY_LAYOUT)

    def offloads_off(self, name: str) -> None:
        """Switches off every offload that can be: checksums, segmentation, tags, GRO. Scatter-gather stays."""
        self._switch_off(name, self.offloads(name))

    def _switch_off(self, name: str, unwanted: frozenset[str]) -> None:
        if unwanted:
            features = self._features(name)
            for feature in unwanted:
                features[feature] = False
            self._offloads.set_features(features)

    def _features(self, name: str) -> Any:
        try:
            self._offloads.change_ifname(name)
            return self._offloads.get_features()
        except NoSuchDevice:
            raise KernelError(f"SIOCETHTOOL of {name}", errno.ENODEV) from None
        except NotSupportedError:
            raise KernelError(f"SIOCETHTOOL of {name}", errno.EOPNOTSUPP) from None
        except OSError as error:
            raise KernelError(f"SIOCETHTOOL of {name}", error.errno or 0) from None

    # Routes and neighbours

    def path_to(self, address: str, devices: Mapping[int, Device] | None = None) -> Path:
        """How this node would send to an address now. devices: those that were just dumped; None: one is asked for.

        A route of another kind than unicast (blackhole, unreachable, prohibit, throw, broadcast) is no route, and so
        is one through a link that is down or has no carrier. The mtu is the route's metric where it has one (path MTU
        discovery counts as one), never more than the link's.
        """
        try:
            message = self._route(address)
        except KernelError as error:
            if error.errno in _NO_ROUTE:
                return Path(address, PathState.NO_ROUTE)
            raise
        kind = _ROUTE_HEADER.unpack_from(message)[7]
        found = attributes(message, _ROUTE_HEADER.size)
        index = u32(found.get(4)) or 0
        device = devices.get(index) if devices is not None else self.link_message(index)
        if kind not in (_UNICAST, _LOCAL) or device is None:
            return Path(address, PathState.NO_ROUTE)
        link, flags, of_link = device
        nexthop = _nexthop(found) or address
        metric = u32(attributes(found.get(8, b"")).get(2)) or link.mtu
        carrier = of_link.get(33, b"\1") != b"\0"
        if not link.up or not carrier:
            state = PathState.NO_ROUTE
        elif kind == _LOCAL or flags & (_NOARP | _POINT_TO_POINT | _LOOPBACK) or self.resolved(link.index, nexthop):
            state = PathState.REACHABLE
        else:
            state = PathState.UNREACHABLE
        source = str(ipaddress.ip_address(found[7])) if 7 in found else None
        return Path(address, state, link.name, link.index, source, nexthop, min(metric, link.mtu), local=kind == _LOCAL)

    def _route(self, address: str) -> bytes:
        parsed = ipaddress.ip_address(address)
        body = _ROUTE_HEADER.pack(_family(parsed), parsed.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
        body += attribute(1, parsed.packed)
        return self.questions.ask(f"RTM_GETROUTE of {address}", rtnetlink.GET_ROUTE, body)

    def resolved(self, ifindex: int, address: str) -> bool:
        """Whether the kernel has a link-layer address for this neighbour that it would use."""
        body = _neighbour(ifindex, address, 0)
        try:
            message = self.questions.ask(f"RTM_GETNEIGH of {address}", rtnetlink.GET_NEIGHBOUR, body)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return bool(_NEIGHBOUR_HEADER.unpack_from(message)[2] & _RESOLVED)

    def probe_neighbour(self, ifindex: int, address: str) -> None:
        """Has the kernel resolve a neighbour as if it had a packet for it; the answer comes as a neighbour event.

        Does nothing to an entry that is fresh. KernelError when the interface is gone or down.
        """
        flags = rtnetlink.ACK | rtnetlink.CREATE | rtnetlink.REPLACE
        body = _neighbour(ifindex, address, _USE)
        self.questions.ask(f"RTM_NEWNEIGH of {address}", rtnetlink.NEW_NEIGHBOUR, body, flags)

    # Traffic control

    def ingress_qdiscs(self) -> dict[int, str]:
        """ifindex -> `clsact`, `ingress` or what else sits there, for all interfaces that have one.

        One dump for all: the kernel has no other question that does not wake everybody who listens to TC events.
        """
        kinds: dict[int, str] = {}
        for message in self.questions.dump("RTM_GETQDISC", rtnetlink.GET_QDISC, _TRAFFIC_HEADER.pack(0, 0, 0, 0, 0)):
            _, ifindex, _, parent, _ = _TRAFFIC_HEADER.unpack_from(message)
            if parent == _INGRESS_QDISC:
                kinds[ifindex] = text(attributes(message, _TRAFFIC_HEADER.size).get(1)) or ""
        return kinds

    def filter_messages(self, ifindex: int, parent: int) -> Iterable[tuple[int, int, Attributes]]:
        """(priority, handle, attributes) of the filters below `parent`, in the order in which they run."""
        body = _TRAFFIC_HEADER.pack(socket.AF_UNSPEC, ifindex, 0, parent, 0)
        for message in self.questions.dump(f"RTM_GETTFILTER of ifindex {ifindex}", rtnetlink.GET_FILTER, body):
            _, _, handle, _, priority_and_protocol = _TRAFFIC_HEADER.unpack_from(message)
            yield priority_and_protocol >> 16, handle, attributes(message, _TRAFFIC_HEADER.size)

    def filters(
        self, ifindex: int, direction: Direction, qdiscs: Mapping[int, str] | None = None
    ) -> tuple[clsact.Filter, ...]:
        """See clsact.filters."""
        return clsact.filters(self, ifindex, direction, qdiscs)

    def ensure_clsact(self, ifindex: int) -> None:
        """See clsact.ensure."""
        clsact.ensure(self, ifindex)

    def add_filter(self, ifindex: int, direction: Direction, program_fd: int, name: str) -> None:
        """See clsact.add."""
        clsact.add(self, ifindex, direction, program_fd, name)

    def delete_filter(self, ifindex: int, direction: Direction) -> bool:
        """See clsact.delete."""
        return clsact.delete(self, ifindex, direction)

    # The relay

    def create_relay(self, alias: str) -> Relay:
        """See relay.create."""
        return relay.create(self, alias)

    def relay(self, alias: str | None = None) -> Relay | None:
        """The relay where it is as `create_relay` leaves it; None: `create_relay` would make or mend it."""
        found = relay.observe(self, alias)
        return found[0] if found and not found[1] else None

    def delete_relay(self, alias: str | None = None) -> bool:
        """See relay.delete."""
        return relay.delete(self, alias)

    # Events

    monitor = staticmethod(events.monitor)
    drain = staticmethod(events.drain)


def _device(message: bytes) -> Device:
    _, arphrd, index, flags, _ = _LINK_HEADER.unpack_from(message)
    found = attributes(message, _LINK_HEADER.size)
    elsewhere = s32(found.get(37))  # IFLA_LINK_NETNSID; -1 while that namespace is being taken down
    lower = u32(found.get(5))
    kind = text(attributes(found.get(18, b"")).get(1))
    peer = None
    if kind == "veth" and lower is not None and elsewhere is not None and elsewhere >= 0:
        peer = elsewhere, lower
    link = Link(
        index=index,
        name=text(found.get(3)) or "",
        alias=text(found.get(20)),
        kind=kind,
        mtu=u32(found.get(4)) or 0,
        up=bool(flags & _UP),
        arphrd=arphrd,
        lower=lower if elsewhere is None else None,
        master=u32(found.get(10)),
        address=found.get(1, b""),
        peer=peer,
    )
    return link, flags, found


def _nexthop(route: Attributes) -> str | None:
    """RTA_GATEWAY, or RTA_VIA, which may be of the other family; None when on link."""
    if 5 in route:
        return str(ipaddress.ip_address(route[5]))
    if 18 in route:
        return str(ipaddress.ip_address(route[18][2:]))
    return None


def _family(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _neighbour(ifindex: int, address: str, flags: int) -> bytes:
    parsed = ipaddress.ip_address(address)
    return _NEIGHBOUR_HEADER.pack(_family(parsed), ifindex, 0, flags, 0) + attribute(1, parsed.packed)
