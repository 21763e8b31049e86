"""From outer packets that scapy built to frames, or to a reason why not."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, PadN
from scapy.layers.l2 import GRE
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from sniffer.abi.records import Program
from sniffer.decap.outer import Fragment
from sniffer.decap.prefilter import program
from sniffer.decap.reassembly import MEMORY, TIME_NS, Reassembly
from sniffer.decap.receiver import ETHERTYPE_IPV4, ETHERTYPE_IPV6, TUNNELS_MAX, Asked, Receiver
from sniffer.decap.refusal import Refusal
from sniffer.decap.tunnels import Inner, Kind
from sniffer.pcap import matches
from sniffer.pcapng import Direction
from tests.packets import BARE, CORPUS
from tests.tunnelled import (
    RECEIVER6,
    SENDER6,
    VXLAN_KEY,
    erspan1,
    erspan2,
    erspan3,
    fragments,
    geneve,
    gre,
    option,
    packet,
    tunnels,
)

ALL = Asked({4789: Kind.VXLAN, 6081: Kind.GENEVE}, frozenset((Kind.GRE, Kind.ERSPAN)))
FRAMES = [case.frame for case in (*CORPUS, BARE)]
FRAME = CORPUS[0].frame


def receive(receiver: Receiver, outer: bytes, time_ns: int = 0) -> Inner | None:
    ethertype = ETHERTYPE_IPV4 if outer[0] >> 4 == 4 else ETHERTYPE_IPV6
    arrival = receiver.receive(ethertype, memoryview(outer), time_ns)
    check_identity(receiver)
    return arrival and arrival.inner


def check_identity(receiver: Receiver) -> None:
    counts = receiver.reassembly.counts
    whole = receiver.packets - counts.received
    assert whole + counts.reassembled == receiver.frames + sum(receiver.refused.values())


def refusals(receiver: Receiver) -> dict[Refusal, int]:
    return {reason: number for reason, number in receiver.refused.items() if number}


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize(
    ("tunnel", "kind", "key", "sequence"),
    [
        (VXLAN_KEY, Kind.VXLAN, 4242, None),
        (UDP(sport=1, dport=4789) / VXLAN(flags=0x88, vni=2**24 - 1, gpid=5), Kind.VXLAN, 2**24 - 1, None),
        (UDP(sport=1, dport=4789) / VXLAN(flags=0x0C, vni=3, NextProtocol=3), Kind.VXLAN, 3, None),
        (gre(), Kind.GRE, None, None),
        (gre(0), Kind.GRE, 0, None),
        (gre(2**32 - 1, 2**32 - 1), Kind.GRE, 2**32 - 1, 2**32 - 1),
        (gre(None, 5, checksum=True), Kind.GRE, None, 5),
        (gre(9, 5, checksum=True), Kind.GRE, 9, 5),
        (geneve(), Kind.GENEVE, 99, None),
        (erspan1(), Kind.ERSPAN, None, None),
        (erspan2(1023, 8), Kind.ERSPAN, 1023, 8),
        (erspan3(77, 9), Kind.ERSPAN, 77, 9),
        (erspan3(77, 9, o=1), Kind.ERSPAN, 77, 9),
    ],
)
def test_every_frame_of_the_corpus(
    tunnel: Packet, kind: Kind, key: int | None, sequence: int | None, ipv6: bool
) -> None:
    receiver = Receiver(ALL)
    for frame in FRAMES:
        inner = receive(receiver, packet(tunnel, frame, ipv6))
        assert inner, refusals(receiver)
        assert (inner.kind, inner.key, inner.sequence) == (kind, key, sequence)
        assert bytes(inner.frame) == frame
    (found,) = receiver.tunnels.values()
    assert (found.sender, found.receiver) == ((SENDER6, RECEIVER6) if ipv6 else ("10.9.0.1", "10.9.0.2"))
    assert (found.frames, found.octets) == (len(FRAMES), sum(map(len, FRAMES)))


def test_what_options_say() -> None:
    receiver = Receiver(ALL)
    words = option(1, 0x1A2B3C4D), option(2, 0xF), option(3, 2), option(4, 9000), option(5, 10)
    inner = receive(receiver, packet(geneve(*words, option(7, b"12345678", 0x102), option(9, b"")), FRAME))
    assert inner
    assert inner.comment == "node=1a2b3c4d mirror=0000000f sampled=1/10"
    assert (inner.direction, inner.original_length) == (Direction.EGRESS, 9000)
    assert bytes(inner.frame) == FRAME
    # Whole and unsampled; a direction and a length of tomorrow.
    inner = receive(receiver, packet(geneve(option(3, 7), option(4, len(FRAME) - 1), option(5, 1)), FRAME))
    assert inner
    assert (inner.direction, inner.original_length, inner.comment) == (Direction.UNKNOWN, None, "")


def test_what_erspan_says() -> None:
    receiver = Receiver(ALL)
    for tunnel, direction, comment in (
        (erspan2(1, 1, vlan=5, t=1), Direction.UNKNOWN, "vlan=5 truncated"),
        (erspan2(1, 2, en=3, cos=7, index=2), Direction.UNKNOWN, "index=2"),
        (erspan3(1, 3, timestamp=123, gra=1), Direction.INGRESS, "timestamp=123 (100 ns)"),
        (erspan3(1, 4, d=1, bso=3, t=1, vlan=4095), Direction.EGRESS, "vlan=4095 truncated bad timestamp=0 (100 us)"),
    ):
        inner = receive(receiver, packet(tunnel, FRAME))
        assert inner
        assert (inner.direction, inner.comment, inner.original_length) == (direction, comment, None)


def broken(outer: bytes, *changes: tuple[int, int]) -> bytes:
    edited = bytearray(outer)
    for place, value in changes:
        edited[place] = value
    return bytes(edited)


VXLAN_OUTER = packet(VXLAN_KEY, FRAME)
GRE_OUTER = packet(gre(1, 1, checksum=True), FRAME)
SUMMED = packet(UDP(sport=1, dport=4789) / VXLAN(flags=8, vni=1), FRAME)


@pytest.mark.parametrize(
    ("outer", "reason"),
    [
        (VXLAN_OUTER[:19], Refusal.OUTER_HEADER),
        (VXLAN_OUTER[:-1], Refusal.OUTER_HEADER),
        (broken(VXLAN_OUTER, (0, 0x44)), Refusal.OUTER_HEADER),
        (broken(VXLAN_OUTER, (8, 63)), Refusal.OUTER_CHECKSUM),
        (packet(UDP(dport=4789, len=7, chksum=0), bytes(30)), Refusal.OUTER_HEADER),
        (packet(UDP(dport=4789, len=60, chksum=0), bytes(30)), Refusal.OUTER_HEADER),
        (packet(Raw(b"1234567"), b"", proto=17), Refusal.OUTER_HEADER),
        (SUMMED[:-1] + b"?", Refusal.OUTER_CHECKSUM),
        (GRE_OUTER[:-1] + b"?", Refusal.OUTER_CHECKSUM),
        (packet(UDP(dport=4788), FRAME), Refusal.NOT_ASKED),
        (packet(Raw(FRAME), b"", proto=6), Refusal.NOT_ASKED),
        (packet(UDP(dport=4789, chksum=0) / VXLAN(flags=0), FRAME), Refusal.TUNNEL_HEADER),
        (packet(UDP(dport=4789, chksum=0), b"\x08123456"), Refusal.TUNNEL_HEADER),
        (packet(UDP(dport=4789, chksum=0) / VXLAN(flags=12, NextProtocol=1), FRAME), Refusal.NOT_ETHERNET),
        (packet(VXLAN_KEY, FRAME[:13]), Refusal.SHORT_FRAME),
        (packet(Raw(b"\0\0\x65"), b"", proto=47), Refusal.TUNNEL_HEADER),
        (packet(Raw(b"\x30\0\x65\x58\0\0\0\x01\0\0\0"), b"", proto=47), Refusal.TUNNEL_HEADER),
        (packet(GRE(proto=0x6558, version=1), FRAME), Refusal.TUNNEL_HEADER),
        (packet(GRE(proto=0x6558, routing_present=1), FRAME), Refusal.TUNNEL_HEADER),
        (packet(GRE(proto=0x6558, recursion_control=4), FRAME), Refusal.TUNNEL_HEADER),
        (packet(GRE(proto=0x0800), FRAME), Refusal.NOT_ETHERNET),
        (packet(geneve(version=1), FRAME), Refusal.TUNNEL_HEADER),
        (packet(geneve(optionlen=63), FRAME), Refusal.TUNNEL_HEADER),
        (packet(geneve(oam=1), FRAME), Refusal.CONTROL),
        (packet(UDP(dport=6081, chksum=0), bytes.fromhex("0000080000006300") + FRAME), Refusal.NOT_ETHERNET),
        (packet(geneve(option(0x81, 1)), FRAME), Refusal.CRITICAL_OPTION),
        (packet(geneve(option(0x80, b"", 0x102)), FRAME), Refusal.CRITICAL_OPTION),
        (packet(geneve(option(1, 1), optionlen=1), FRAME), Refusal.TUNNEL_HEADER),
        (packet(UDP(dport=6081, chksum=0), bytes.fromhex("01006558 00006300 ff530102") + FRAME), Refusal.TUNNEL_HEADER),
        (packet(GRE(proto=0x88BE, seqnum_present=1, sequence_number=1), b"\x20" + FRAME), Refusal.TUNNEL_HEADER),
        (packet(GRE(proto=0x88BE, key_present=1, key=1), b"\x10123456"), Refusal.TUNNEL_HEADER),
        (packet(GRE(proto=0x22EB), b"\x10" + FRAME), Refusal.TUNNEL_HEADER),
        (packet(GRE(proto=0x22EB), b"\x20" + bytes(10) + b"\1"), Refusal.TUNNEL_HEADER),
        (packet(erspan3(1, 1, ft=2), FRAME), Refusal.NOT_ETHERNET),
        (packet(VXLAN_KEY, FRAME, ipv6=True)[:39], Refusal.OUTER_HEADER),
        (packet(VXLAN_KEY, FRAME, ipv6=True)[:-1], Refusal.OUTER_HEADER),
        (packet(IPv6ExtHdrHopByHop(nh=0, len=9, options=[]), b"", ipv6=True), Refusal.OUTER_HEADER),
        (packet(Raw(bytes([0, 0, *[0] * 6]) * 10), FRAME, ipv6=True, nh=0), Refusal.OUTER_HEADER),
        (packet(Raw(b"\x11\0\0\x08"), b"", ipv6=True, nh=44), Refusal.OUTER_HEADER),
    ],
)  # fmt: skip
def test_what_is_damaged_is_counted_by_its_reason(outer: bytes, reason: Refusal) -> None:
    receiver = Receiver(ALL)
    assert receive(receiver, outer) is None
    assert refusals(receiver) == {reason: 1}


@pytest.mark.parametrize("outer", [SUMMED, GRE_OUTER])
def test_a_checksum_that_the_device_vouches_for(outer: bytes) -> None:
    """Or one that is not made yet: between virtual links it never is."""
    receiver = Receiver(ALL)
    assert receiver.receive(ETHERTYPE_IPV4, outer[:-1] + b"?", 0, checked=True)
    assert receiver.receive(ETHERTYPE_IPV4, outer[:-1] + b"?", 0) is None


def test_only_what_was_asked_for() -> None:
    for asked, wanted in (
        (Asked({4789: Kind.VXLAN}, frozenset()), {"vxlan"}),
        (Asked({6081: Kind.GENEVE}, frozenset()), {"geneve"}),
        (Asked({}, frozenset((Kind.GRE,))), {"gre"}),
        (Asked({}, frozenset((Kind.ERSPAN,))), {"erspan1", "erspan2", "erspan3"}),
    ):
        receiver = Receiver(asked)
        found = {name for name, tunnel in tunnels() if receive(receiver, packet(tunnel, FRAME))}
        assert found == wanted
        assert refusals(receiver) == {Refusal.NOT_ASKED: 6 - len(wanted)}


def test_padding_behind_the_outer_packet_is_no_part_of_the_frame() -> None:
    for ipv6 in (False, True):
        inner = receive(Receiver(ALL), packet(VXLAN_KEY, FRAME, ipv6) + bytes(6))
        assert inner
        assert bytes(inner.frame) == FRAME


def test_extension_headers_are_passed_over() -> None:
    chain = IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]) / IPv6ExtHdrDestOpt(
        options=[PadN(optdata=b"\0" * 12)]
    )
    inner = receive(Receiver(ALL), packet(chain / VXLAN_KEY, FRAME, ipv6=True))
    assert inner
    assert bytes(inner.frame) == FRAME


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("name", [name for name, _ in tunnels()])
def test_fragments_in_any_order(name: str, ipv6: bool) -> None:
    tunnel = dict(tunnels())[name]
    receiver, mixed = Receiver(ALL), random.Random(7)
    frame = random.Random(1).randbytes(9014)
    parts = [part for number in (1, 2, 3) for part in fragments(tunnel, frame, 1480, number, ipv6)]
    assert len(parts) >= 21
    mixed.shuffle(parts)
    inner = [found for part in parts if (found := receive(receiver, part))]
    assert [bytes(found.frame) for found in inner] == [frame] * 3
    assert receiver.reassembly.counts.reassembled == 3
    assert receiver.reassembly.counts.received == len(parts)


def test_a_checksum_over_fragments_is_looked_at() -> None:
    receiver = Receiver(ALL)
    parts = fragments(UDP(sport=1, dport=4789) / VXLAN(flags=8, vni=1), bytes(3000), 1480, 1)
    parts[1] = parts[1][:-1] + b"?"
    for part in parts:
        assert receiver.receive(ETHERTYPE_IPV4, part, 0, checked=True) is None
    assert refusals(receiver) == {Refusal.OUTER_CHECKSUM: 1}


def part(offset: int, length: int, more: bool = True, number: int = 1, fill: bytes = b"x") -> Fragment:
    return Fragment(b"\x0a\x09\0\1", b"\x0a\x09\0\2", 17, number, offset, more, fill * length)


@pytest.mark.parametrize(
    "parts",
    [
        [part(0, 16), part(8, 16), part(24, 8, more=False)],
        [part(0, 16), part(0, 16, fill=b"y"), part(16, 8, more=False)],
        [part(0, 16), part(0, 24), part(24, 8, more=False)],
        [part(16, 8), part(8, 16), part(0, 8), part(24, 8, more=False)],
        [part(16, 8, more=False), part(24, 8), part(0, 16)],
        [part(16, 8), part(8, 8, more=False), part(0, 8), part(24, 8, more=False)],
        [part(16, 8, more=False), part(16, 16, more=False), part(0, 16)],
    ],
)
def test_overlapping_fragments_are_refused(parts: Sequence[Fragment]) -> None:
    """All of the packet, what comes after too."""
    reassembly = Reassembly()
    assert [reassembly.add(one, 0) for one in (*parts, *parts)] == [None] * len(parts) * 2
    assert reassembly.counts.overlapping == 1
    # Once forgotten, the identification is free again.
    assert reassembly.add(part(0, 8), TIME_NS + 1) is None
    assert reassembly.add(part(8, 8, more=False), TIME_NS + 1) is not None


def test_a_part_that_comes_twice_is_taken_once() -> None:
    reassembly = Reassembly()
    for one in (part(0, 8), part(0, 8), part(16, 3, more=False), part(16, 3, more=False)):
        assert reassembly.add(one, 0) is None
    assert reassembly.add(part(8, 8), 0) is not None
    assert (reassembly.counts.duplicates, reassembly.counts.overlapping) == (2, 0)


def test_damaged_parts() -> None:
    reassembly = Reassembly()
    for one in (part(0, 0), part(0, 9), part(65528, 8), part(65528, 100, more=False)):
        assert reassembly.add(one, 0) is None
    assert reassembly.counts.damaged == 4
    assert reassembly.add(part(0, 65528), 0) is None
    assert reassembly.add(part(65528, 7, more=False), 0) is not None


def test_what_waits_too_long_is_given_up() -> None:
    reassembly = Reassembly()
    reassembly.add(part(0, 8, number=1), 0)
    reassembly.add(part(8, 8, number=2), 0)
    reassembly.add(part(8, 8, number=3), 1)
    assert reassembly.add(part(8, 8, more=False, number=1), TIME_NS + 1) is None
    assert (reassembly.counts.incomplete, reassembly.counts.headless) == (1, 1)
    reassembly.finish()
    assert (reassembly.counts.incomplete, reassembly.counts.headless) == (1, 3)
    reassembly.finish()


def test_memory_is_bounded() -> None:
    reassembly = Reassembly()
    for number in range(MEMORY // 65528 + 100):
        reassembly.add(part(0, 65528, number=number), 0)
        assert reassembly._memory <= MEMORY
    assert reassembly.counts.evicted > 90
    count = MEMORY // 512
    for number in range(count):
        reassembly.add(part(0, 8, number=number), 0)
    assert len(reassembly._waiting) < count
    assert reassembly._memory <= MEMORY
    reassembly.finish()
    assert (reassembly._memory, reassembly._waiting) == (0, {})


def test_more_senders_than_are_told_apart() -> None:
    receiver = Receiver(ALL)
    outer = packet(gre(1, 5), FRAME)
    for number in range(TUNNELS_MAX + 50):
        key = number.to_bytes(4)
        assert receive(receiver, outer[:24] + key + outer[28:])
    assert len(receiver.tunnels) == TUNNELS_MAX + 1
    *_, others = receiver.tunnels.values()
    assert (others.sender, others.key, others.frames, others.sequence) == ("", None, 50, None)


SEEDS = [packet(tunnel, FRAME, ipv6) for _, tunnel in tunnels() for ipv6 in (False, True)] + [
    one for ipv6 in (False, True) for one in fragments(VXLAN_KEY, bytes(64), 48, 5, ipv6)
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A packet with some bytes changed, cut, or nothing but noise; its IPv4 checksum mended."""
    if draw(st.booleans()) and draw(st.booleans()):
        return draw(st.binary(min_size=1, max_size=120))
    outer = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        outer[draw(st.integers(0, min(len(outer), 90) - 1))] = draw(st.integers(0, 255))
    if outer[0] >> 4 == 4 and (header := (outer[0] & 15) * 4) <= len(outer) and header >= 20:
        outer[10:12] = bytes(2)
        outer[10:12] = (0xFFFF - int.from_bytes(outer[:header]) % 0xFFFF).to_bytes(2)
    return bytes(outer[: draw(st.integers(1, len(outer)))] if draw(st.booleans()) else outer)


