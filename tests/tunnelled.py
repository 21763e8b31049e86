"""Outer packets as others make them: scapy's headers around any frame."""

from collections.abc import Iterable

from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III, ERSPAN_PlatformSpecific
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import GRE
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

SENDER, RECEIVER, SENDER6, RECEIVER6 = "10.9.0.1", "10.9.0.2", "fd00:9::1", "fd00:9::2"
CLASS = 0xFF53

VXLAN_KEY = UDP(sport=50000, dport=4789, chksum=0) / VXLAN(flags=8, vni=4242)
GRE_BARE = GRE(proto=0x6558)


def gre(key: int | None = None, sequence: int | None = None, checksum: bool = False) -> Packet:
    words: dict[str, int] = {}
    if key is not None:
        words |= {"key_present": 1, "key": key}
    if sequence is not None:
        words |= {"seqnum_present": 1, "sequence_number": sequence}
    return GRE(proto=0x6558, chksum_present=int(checksum), **words)


def geneve(*options: Packet, vni: int = 99, port: int = 6081, **fields: int) -> Packet:
    return UDP(sport=50001, dport=port, chksum=0) / GENEVE(proto=0x6558, vni=vni, options=list(options), **fields)


def option(kind: int, body: bytes | int, owner: int = CLASS) -> Packet:
    return GeneveOptions(classid=owner, type=kind, data=body.to_bytes(4) if isinstance(body, int) else body)


def erspan1() -> Packet:
    return GRE(proto=0x88BE)


def erspan2(session: int, sequence: int, **fields: int) -> Packet:
    return GRE(proto=0x88BE, seqnum_present=1, sequence_number=sequence) / ERSPAN_II(session_id=session, **fields)


def erspan3(session: int, sequence: int, **fields: int) -> Packet:
    platform = ERSPAN_PlatformSpecific(platf_id=3) if fields.get("o") else b""
    header = GRE(proto=0x22EB, seqnum_present=1, sequence_number=sequence)
    return header / ERSPAN_III(session_id=session, **fields) / platform


def packet(tunnel: Packet, frame: bytes, ipv6: bool = False, **fields: object) -> bytes:
    """The outer packet, from its IP header on."""
    ip = IPv6(src=SENDER6, dst=RECEIVER6, **fields) if ipv6 else IP(src=SENDER, dst=RECEIVER, **fields)
    return bytes(ip / tunnel / Raw(frame))


def fragments(tunnel: Packet, frame: bytes, size: int, number: int, ipv6: bool = False) -> list[bytes]:
    """The outer packet in fragments with `size` bytes of payload at most; `number`: their identification."""
    if not ipv6:
        return [bytes(part) for part in fragment(IP(packet(tunnel, frame, id=number)), size)]
    whole = IPv6(src=SENDER6, dst=RECEIVER6) / IPv6ExtHdrFragment(id=number) / tunnel / Raw(frame)
    return [bytes(part) for part in fragment6(whole, size + 48)]


def tunnels() -> Iterable[tuple[str, Packet]]:
    """One of each kind."""
    yield "vxlan", VXLAN_KEY
    yield "geneve", geneve(option(1, 1), option(5, 10))
    yield "gre", gre(7, 1, checksum=True)
    yield "erspan1", erspan1()
    yield "erspan2", erspan2(5, 1)
    yield "erspan3", erspan3(6, 1, o=1)
