"""What copies look like where they pass: the keys of `outers`, for guarded hooks and for mirrors that are watched."""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from sniffer.abi.limits import OUTER_GRE_KEY, OUTERS_MAX, OuterKind
from sniffer.abi.records import OuterKey
from sniffer.model.resources import MirrorTarget
from sniffer.model.target import Encapsulation, Erspan, Geneve, Gre, Vxlan
from sniffer.plan.admission import addresses
from sniffer.plan.template import ETH_P_ERSPAN, PROTOCOL_GRE, PROTOCOL_UDP


def outer_keys(targets: Iterable[MirrorTarget], nodes: Iterable[str]) -> frozenset[OuterKey]:
    """A copy has an analyzer's header, and where it comes to a node, a node's address as its source.

    At most OUTERS_MAX: of more than that the last nodes are not known.
    """
    headers = {key for target in targets for key in _headers(target)}
    sources = sorted(OuterKey(OuterKind.NODE, packed) for node in nodes if (packed := _packed(node)))
    return frozenset(headers) | frozenset(sources[: OUTERS_MAX - len(headers)])


def header_of(target: MirrorTarget, address: str) -> OuterKey | None:
    """What tells copies for one endpoint; None: it is no address."""
    packed = _packed(address)
    return OuterKey(OuterKind.HEADER, packed, *_tunnel(target.spec.encapsulation)) if packed else None


def _headers(target: MirrorTarget) -> Iterator[OuterKey]:
    for address in addresses(target):
        header = header_of(target, address)
        if header:
            yield header
            yield OuterKey(OuterKind.LATER, header.address, header.protocol)


def _tunnel(encapsulation: Encapsulation) -> tuple[int, int, int]:
    match encapsulation.tunnel:
        case Vxlan(vni=vni, port=port) | Geneve(vni=vni, port=port):
            return PROTOCOL_UDP, port, vni
        case Erspan(version=version, session_id=session):
            return PROTOCOL_GRE, ETH_P_ERSPAN[version], session
        case Gre(key=key):
            return (PROTOCOL_GRE, 0, 0) if key is None else (PROTOCOL_GRE, OUTER_GRE_KEY, key)


def _packed(address: str) -> bytes | None:
    """As `struct outer` has it: IPv4 as ::ffff:a.b.c.d."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return parsed.packed.rjust(6, b"\xff").rjust(16, b"\0")
