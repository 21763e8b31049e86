"""The decoders, against outer packets that scapy built: known good before any data path of ours exists."""

import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests.packets import BARE, CORPUS, generate
from tests.receivers import decode, inner_frames, kernel_takes, kernel_vxlan
from tests.topology import Node, node
from tests.wire import Capture, send


@pytest.fixture(scope="module")
def bed() -> Iterator[Node]:
    with node() as made:
        yield made


def outer(bed: Node, tunnel: Packet, frame: bytes, identification: int, size: int = 65500) -> list[bytes]:
    """The Ethernet frames of one outer packet, in fragments where it is longer than `size`."""
    ip = IP(src=bed.uplink_address, dst=bed.analyzer_address, id=identification, ttl=64, tos=8 << 2)
    parts = fragment(IP(bytes(ip / tunnel / Raw(frame))), size)
    return [bytes(Ether(src=bed.uplink_mac, dst=bed.analyzer_mac) / part) for part in parts]


def vxlan(port: int = 4789, vni: int = 4242, source: int = 50000) -> Packet:
    return UDP(sport=source, dport=port, chksum=0) / VXLAN(flags=8, vni=vni)


def through(bed: Node, frames: list[bytes]) -> list[bytes]:
    """Sends outer frames over the uplink and returns what the analyzer's link carried."""
    with Capture("eth0", bed.analyzer) as capture:
        send(frames, bed.uplink, netns=None)
        return capture.wait(len(frames))


@pytest.mark.parametrize("port", [4789, 8472, 53])
def test_tshark_decodes_vxlan_of_the_whole_corpus(bed: Node, port: int) -> None:
    """Port 53: a port that tshark knows as something else."""
    frames = [case.frame for case in (*CORPUS, BARE)]
    sent = [
        part
        for index, frame in enumerate(frames)
        for part in outer(bed, vxlan(port, 7, 50000 + index), frame, index, 1480)
    ]
    got = decode(through(bed, sent), port)
    assert [item.frame for item in got] == frames
    assert [item.source_port for item in got] == [50000 + index for index in range(len(frames))]
    assert {(item.kind, item.key, item.flags, item.udp_checksum) for item in got} == {("vxlan", 7, 0x0800, 0)}
    assert [item.ip_id for item in got] == list(range(len(frames)))
    assert {(item.ttl, item.dscp) for item in got} == {(64, 8)}
    assert max(item.outer_length for item in got) <= 1514
    assert {item.fragments for item in got} == {1, 2}


@pytest.mark.parametrize("key", [None, 0, 99, 2**32 - 1])
def test_tshark_decodes_gre_of_the_whole_corpus(bed: Node, key: int | None) -> None:
    tunnel = GRE(proto=0x6558) if key is None else GRE(proto=0x6558, key_present=1, key=key)
    frames = [case.frame for case in (*CORPUS, BARE)]
    sent = [part for index, frame in enumerate(frames) for part in outer(bed, tunnel, frame, index, 1480)]
    got = decode(through(bed, sent))
    assert [item.frame for item in got] == frames
    assert {(item.kind, item.key, item.source_port) for item in got} == {("gre", key, None)}


def test_fragments_in_disorder_and_in_many_pieces(bed: Node) -> None:
    frame = next(case.frame for case in CORPUS if case.name == "udp-full")
    first, second = outer(bed, vxlan(), frame, 1, 400), outer(bed, vxlan(), frame[::-1], 2, 400)
    mixed = [part for pair in zip(reversed(first), second, strict=True) for part in pair]
    got = decode(through(bed, mixed))
    assert {item.frame for item in got} == {frame, frame[::-1]}
    assert {item.fragments for item in got} == {len(first)} == {4}
    assert inner_frames(first[:-1]) == []


def test_what_is_no_tunnel_is_not_decoded(bed: Node) -> None:
    """The corpus itself has tunnels, on other ports and in production addresses; the first tunnel counts."""
    plain = [bytes(Ether(src=bed.uplink_mac, dst=bed.analyzer_mac) / IP(dst="10.9.0.2", src="10.9.0.1") / UDP())]
    assert decode(plain) == []
    tagged = Ether(outer(bed, vxlan(), CORPUS[0].frame, 3)[0])
    leaked = Ether(src=tagged.src, dst=tagged.dst) / Dot1Q(vlan=5) / tagged.payload
    assert inner_frames([bytes(leaked)]) == [CORPUS[0].frame]


@pytest.mark.parametrize("size", [65500, 1480, 200])
def test_kernel_decapsulates_vxlan_of_the_corpus(bed: Node, size: int) -> None:
    longest = 1450 if size > 1500 else 1518
    cases = [case for case in CORPUS if kernel_takes(case.frame) and len(case.frame) <= longest]
    with kernel_vxlan(99, 4790) as inner:
        for index, case in enumerate(cases):
            send(outer(bed, vxlan(4790, 99), case.frame, index, size), bed.uplink, netns=None)
        frames = inner.wait(len(cases))
        missing = [case.name for case in cases if case.frame not in frames]
        assert missing == []
        assert frames == [case.frame for case in cases]


def test_kernel_drops_what_it_says(bed: Node) -> None:
    """So that nobody blames the data path: these inner frames never appear on a vxlan device."""
    with kernel_vxlan(99, 4790) as inner:
        refused = [case.frame for case in CORPUS if not kernel_takes(case.frame)]
        assert len(refused) == 5
        for frame in refused:
            send(outer(bed, vxlan(4790, 99), frame, 7), bed.uplink, netns=None)
        send(outer(bed, vxlan(4790, 98), CORPUS[0].frame, 8), bed.uplink, netns=None)
        assert inner.settle() == []


def test_both_decode_damaged_frames(bed: Node) -> None:
    frames = list(generate(21, 3000, longest=1450))
    header = outer(bed, vxlan(4790, 99), b"", 1)[0]
    sent = [whole(header, frame, index) for index, frame in enumerate(frames)]
    with kernel_vxlan(99, 4790) as inner:
        assert inner_frames(through(bed, sent), 4790) == frames
        assert inner.settle() == [frame for frame in frames if kernel_takes(frame)]


def whole(header: bytes, frame: bytes, identification: int) -> bytes:
    """An outer VXLAN frame around an inner one, from a header around none; quicker than scapy."""
    length = len(header) - 14 + len(frame)
    ip = header[14:16] + struct.pack(">HH", length, identification) + header[20:24] + bytes(2) + header[26:34]
    checksum = 0xFFFF - sum(struct.unpack(">10H", ip)) % 0xFFFF
    udp = header[34:38] + struct.pack(">HH", length - 20, 0) + header[42:50]
    return header[:14] + ip[:10] + struct.pack(">H", checksum) + ip[12:] + udp + frame
