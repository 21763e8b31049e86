"""The relay: our private veth pair, that nothing but copies crosses. What goes in at sniffer-tx comes out at
sniffer-rx as plain frames: with its offloads off, the kernel itself cuts super-packets and fills in checksums.
"""

import errno
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from sniffer.errors import KernelError, MachineError
from sniffer.kernel.rtnetlink import Attributes, attributes, u32
from sniffer.plan.facts import Link, Relay

if TYPE_CHECKING:
    from sniffer.kernel.netlink import Device, Netlink

TX = "sniffer-tx"
RX = "sniffer-rx"
MTU = 65535
ALIAS_PREFIX = "sniffer"

_UP, _NOARP, _MULTICAST = 0x1, 0x80, 0x1000  # IFF_*
_ADDRESS_MODE_NONE = 1  # IN6_ADDR_GEN_MODE_NONE


def observe(
    netlink: "Netlink", alias: str | None = None, devices: Iterable["Device"] | None = None
) -> tuple[Relay, tuple[str, ...]] | None:
    """The pair as it is, and what is not as `create` leaves it, for people; None where there is none, or ends of one
    that are a pair no more: somebody has renamed an end, or moved it away.

    Ours: a veth pair of these two names whose alias is `alias` (where not given: begins with `sniffer`), or that has
    none yet: we were killed while we made it. MachineError when another link has one of the names.
    devices: those that were just dumped; None: the two are asked for.
    """
    if devices is None:
        tx, rx = (netlink.link_message(name) for name in (TX, RX))
    else:
        named = {device[0].name: device for device in devices}
        tx, rx = named.get(TX), named.get(RX)
    if all(_is_torn(end[0], alias) for end in (tx, rx) if end) and not (tx and rx and tx[0].lower == rx[0].index):
        return None
    if tx is None or rx is None or tx[0].lower != rx[0].index or not all(_ours(end[0], alias) for end in (tx, rx)):
        found = ", ".join(f"{end[0].name} ({end[0].alias or end[0].kind})" for end in (tx, rx) if end)
        raise MachineError(
            f"a link that is not this sniffer's relay has its name: {found}",
            f"rename it (ip link set {TX} name NAME), or stop and clean up the other sniffer",
        )
    faults = tuple(fault for end in (tx, rx) for fault in _faults(netlink, *end))
    program = u32(attributes(rx[2].get(43, b"")).get(4))  # IFLA_XDP, IFLA_XDP_PROG_ID
    return Relay(tx[0].index, rx[0].index, program or None), faults


def _ours(link: Link, alias: str | None) -> bool:
    mark = link.alias or ""
    return link.kind == "veth" and (not mark or (mark == alias if alias else mark.startswith(ALIAS_PREFIX)))


def _is_torn(link: Link, alias: str | None) -> bool:
    """Whether it is an end of ours by its mark alone, whatever its name."""
    return link.kind == "veth" and alias is not None and link.alias == alias


def _clear_torn(netlink: "Netlink", alias: str) -> bool:
    """Removes what is left of a relay that is no pair any more, with the other ends; whether there was anything."""
    found = False
    for link in netlink.links():
        if _is_torn(link, alias):
            found = True
            with suppress(KernelError):  # gone with the other end
                netlink.change(f"torn {link.name}", "link", "del", index=link.index)
    return found


def _faults(netlink: "Netlink", link: Link, flags: int, found: Attributes) -> list[str]:
    inet6 = attributes(attributes(found.get(26, b"")).get(10, b""))  # IFLA_AF_SPEC, AF_INET6
    mode = inet6.get(8)  # IFLA_INET6_ADDR_GEN_MODE
    offloads = sorted(netlink.offloads(link.name))
    wrong = {
        "has no alias": not link.alias,
        "down": not flags & _UP,
        "answers ARP": not flags & _NOARP,
        "takes part in multicast": bool(flags & _MULTICAST),
        f"mtu {link.mtu}": link.mtu != MTU,
        "makes itself IPv6 addresses": mode is not None and mode[0] != _ADDRESS_MODE_NONE,
        f"offloads {', '.join(offloads)}": bool(offloads),
        "is in a bridge or bond": link.master is not None,
    }
    return [f"{link.name} {text}" for text, is_so in wrong.items() if is_so]


def create(netlink: "Netlink", alias: str) -> Relay:
    """Makes the pair, or mends the one that is there. It is silent: nothing of its own ever crosses it."""
    if not alias.startswith(ALIAS_PREFIX):
        raise ValueError(f"{alias!r} does not begin with {ALIAS_PREFIX!r}")
    if observe(netlink, alias) is None:
        _clear_torn(netlink, alias)
        ends = [{"ifname": name, "mtu": MTU, "num_tx_queues": 1, "num_rx_queues": 1} for name in (TX, RX)]
        netlink.change(f"veth pair {TX}", "link", "add", kind="veth", peer=ends[1], **ends[0])
    relay, faults = _present(netlink, alias)
    if faults:
        for index, name in ((relay.sender, TX), (relay.receiver, RX)):
            _settle(netlink, index, name, alias)
        for index, name in ((relay.sender, TX), (relay.receiver, RX)):  # no end comes up before both are silent
            netlink.change(f"{name} up", "link", "set", index=index, flags=_UP, change=_UP)
        relay, faults = _present(netlink, alias)
    if faults:
        raise KernelError(f"veth pair {TX}", errno.EIO, "; ".join(faults))
    return relay


def _present(netlink: "Netlink", alias: str) -> tuple[Relay, tuple[str, ...]]:
    found = observe(netlink, alias)
    if found is None:
        raise KernelError(f"veth pair {TX}", errno.ENODEV, "gone as soon as made")
    return found


def _settle(netlink: "Netlink", index: int, name: str, alias: str) -> None:
    """All of an end's settings but up."""
    netlink.offloads_off(name)
    mode = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDRESS_MODE_NONE)]})]}
    try:
        netlink.change(f"addrgenmode of {name}", "link", "set", index=index, IFLA_AF_SPEC=mode)
    except KernelError as error:
        if error.errno != errno.EAFNOSUPPORT:  # a kernel without IPv6 makes no addresses
            raise
    quiet = {"flags": _NOARP, "change": _NOARP | _MULTICAST}
    netlink.change(f"settings of {name}", "link", "set", index=index, ifalias=alias, mtu=MTU, master=0, **quiet)


def delete(netlink: "Netlink", alias: str | None = None) -> bool:
    """Removes the pair; False when there was none."""
    found = observe(netlink, alias)
    if found is None:
        return alias is not None and _clear_torn(netlink, alias)
    netlink.change(f"veth pair {TX}", "link", "del", index=found[0].sender)
    return True
