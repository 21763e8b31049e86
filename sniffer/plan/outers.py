"""What copies from other nodes look like where they pass: the keys of `outers`, and the hooks that look for them."""

from collections.abc import Iterable, Iterator
from ipaddress import AddressValueError, IPv4Address

from sniffer.abi.limits import OUTER_GRE_KEY, OUTERS_MAX, OuterKind
from sniffer.abi.records import OuterKey
from sniffer.model.resources import Encapsulation, MirrorTarget
from sniffer.plan.admission import addresses
from sniffer.plan.template import PROTOCOL_GRE, PROTOCOL_UDP


def outer_keys(targets: Iterable[MirrorTarget], nodes: Iterable[str]) -> frozenset[OuterKey]:
    """A copy has an analyzer's header, and where it comes to a node, a node's address as its source.

    At most OUTERS_MAX: of more than that the last nodes are not known.
    """
    headers = {key for target in targets for key in _headers(target)}
    sources = sorted(OuterKey(OuterKind.NODE, number) for node in nodes if (number := _number(node)))
    return frozenset(headers) | frozenset(sources[: OUTERS_MAX - len(headers)])


def _headers(target: MirrorTarget) -> Iterator[OuterKey]:
    protocol, port, key = _tunnel(target.spec.encapsulation)
    for address in addresses(target):
        number = _number(address)
        if number:
            yield OuterKey(OuterKind.HEADER, number, protocol, port, key)
            yield OuterKey(OuterKind.LATER, number, protocol)


def _tunnel(encapsulation: Encapsulation) -> tuple[int, int, int]:
    if encapsulation.vxlan:
        return PROTOCOL_UDP, encapsulation.vxlan.port, encapsulation.vxlan.vni
    key = encapsulation.gre.key if encapsulation.gre else None
    return (PROTOCOL_GRE, 0, 0) if key is None else (PROTOCOL_GRE, OUTER_GRE_KEY, key)


def _number(address: str) -> int | None:
    try:
        return int(IPv4Address(address))
    except AddressValueError:
        return None
