"""Who else is on the hooks: programs that may keep frames from the tap."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sniffer.abi.limits import Direction
from sniffer.errors import KernelError
from sniffer.kernel import clsact, tcx
from sniffer.kernel.netlink import Netlink
from sniffer.kernel.relay import RX, TX
from sniffer.kernel.rtnetlink import attributes, u32
from sniffer.plan.facts import Link

_IFLA_XDP, _XDP_PROG_ID = 43, 4
_IGNORED = ("lo", TX, RX)


@dataclass(frozen=True, slots=True)
class Rival:
    """Somebody else's program on an interface. `where` is XDP, TCX ingress, clsact egress..."""

    interface: str
    where: str
    what: str


def rivals(netlink: Netlink, ours: frozenset[int]) -> Iterator[Rival]:
    """What runs before our tap, or where we are not yet; `ours` are program ids. KernelError: not allowed to ask."""
    qdiscs = netlink.ingress_qdiscs()
    with_tcx = tcx.has_tcx()
    for link in netlink.links():
        if link.name in _IGNORED:
            continue
        try:
            program = _xdp(netlink, link.index)
            if program:
                yield Rival(link.name, "XDP", f"program {program}")
            for direction in Direction:
                chain = tcx.query_tcx(link.index, direction) if with_tcx else ()
                yield from (
                    Rival(link.name, f"TCX {direction.name.lower()}", f"program {n}") for n in _ahead(chain, ours)
                )
                if ours.isdisjoint(chain):  # else we run before all of clsact
                    yield from _on_clsact(netlink, link, direction, qdiscs)
        except KernelError:
            if netlink.link_message(link.index) is not None:  # it did not just go away
                raise


def _xdp(netlink: Netlink, ifindex: int) -> int | None:
    found = netlink.link_message(ifindex)
    return u32(attributes(found[2].get(_IFLA_XDP, b"")).get(_XDP_PROG_ID)) if found else None


def _ahead(chain: tuple[int, ...], ours: frozenset[int]) -> tuple[int, ...]:
    """What runs before ours; all of it where we are not."""
    place = next((number for number, program in enumerate(chain) if program in ours), len(chain))
    return chain[:place]


def _on_clsact(netlink: Netlink, link: Link, direction: Direction, qdiscs: Mapping[int, str]) -> Iterator[Rival]:
    if link.index not in qdiscs:
        return
    for found in clsact.filters(netlink, link.index, direction, qdiscs):
        if found.ours:
            return
        if found.captures:
            continue
        words = f"{found.name or found.kind}, priority {found.prio}, handle {found.handle:#x}"
        yield Rival(link.name, f"{qdiscs[link.index]} {direction.name.lower()}", words)
