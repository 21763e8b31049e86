"""Outer headers: what encap writes in front of a frame. Lengths, identification, checksum and source port are zero; the
programs fill them in per packet.
"""

import struct
from ipaddress import IPv4Address

from sniffer.abi.records import EgressRecord
from sniffer.model.resources import Encapsulation, Outer
from sniffer.plan.facts import Path

AF_INET = 2  # <linux/socket.h>; importing socket is not pure
ETH_P_IP = 0x0800
ETH_P_TEB = 0x6558
PROTOCOL_UDP = 17
PROTOCOL_GRE = 47
VXLAN_HAS_VNI = 0x08000000
GRE_HAS_KEY = 0x2000


def egress_record(path: Path, encapsulation: Encapsulation, outer: Outer) -> EgressRecord:
    """The record for one endpoint. MAC addresses are zero: the kernel's neighbour table fills them in."""
    source = IPv4Address(path.source or "0.0.0.0").packed
    target = IPv4Address(path.address).packed
    protocol, transport = _transport(encapsulation)
    header = struct.pack("!BBHHHBBH4s4s", 0x45, outer.dscp << 2, 0, 0, 0, outer.ttl, protocol, 0, source, target)
    return EgressRecord(
        ifindex=path.ifindex,
        mtu=path.mtu,
        nexthop=IPv4Address(path.nexthop or "0.0.0.0").packed.ljust(16, b"\0"),
        checksum=sum(struct.unpack("=10H", header)),
        family=AF_INET,
        template=struct.pack("!12xH", ETH_P_IP) + header + transport,
    )


def address_of(record: EgressRecord) -> str:
    """The endpoint's address."""
    return str(IPv4Address(record.template[30:34]))


def source_of(record: EgressRecord) -> str:
    """This node's address in the outer header."""
    return str(IPv4Address(record.template[26:30]))


def nexthop_of(record: EgressRecord) -> str:
    """The neighbour that copies are handed to."""
    return str(IPv4Address(record.nexthop[:4]))


def _transport(encapsulation: Encapsulation) -> tuple[int, bytes]:
    """IP protocol and the headers behind IP: RFC 7348, RFC 2784 and RFC 2890."""
    if encapsulation.vxlan:
        vxlan = encapsulation.vxlan
        return PROTOCOL_UDP, struct.pack("!HHHHII", 0, vxlan.port, 0, 0, VXLAN_HAS_VNI, vxlan.vni << 8)
    key = encapsulation.gre.key if encapsulation.gre else None
    if key is None:
        return PROTOCOL_GRE, struct.pack("!HH", 0, ETH_P_TEB)
    return PROTOCOL_GRE, struct.pack("!HHI", GRE_HAS_KEY, ETH_P_TEB, key)
