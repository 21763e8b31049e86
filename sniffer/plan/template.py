"""Outer headers: what encap writes in front of a frame.

What differs from copy to copy is zero: lengths, identification, checksums, source port, flow label, sequence number,
and what the header says of the copy; the programs fill it in.
"""

import struct
import zlib
from ipaddress import IPv4Address, IPv6Address, ip_address

from sniffer.abi.limits import EgressFlag
from sniffer.abi.limits import Encapsulation as Kind
from sniffer.abi.records import EgressRecord
from sniffer.model.target import DSCP_COPY, Encapsulation, Erspan, Geneve, Gre, Outer, Vxlan
from sniffer.plan.facts import Path

AF_INET, AF_INET6 = 2, 10  # <linux/socket.h>; importing socket is not pure
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
ETH_P_TEB = 0x6558
ETH_P_ERSPAN = {2: 0x88BE, 3: 0x22EB}
PROTOCOL_UDP = 17
PROTOCOL_GRE = 47
VXLAN_HAS_VNI = 0x08000000
GRE_HAS_KEY, GRE_HAS_SEQUENCE = 0x2000, 0x1000
IPV4_DONT_FRAGMENT = 0x4000
GENEVE_OPTION_CLASS = 0xFF53
GENEVE_OPTIONS = 5
ERSPAN_VERSIONS = {2: 1, 3: 2}
"""By type: what the header calls it."""
ERSPAN3_ETHERNET, ERSPAN3_GRA_100_NS = 0x8000, 1 << 1

_ETHERNET_LENGTH = 14


def egress_record(path: Path, encapsulation: Encapsulation, outer: Outer, node: str = "") -> EgressRecord:
    """The record for one endpoint. MAC addresses are zero: the kernel's neighbour table fills them in."""
    tunnel = encapsulation.tunnel
    six = _is_six(path.address)
    empty = "::" if six else "0.0.0.0"
    source, target = ip_address(path.source or empty).packed, ip_address(path.address).packed
    protocol, transport = _transport(tunnel, node)
    dscp = 0 if outer.dscp == DSCP_COPY else int(outer.dscp)
    if six:
        header = struct.pack("!IHBB16s16s", 6 << 28 | dscp << 22, 0, protocol, outer.ttl, source, target)
    else:
        fragment = IPV4_DONT_FRAGMENT if outer.dont_fragment else 0
        header = struct.pack("!BBHHHBBH4s4s", 0x45, dscp << 2, 0, 0, fragment, outer.ttl, protocol, 0, source, target)
    nexthop = ip_address(path.nexthop or empty)
    return EgressRecord(
        ifindex=path.ifindex,
        mtu=path.mtu,
        nexthop=nexthop.packed.ljust(16, b"\0"),
        checksum=0 if six else _sum(header),
        pseudo=_sum(source + target + struct.pack("!H", protocol)) if outer.udp_checksum else 0,
        family=AF_INET6 if nexthop.version == 6 else AF_INET,
        encapsulation=kind_of(encapsulation),
        flags=_flags(six, tunnel, outer),
        template=struct.pack("!12xH", ETH_P_IPV6 if six else ETH_P_IP) + header + transport,
    )


def kind_of(encapsulation: Encapsulation) -> Kind:
    """As the programs call it."""
    match encapsulation.tunnel:
        case Vxlan():
            return Kind.VXLAN
        case Gre():
            return Kind.GRE
        case Geneve():
            return Kind.GENEVE
        case Erspan(version=version):
            return Kind.ERSPAN2 if version == 2 else Kind.ERSPAN3


def address_of(record: EgressRecord) -> str:
    """The endpoint's address."""
    return _address(record, 1)


def source_of(record: EgressRecord) -> str:
    """This node's address in the outer header."""
    return _address(record, 0)


def nexthop_of(record: EgressRecord) -> str:
    """The neighbour that copies are handed to."""
    return str(IPv6Address(record.nexthop) if record.family == AF_INET6 else IPv4Address(record.nexthop[:4]))


def _address(record: EgressRecord, which: int) -> str:
    start, length = (22, 16) if record.flags & EgressFlag.IPV6 else (26, 4)
    start += which * length
    return str(ip_address(record.template[start : start + length]))


def _is_six(address: str) -> bool:
    return ":" in address


def _flags(six: bool, tunnel: Vxlan | Gre | Geneve | Erspan, outer: Outer) -> EgressFlag:
    sequenced = isinstance(tunnel, Erspan) or (isinstance(tunnel, Gre) and tunnel.sequence)
    flags = {
        EgressFlag.IPV6: six,
        EgressFlag.SEQUENCE: sequenced,
        EgressFlag.DSCP: outer.dscp == DSCP_COPY,
        EgressFlag.CHECKSUM: outer.udp_checksum,
        EgressFlag.DONT_FRAGMENT: outer.dont_fragment,
    }
    return EgressFlag(sum(flag for flag, is_set in flags.items() if is_set))


def _sum(octets: bytes) -> int:
    """Of 16-bit words as they lie in memory, not folded."""
    return sum(struct.unpack(f"={len(octets) // 2}H", octets))


def _transport(tunnel: Vxlan | Gre | Geneve | Erspan, node: str) -> tuple[int, bytes]:
    """IP protocol and the headers behind IP: RFC 7348, RFC 2784 and RFC 2890, RFC 8926, draft-foschiano-erspan-03."""
    match tunnel:
        case Vxlan(vni=vni, port=port):
            return PROTOCOL_UDP, struct.pack("!HHHHII", 0, port, 0, 0, VXLAN_HAS_VNI, vni << 8)
        case Geneve(vni=vni, port=port):
            options = _geneve_options(node)
            words = len(options) // 4
            return PROTOCOL_UDP, struct.pack("!HHHHBBHI", 0, port, 0, 0, words, 0, ETH_P_TEB, vni << 8) + options
        case Erspan(version=version, session_id=session):
            header = struct.pack("!HHI", GRE_HAS_SEQUENCE, ETH_P_ERSPAN[version], 0)
            header += struct.pack("!II", ERSPAN_VERSIONS[version] << 28 | session, 0)
            third = struct.pack("!HH", 0, ERSPAN3_ETHERNET | ERSPAN3_GRA_100_NS) if version == 3 else b""
            return PROTOCOL_GRE, header + third
        case Gre(key=key, sequence=sequence):
            flags = (0 if key is None else GRE_HAS_KEY) | (GRE_HAS_SEQUENCE if sequence else 0)
            header = struct.pack("!HH", flags, ETH_P_TEB)
            header += b"" if key is None else struct.pack("!I", key)
            return PROTOCOL_GRE, header + bytes(4 if sequence else 0)


def _geneve_options(node: str) -> bytes:
    """docs/geneve-options.md; the node is known here, the others are the copy's."""
    bodies = (zlib.crc32(node.encode()), 0, 0, 0, 0)
    options = (struct.pack("!HBBI", GENEVE_OPTION_CLASS, kind, 1, body) for kind, body in enumerate(bodies, start=1))
    return b"".join(options)
