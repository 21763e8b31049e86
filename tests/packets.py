"""Frames to send and to decide about: a named corpus, mutations of it, and filters over it.

Everything here is deterministic: the same bytes on every machine and in every run, so that a frame named in a
failure can be built again. Frames start at the Ethernet header and carry no frame check sequence; numbers in them are
in network byte order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from struct import pack

from scapy.contrib.geneve import GENEVE
from scapy.contrib.mpls import MPLS
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_Router_Alert, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    RouterAlert,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import ARP, GRE, LLC, SNAP, STP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests.filters import FILTERS

__all__ = [
    "BARE",
    "CORPUS",
    "CUT_TAG",
    "DEEP",
    "FILTERS",
    "PEER_MAC",
    "POD_MAC",
    "Case",
    "generate",
    "payload",
    "reaches_hooks",
]

POD_MAC, PEER_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
POD, PEER, POD6, PEER6 = "10.1.0.2", "10.1.0.3", "fd00:1::2", "fd00:1::3"
MTU = 1500


@dataclass(frozen=True, slots=True)
class Case:
    """A frame with a name that is unique in the corpus, and the lines of the case list that it stands for."""

    name: str
    frame: bytes
    cases: tuple[str, ...]


def payload(length: int) -> bytes:
    """`length` bytes that do not repeat for 64 KiB, so that a piece missing or out of place shows."""
    words = b"".join(pack(">H", (index * 40503) & 0xFFFF) for index in range(length // 2 + 1))
    return words[:length]


def _ether(protocol: int | None = None, destination: str = PEER_MAC) -> Packet:
    fields = {} if protocol is None else {"type": protocol}
    return Ether(src=POD_MAC, dst=destination, **fields)


def _ip(**fields: object) -> Packet:
    return IP(**{"src": POD, "dst": PEER, "id": 0x1234, "ttl": 64, **fields})


def _ip6(**fields: object) -> Packet:
    return IPv6(**{"src": POD6, "dst": PEER6, "hlim": 64, "fl": 0x12345, **fields})


def _tcp(flags: str = "PA", sport: int = 40000, dport: int = 80, **fields: object) -> Packet:
    return TCP(sport=sport, dport=dport, seq=0x01020304, ack=0x05060708, flags=flags, window=501, **fields)


def _udp(dport: int = 53, sport: int = 40001) -> Packet:
    return UDP(sport=sport, dport=dport)


def _raw(length: int) -> Packet:
    return Raw(payload(length))


def _arp() -> Packet:
    return _ether(destination="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=POD_MAC, psrc=POD, hwdst="00:00:00:00:00:00", pdst=PEER
    )


def _ipv4() -> dict[str, tuple[Packet | bytes, str]]:
    """IPv4 as hosts send it, with options, in fragments, and full."""
    ether = _ether()
    segment = bytes(_tcp() / _raw(3000))
    datagram = bytes(_ip(proto=17) / _udp() / _raw(3000))[20:]
    http = b"GET / HTTP/1.1\r\nHost: peer\r\n\r\n"
    options = [IPOption_NOP(), IPOption_RR(routers=["10.1.0.9"], length=7)]
    tcp_options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
    return {
        "tcp-syn": (ether / _ip() / _tcp("S", options=tcp_options), ""),
        "tcp-syn-ack": (ether / _ip(src=PEER, dst=POD) / _tcp("SA", sport=80, dport=40000), ""),
        "tcp-http": (ether / _ip(flags="DF") / _tcp() / http, ""),
        "tcp-ack-empty": (ether / _ip() / _tcp("A"), "C31"),
        "tcp-fin": (ether / _ip() / _tcp("FA"), ""),
        "tcp-rst": (ether / _ip() / _tcp("R"), ""),
        "tcp-urgent": (ether / _ip() / _tcp("UPAEC", urgptr=3) / _raw(9), ""),
        "tcp-port-443": (ether / _ip() / _tcp(dport=443) / b"\x16\x03\x01" / _raw(200), ""),
        "tcp-port-22": (ether / _ip(src=PEER, dst=POD) / _tcp(sport=22, dport=40000) / _raw(48), ""),
        "tcp-full": (ether / _ip() / _tcp() / _raw(MTU - 40), ""),
        "tcp-1-under-full": (ether / _ip() / _tcp() / _raw(MTU - 41), ""),
        "udp-dns": (ether / _ip() / _udp() / DNS(id=7, rd=1, qd=DNSQR(qname="peer.example")), ""),
        "udp-empty": (ether / _ip() / _udp(), "C31"),
        "udp-no-checksum": (ether / _ip() / UDP(sport=1, dport=2, chksum=0) / _raw(5), ""),
        "udp-odd": (ether / _ip() / _udp() / _raw(111), ""),
        "udp-full": (ether / _ip() / _udp() / _raw(MTU - 28), ""),
        "udp-port-0": (ether / _ip() / _udp(0, 0) / _raw(8), "C33"),
        "udp-port-65535": (ether / _ip() / _udp(65535, 65535) / _raw(8), ""),
        "udp-zero-address": (ether / _ip(src="0.0.0.0", dst="0.0.0.0") / _udp() / _raw(8), "C33"),
        "udp-dhcp": (
            _ether(destination="ff:ff:ff:ff:ff:ff")
            / _ip(src="0.0.0.0", dst="255.255.255.255")
            / _udp(67, 68)
            / BOOTP(chaddr=b"\x02\0\0\0\0\x0a", xid=9)
            / DHCP(options=[("message-type", "discover"), "end"]),
            "C27",
        ),
        "udp-multicast": (
            _ether(destination="01:00:5e:00:00:fb") / _ip(dst="224.0.0.251", ttl=1) / _udp(5353, 5353) / _raw(40),
            "C27",
        ),
        "udp-ttl-1-dscp-ce": (ether / _ip(ttl=1, tos=0xBB) / _udp() / _raw(8), ""),
        "icmp-echo": (ether / _ip() / ICMP(type=8, id=1, seq=1) / _raw(56), ""),
        "icmp-echo-full": (ether / _ip() / ICMP(type=8, id=1, seq=2) / _raw(MTU - 28), ""),
        "icmp-unreachable": (ether / _ip() / ICMP(type=3, code=3) / _ip(src=PEER, dst=POD) / _udp(), ""),
        "igmp-router-alert": (
            _ether(destination="01:00:5e:00:00:16")
            / _ip(dst="224.0.0.22", ttl=1, proto=2, options=[IPOption_Router_Alert()])
            / bytes.fromhex("22000000000000010400000000000000"),
            "C9 C27",
        ),
        "options-rr-tcp": (ether / _ip(options=options) / _tcp() / _raw(20), "C9"),
        "options-40-udp": (ether / _ip(options=[IPOption_NOP()] * 40) / _udp() / _raw(20), "C9"),
        "fragment-first": (ether / _ip(proto=17, flags="MF") / datagram[:1480], "C10"),
        "fragment-middle": (ether / _ip(proto=17, flags="MF", frag=185) / datagram[1480:2960], "C10"),
        "fragment-last": (ether / _ip(proto=17, frag=370) / datagram[2960:], "C10"),
        "fragment-tiny-tcp": (ether / _ip(proto=6, flags="MF") / segment[:8], "C10"),
        "fragment-offset-1-tcp": (ether / _ip(proto=6, frag=1) / segment[8:100], "C10"),
        "sctp-data": (ether / _ip() / SCTP(sport=5000, dport=5001, tag=1) / SCTPChunkData(data=payload(32)), "C20"),
        "esp": (ether / _ip(proto=50) / ESP(spi=0x11223344, seq=5, data=payload(80)), "C21"),
        "ah-tcp": (ether / _ip(proto=51) / AH(nh=6, payloadlen=4, spi=5, seq=6, icv=payload(12)) / _tcp(), "C21"),
        "wireguard": (ether / _ip() / _udp(51820, 51820) / bytes.fromhex("04000000") / _raw(60), "C21"),
        "vrrp": (_ether(destination="01:00:5e:00:00:12") / _ip(dst="224.0.0.18", ttl=255, proto=112) / _raw(20), "C27"),
        "pim-hello": (
            _ether(destination="01:00:5e:00:00:0d") / _ip(dst="224.0.0.13", ttl=1, proto=103) / _raw(20),
            "C27",
        ),
        "unknown-protocol": (ether / _ip(proto=253) / _raw(30), ""),
        "protocol-0": (ether / _ip(proto=0) / _raw(30), ""),
    }


def _ipv6() -> dict[str, tuple[Packet | bytes, str]]:
    """IPv6, its neighbour discovery, and chains of extension headers."""
    ether = _ether()
    nested = _ip6()
    for _ in range(10):
        nested = nested / IPv6ExtHdrDestOpt()
    to_all = _ether(destination="33:33:00:00:00:01")
    first = bytes(_tcp() / _raw(1400))
    return {
        "ip6-tcp-syn": (ether / _ip6() / _tcp("S"), ""),
        "ip6-tcp-full": (ether / _ip6() / _tcp() / _raw(MTU - 60), ""),
        "ip6-udp-dns": (ether / _ip6() / _udp() / DNS(id=8, rd=1, qd=DNSQR(qname="peer.example")), ""),
        "ip6-udp-empty": (ether / _ip6() / _udp(), "C31"),
        "ip6-icmp-echo": (ether / _ip6() / ICMPv6EchoRequest(id=1, seq=1, data=payload(56)), ""),
        "ip6-mapped": (ether / _ip6(src="::ffff:10.1.0.2", dst="::ffff:10.1.0.3") / _udp() / _raw(4), "C33"),
        "ip6-zero-address": (ether / _ip6(src="::", dst="::") / _udp() / _raw(4), "C33"),
        "ip6-no-next-header": (ether / _ip6(nh=59), "C11"),
        "ip6-hop-by-hop": (ether / _ip6() / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / _tcp(), "C11"),
        "ip6-routing": (ether / _ip6() / IPv6ExtHdrRouting(addresses=["fd00:1::9"], segleft=1) / _tcp(), "C11"),
        "ip6-ah": (ether / _ip6() / AH(nh=6, payloadlen=4, spi=5, seq=6, icv=payload(12)) / _tcp(), "C11 C21"),
        "ip6-nested-10": (nested / _udp() / _raw(12), "C11"),
        "ip6-fragment-first": (ether / _ip6() / IPv6ExtHdrFragment(id=77, m=1, nh=6) / first[:1400], "C11"),
        "ip6-fragment-last": (ether / _ip6() / IPv6ExtHdrFragment(id=77, offset=175, nh=6) / first[1400:], "C11"),
        "ip6-esp": (ether / _ip6(nh=50) / ESP(spi=7, seq=8, data=payload(64)), "C21"),
        "ip6-sctp": (ether / _ip6() / SCTP(sport=5000, dport=5001, tag=1) / SCTPChunkData(data=payload(32)), "C20"),
        "ip6-jumbo-length-0": (ether / _ip6(plen=0) / _tcp() / _raw(20), "C13"),
        "nd-solicitation": (
            _ether(destination="33:33:ff:00:00:03")
            / _ip6(dst="ff02::1:ff00:3", hlim=255)
            / ICMPv6ND_NS(tgt=PEER6)
            / ICMPv6NDOptSrcLLAddr(lladdr=POD_MAC),
            "C3 C27",
        ),
        "nd-advertisement": (ether / _ip6(hlim=255) / ICMPv6ND_NA(tgt=POD6, S=1), "C3"),
        "router-advertisement": (
            to_all
            / _ip6(src="fe80::1", dst="ff02::1", hlim=255)
            / ICMPv6ND_RA(routerlifetime=1800)
            / ICMPv6NDOptPrefixInfo(prefix="fd00:1::", prefixlen=64),
            "C3 C27",
        ),
        "mld-report": (
            to_all / _ip6(src="fe80::2", dst="ff02::1", hlim=1) / IPv6ExtHdrHopByHop(options=[RouterAlert()])
            / ICMPv6MLReport(mladdr="ff02::fb"),
            "C3 C27",
        ),
    }  # fmt: skip


def _layer2() -> dict[str, tuple[Packet | bytes, str]]:
    """What is not IP, and IP behind tags and labels."""
    web = _ip() / _tcp() / _raw(100)
    lldp = bytes.fromhex("02070402000000000a040403657468060200780000")  # chassis, port, time to live, end
    pppoe = _ether() / PPPoE(code=0, sessionid=0x1234) / PPP(proto=0x21)
    session = _ether(0x8863) / PPPoE(code=9, sessionid=0) / bytes.fromhex("01010000")
    return {
        "arp-request": (_arp(), "C1 C27"),
        "arp-reply": (_ether() / ARP(op=2, hwsrc=POD_MAC, psrc=POD, hwdst=PEER_MAC, pdst=PEER), "C1"),
        "rarp": (_ether(0x8035) / ARP(op=3, hwsrc=POD_MAC, psrc="0.0.0.0", hwdst=POD_MAC, pdst="0.0.0.0"), "C1"),
        "lldp": (_ether(0x88CC, "01:80:c2:00:00:0e") / lldp, "C2"),
        "stp": (
            Dot3(src=POD_MAC, dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3) / STP() / Raw(bytes(8)),
            "C2",
        ),
        "llc-isis": (
            Dot3(src=POD_MAC, dst="01:80:c2:00:00:14") / LLC(dsap=0xFE, ssap=0xFE, ctrl=3) / b"\x83" / _raw(60),
            "C2",
        ),
        "llc-clnp": (Dot3(src=POD_MAC, dst=PEER_MAC) / LLC(dsap=0xFE, ssap=0xFE, ctrl=3) / b"\x81" / _raw(60), "C2"),
        "llc-netbeui": (Dot3(src=POD_MAC, dst=PEER_MAC) / LLC(dsap=0xF0, ssap=0xF0, ctrl=3) / _raw(60), "C2"),
        "llc-ipx": (Dot3(src=POD_MAC, dst=PEER_MAC) / LLC(dsap=0xE0, ssap=0xE0, ctrl=3) / _raw(60), "C2"),
        "snap-appletalk": (
            Dot3(src=POD_MAC, dst=PEER_MAC) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=0x080007, code=0x809B)
            / _raw(40),
            "C2",
        ),
        "aarp": (_ether(0x80F3) / _raw(46), ""),
        "mop-dump": (_ether(0x6001) / _raw(46), ""),
        "mop-console": (_ether(0x6002) / _raw(46), ""),
        "decnet": (_ether(0x6003) / _raw(46), ""),
        "lat": (_ether(0x6004) / _raw(46), ""),
        "loopback": (_ether(0x9000) / _raw(46), ""),
        "unknown-ethertype": (_ether(0x88B5) / _raw(64), ""),
        "full-unknown": (_ether(0x88B5) / _raw(MTU), ""),
        "vlan-tcp": (_ether() / Dot1Q(vlan=5) / web, "C4 C5"),
        "vlan-priority-dei": (_ether() / Dot1Q(prio=7, dei=1, vlan=4095) / web, "C4"),
        "vlan-0": (_ether() / Dot1Q(prio=3, vlan=0) / web, "C4"),
        "vlan-arp": (_ether(destination="ff:ff:ff:ff:ff:ff") / Dot1Q(vlan=5) / _arp().payload, "C4 C1"),
        "vlan-ip6": (_ether() / Dot1Q(vlan=6) / _ip6() / _udp() / _raw(30), "C4"),
        "vlan-udp-full": (_ether() / Dot1Q(vlan=5) / _ip() / _udp() / _raw(MTU - 28), "C4"),
        "vlan-bare": (_ether() / Dot1Q(vlan=5, type=0x88B5) / _raw(2), "C4 C15"),
        "qinq": (_ether() / Dot1AD(vlan=100) / Dot1Q(vlan=5) / web, "C6"),
        "qinq-8100": (_ether() / Dot1Q(vlan=100) / Dot1Q(vlan=5) / web, "C6"),
        "qinq-9100": (_ether(0x9100) / Dot1Q(vlan=100) / Dot1Q(vlan=5) / web, "C6"),
        "qinq-arp": (_ether() / Dot1AD(vlan=100) / Dot1Q(vlan=5) / _arp().payload, "C6 C1"),
        "tags-3": (_ether() / Dot1AD(vlan=300) / Dot1Q(vlan=200) / Dot1Q(vlan=5) / web, "C6"),
        "mpls": (_ether() / MPLS(label=100, s=1, ttl=64) / web, "C7"),
        "mpls-2": (_ether() / MPLS(label=100, s=0, ttl=64) / MPLS(label=1024, s=1, ttl=63) / web, "C7"),
        "mpls-ip6": (_ether() / MPLS(label=100, s=1, ttl=64) / _ip6() / _tcp(), "C7"),
        "vlan-mpls": (_ether() / Dot1Q(vlan=5) / MPLS(label=100, s=1, ttl=64) / web, "C4 C7"),
        "pppoe-tcp": (pppoe / web, "C8"),
        "pppoe-discovery": (session, "C8"),
        "vlan-pppoe": (_ether() / Dot1Q(vlan=7) / pppoe.payload / web, "C4 C8"),
        "macsec-like": (_ether(0x88E5) / bytes.fromhex("2c000000000100000000000000000001") / _raw(64), ""),
        "ptp": (_ether(0x88F7, "01:1b:19:00:00:00") / bytes.fromhex("0002002c") / _raw(40), "C27"),
        "source-multicast": (Ether(src="03:00:00:00:00:0a", dst=PEER_MAC) / web, "C27"),
    }  # fmt: skip


def _overlay() -> dict[str, tuple[Packet | bytes, str]]:
    """Packets that are tunnels themselves."""
    ether, inner = _ether(), Ether(src=PEER_MAC, dst=POD_MAC) / _ip(src="10.2.0.1", dst="10.2.0.2") / _tcp() / _raw(80)
    return {
        "gre": (ether / _ip() / GRE(proto=0x0800) / inner.payload, "C22"),
        "gre-key-teb": (ether / _ip() / GRE(proto=0x6558, key_present=1, key=99) / inner, "C22"),
        "gre-full": (ether / _ip() / GRE(proto=0x6558) / Raw(bytes(inner) + payload(MTU - 24 - len(inner))), "C22"),
        "ipip": (ether / _ip() / inner.payload, "C22"),
        "ip6-in-ip": (ether / _ip(proto=41) / _ip6() / _tcp(), "C22"),
        "ip-in-ip6": (ether / _ip6(nh=4) / inner.payload, "C22"),
        "vxlan": (ether / _ip() / _udp(4789) / VXLAN(vni=77, flags=8) / inner, "C22"),
        "vxlan-vlan": (
            ether / _ip() / _udp(4789) / VXLAN(vni=77, flags=8) / _ether() / Dot1Q(vlan=5) / inner.payload,
            "C22",
        ),
        "vxlan-ip6": (ether / _ip6() / _udp(8472) / VXLAN(vni=77, flags=8) / inner, "C22"),
        "geneve": (ether / _ip() / _udp(6081) / GENEVE(proto=0x6558, vni=10, optionlen=0) / inner, "C22"),
        "geneve-options": (
            ether / _ip() / _udp(6081) / bytes.fromhex("0200655800000a00" "0102000111223344") / inner,
            "C22",
        ),
        "gtp-u": (ether / _ip() / _udp(2152) / bytes.fromhex("30ff002800000001") / inner.payload, "C22"),
    }  # fmt: skip


def _edit(frame: Packet, *changes: tuple[int, int]) -> bytes:
    """The frame with single bytes (offset from the Ethernet header, value) replaced after all checksums were made."""
    octets = bytearray(bytes(frame))
    for offset, value in changes:
        octets[offset] = value
    return bytes(octets)


def _broken() -> dict[str, tuple[Packet | bytes, str]]:
    """What no stack sends: headers that lie about their length, cuts, runts."""
    tcp, udp = _ether() / _ip() / _tcp() / _raw(64), _ether() / _ip() / _udp() / _raw(64)
    tcp6 = _ether() / _ip6() / _tcp() / _raw(64)
    pad = bytes(18)
    return {
        "ihl-0": (_edit(tcp, (14, 0x40)), "C13"),
        "ihl-4": (_edit(tcp, (14, 0x44)), "C13"),
        "ihl-15-over-end": (_edit(tcp, (14, 0x4F))[:60], "C12"),
        "version-6-as-ip": (_edit(tcp, (14, 0x65)), "C13"),
        "version-4-as-ip6": (_edit(tcp6, (14, 0x45)), "C13"),
        "version-0": (_edit(udp, (14, 0x05)), "C13"),
        "total-length-over": (_edit(udp, (16, 0xFF), (17, 0xFF)), "C13"),
        "total-length-under": (_edit(udp, (16, 0), (17, 10)), "C13"),
        "total-length-0": (_edit(udp, (16, 0), (17, 0)), "C13"),
        "udp-length-over": (_edit(udp, (38, 0xFF)), "C13"),
        "udp-length-7": (_edit(udp, (38, 0), (39, 7)), "C13"),
        "tcp-offset-0": (_edit(tcp, (46, 0x00)), "C13"),
        "tcp-offset-15": (_edit(tcp, (46, 0xF0))[:60], "C12"),
        "ip-bad-checksum": (_edit(tcp, (24, 0xDE), (25, 0xAD)), "C13"),
        "tcp-bad-checksum": (_edit(tcp, (50, 0xDE), (51, 0xAD)), "C13"),
        "ip6-payload-length-over": (_edit(tcp6, (18, 0xFF)), "C13"),
        "ip6-next-header-loop": (_edit(_ether() / _ip6() / IPv6ExtHdrDestOpt() / _udp(), (55, 0xFF)), "C11 C13"),
        "ip-cut-at-10": (bytes(tcp)[:24], "C12"),
        "ip-cut-at-19": (bytes(tcp)[:33], "C12"),
        "ip-without-payload": (bytes(tcp)[:34], "C12 C31"),
        "tcp-cut-at-2": (bytes(tcp)[:36], "C12"),
        "tcp-cut-at-13": (bytes(tcp)[:47], "C12"),
        "udp-cut-at-7": (bytes(udp)[:41], "C12"),
        "ip6-cut-at-39": (bytes(tcp6)[:53], "C12"),
        "arp-cut": (bytes(_arp())[:20], "C12"),
        "vlan-cut-ip": (bytes(_ether() / Dot1Q(vlan=5) / _ip() / _tcp())[:30], "C12 C4"),
        "mpls-no-bottom": (bytes(_ether(0x8847)) + bytes.fromhex("0006403f") * 3, "C12"),
        "runt-15": (bytes(_ether(0x88B5)) + b"\xa5", "C14"),
        "runt-15-ip": (bytes(tcp)[:15], "C14 C12"),
        "runt-17-udp": (bytes(udp)[:17], "C14 C12"),
        "runt-padded-arp": (bytes(_ether() / _arp().payload) + pad, "C15"),
        "runt-padded-udp": (bytes(_ether() / _ip() / _udp() / _raw(2)) + pad[:16], "C15"),
        "padded-over-60": (bytes(udp) + payload(33), "C15"),
        "type-below-1500": (bytes(_ether(0x0003)) + payload(46), "C2"),
        "llc-length-over": (bytes(_ether(0x05DC)) + payload(46), "C2 C13"),
        "ones": (b"\xff" * 60, "C13 C27"),
        "zeros": (bytes(60), "C13"),
    }


def _corpus() -> list[Case]:
    kinds = _ipv4() | _ipv6() | _layer2() | _overlay() | _broken()
    return [Case(name, bytes(frame), tuple(cases.split())) for name, (frame, cases) in kinds.items()]


CORPUS = _corpus()
BARE = Case("ethernet-header-only", bytes(_ether(0x88B5)), ("C14",))
"""Fourteen bytes and no more: no part of the corpus, because the kernel refuses to redirect it."""

CUT_TAG = Case("vlan-cut", bytes(_ether(0x8100)) + b"\x00\x05\x88\xb5\x01", ("C12",))
"""A tag and one byte: no part of the corpus, because a receiving kernel drops it (fewer than two bytes after
the tag) before any hook or capture sees it."""


DEEP = Case(
    "ip6-hop-by-hop-deep-full",
    bytes(_ether() / _ip6(nh=0) / Raw(bytes.fromhex("0664010400000000") + payload(MTU - 48))),
    ("C11",),
)
"""A full frame whose transport header lies 862 bytes in: no part of the corpus, because bpf_skb_change_tail refuses
to cut a frame before its transport header, and a copy of this one has to be fragmented there (measured)."""


def reaches_hooks(frame: bytes) -> bool:
    """Whether a receiving kernel hands a frame to hooks and captures at all: not one that is cut in or just after its
    first tag, which it drops when it takes the tag out (measured)."""
    return not (frame[12:14] in {b"\x81\x00", b"\x88\xa8"} and len(frame) < 20) and len(frame) > 14


def generate(seed: int, count: int, shortest: int = 15, longest: int = MTU + 14) -> Iterator[bytes]:
    """`count` frames of `shortest`..`longest` bytes, made from the corpus by damage; the same for the same arguments.

    A third has a few bits flipped, mostly in the headers; a third has header bytes replaced by values that parsers care
    about; the rest is cut, lengthened, joined from two frames, or random.
    """
    rng = Random(seed)
    random, frames = rng.random, [case.frame for case in CORPUS]
    edges = bytes((0x00, 0x01, 0x04, 0x05, 0x06, 0x08, 0x0F, 0x11, 0x29, 0x2C, 0x2F, 0x33, 0x40, 0x45, 0x4F, 0x60, 0x7F,
                   0x80, 0x81, 0x84, 0x86, 0x88, 0xA8, 0xDD, 0xFE, 0xFF))  # fmt: skip
    for _ in range(count):
        frame = bytearray(frames[int(random() * len(frames))])
        kind = random()
        if kind < 0.33:
            for _ in range(1 + int(random() * 4)):
                position = int(random() * random() * len(frame))
                frame[position] ^= 1 << int(random() * 8)
        elif kind < 0.66:
            for _ in range(1 + int(random() * 4)):
                position = 12 + int(random() * 54)
                if position < len(frame):
                    frame[position] = edges[int(random() * len(edges))] if random() < 0.7 else int(random() * 256)
        elif kind < 0.8:
            del frame[int(random() * random() * len(frame)) :]
        elif kind < 0.87:
            frame += rng.randbytes(int(random() * 64))
        elif kind < 0.95:
            cut = int(random() * min(len(frame), 80))
            frame[cut:] = frames[int(random() * len(frames))][cut if random() < 0.5 else 12 :]
        else:
            frame[12 if random() < 0.5 else 0 :] = rng.randbytes(int(random() * 128))
        if len(frame) < shortest:
            frame += rng.randbytes(shortest - len(frame))
        yield bytes(frame[:longest])