def prefilters() -> tuple[Program, Program]:
    """The parts of the kernel's filter for IPv4 and IPv6: those before ask what libpcap does not know."""
    whole = program(ALL)
    at = next(number for number, line in enumerate(whole) if (line.code, line.k) == (0x30, 6))
    return whole[5:], whole[at:]


@given(st.lists(damaged(), min_size=1, max_size=6))
def test_whatever_arrives(packets: list[bytes]) -> None:
    receiver = Receiver(ALL)
    before = prefilters()
    for outer in packets:
        receive(receiver, outer)
        if receive(Receiver(ALL), outer):  # alone: a first fragment of another port yields nothing in the end
            assert matches(before[outer[0] >> 4 != 4], outer), outer.hex()
    receiver.reassembly.finish()
    receiver.row()


def test_a_hundred_thousand_damaged_packets() -> None:
    mixed = random.Random(3)
    receiver = Receiver(ALL)
    for number in range(100_000):
        outer = bytearray(mixed.choice(SEEDS))
        for _ in range(mixed.randrange(3)):
            outer[mixed.randrange(len(outer))] = mixed.randrange(256)
        cut = mixed.randrange(len(outer)) if mixed.random() < 0.1 else len(outer)
        ethertype = ETHERTYPE_IPV6 if outer[0] >> 4 == 6 else ETHERTYPE_IPV4
        receiver.receive(ethertype, bytes(outer[:cut]), number * 10_000_000)
    check_identity(receiver)
    assert receiver.frames > 20_000
    assert all(receiver.refused.values()), receiver.refused


@pytest.mark.parametrize("ipv6", [False, True])
def test_the_kernel_hands_over_little_else(ipv6: bool) -> None:
    asked = Asked({4789: Kind.VXLAN}, frozenset())
    whole = program(asked)
    at = next(number for number, line in enumerate(whole) if (line.code, line.k) == (0x30, 6)) if ipv6 else 5
    mine, other, first, later = (
        packet(VXLAN_KEY, FRAME, ipv6),
        packet(UDP(dport=53), FRAME, ipv6),
        *fragments(UDP(dport=53), bytes(64), 48, 1, ipv6)[:2],
    )
    parts = fragments(VXLAN_KEY, bytes(64), 48, 5, ipv6)
    wanted = [
        (mine, True),
        *((part, True) for part in parts),
        (other, False),
        (first, False),
        (later, True),
        (packet(gre(), FRAME, ipv6), False),
    ]
    assert [matches(whole[at:], outer) for outer, _ in wanted] == [taken for _, taken in wanted]
