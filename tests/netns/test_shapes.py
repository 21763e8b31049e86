"""What else an skb can be: data in pages, a checksum that covers it all, longer than any IP length can say, on its way
back out of the port that it came by, or without an Ethernet header.
"""

import json
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from tests.agent import Agent, mirror, target
from tests.mirrored import (
    agent_at,
    check_counts,
    check_identity,
    copies,
    difference,
    mirror_of,
    programme,
    settled,
)
from tests.packets import BARE, CORPUS, payload, reaches_hooks
from tests.receivers import decode
from tests.segments import checksums_good, layers, rebuild, unsummed
from tests.streams import content, tcp
from tests.topology import Node, node, run, set_sysctl
from tests.tun import NAPI, NAPI_FRAGS, TAP, TUN, tun
from tests.wire import Capture, send, socket_in
from tests.witness import quiet_kernel

Bed = tuple[Node, Agent]
FRAMES = [case.frame for case in CORPUS]
ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
TAGS = ("810000050800aabb", "88a80064810000ff", "8100ffff81008100")


def ip(words: str) -> str:
    return run("ip", *words.split())


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with node(ipv6=True) as made, agent_at(tmp_path_factory.mktemp("agent")) as agent, quiet_kernel():
        yield made, agent


def test_headers_in_pages(bed: Bed) -> None:
    """C25: of each frame fourteen bytes lie in the skb itself, all else in fragments, from its IP header on."""
    _, agent = bed
    frames = [frame for frame in FRAMES if len(frame) > 34 and reaches_hooks(frame)]
    with tun("frags0", TAP | NAPI | NAPI_FRAGS) as device:
        (name,) = programme(agent, target(), mirror_of("ana", "frags0"))
        with Capture("frags0") as hook, Capture("eth0", "ana") as analyzer:
            for frame in frames:
                parts = [frame[:14], frame[14:30], frame[30:]]
                assert os.writev(device, parts) == len(frame)
            outer = copies(analyzer)
        seen = hook.octets()
    assert len(seen) > 100
    assert difference(seen, (item.frame for item in decode(outer))) == ([], [])
    check_counts(*settled(agent, name), seen, outer)


def test_a_checksum_that_covers_everything(bed: Bed) -> None:
    """C24: what a vxlan device of the node takes out of its tunnel; the original's checksum stays good enough for the
    kernel to deliver it."""
    here, agent = bed
    ip("link add vx0 type vxlan id 9 dstport 4790 local 10.1.0.1 udpcsum")
    set_sysctl("net.ipv6.conf.vx0.disable_ipv6", 1)
    ip("address add 10.1.0.1/24 dev br0")
    ip("address add 10.7.0.1/24 dev vx0")
    ip("link set vx0 up")
    run("ethtool", "-K", "pod0", "rx", "off", "gro", "off")
    try:
        mac = json.loads(run("ip", "-j", "link", "show", "vx0"))[0]["address"]
        bridge = json.loads(run("ip", "-j", "link", "show", "br0"))[0]["address"]
        inner = [
            Ether(src=here.peer_mac, dst=mac)
            / IP(src="10.7.0.2", dst="10.7.0.1", id=n)
            / UDP(sport=7, dport=77)
            / payload(n)
            for n in (1, 2, 33, 700, 1401)
        ]
        outer = (
            Ether(src=here.pod_mac, dst=bridge) / IP(src=here.pod_address, dst="10.1.0.1") / UDP(sport=5, dport=4790)
        )
        (name,) = programme(agent, target(), mirror_of("ana", "vx0"))
        with socket_in(None, socket.AF_INET, socket.SOCK_DGRAM) as receiver, Capture("eth0", "ana") as analyzer:
            receiver.bind(("10.7.0.1", 77))
            receiver.settimeout(2)
            send([bytes(outer / VXLAN(vni=9, flags=8) / one) for one in inner])
            got = [receiver.recv(2000) for _ in inner]
            arrived = copies(analyzer)
        assert got == [bytes(one[UDP].payload) for one in inner]
        assert [item.frame for item in decode(arrived)] == [bytes(one) for one in inner]
        check_counts(*settled(agent, name), map(bytes, inner), arrived)
    finally:
        run("ethtool", "-K", "pod0", "rx", "on")
        ip("address delete 10.1.0.1/24 dev br0")
        ip("link delete vx0")


def test_back_out_of_the_port_that_it_came_by(bed: Bed) -> None:
    """C28: a bridge in hairpin mode; in and out are two frames of two hooks, and each is mirrored once."""
    _, agent = bed
    ip("link set pod0 type bridge_slave hairpin on")
    try:
        names = programme(agent, target(), mirror_of("ana"), mirror_of("ana", direction="Egress"))
        frames = [bytes(ETHER / IP(id=n) / UDP() / payload(n)) for n in range(1, 1400, 50)]
        with Capture("eth0", "pod") as back, Capture("eth0", "ana") as analyzer:
            send(frames)
            back.settle()
            outer = copies(analyzer)
        assert back.octets() == frames
        assert difference(frames * 2, (item.frame for item in decode(outer))) == ([], [])
        for row in settled(agent, *names):
            check_identity(row)
            assert row["matched"]["packets"] == row["sent"]["packets"] == len(frames)
    finally:
        ip("link set pod0 type bridge_slave hairpin off")


def set_longest(size: int, *devices: tuple[str, str | None]) -> None:
    """Bytes of the longest super-packet, sent and received, of IPv6 and of IPv4 (which iproute2 learnt late)."""
    for name, netns in devices:
        with socket_in(netns, socket.AF_NETLINK, socket.SOCK_RAW) as netlink:
            words = [struct.pack("=HHI", 8, kind, size) for kind in (41, 58, 63, 64)]  # IFLA_G[SR]O_[IPV4_]MAX_SIZE
            attributes = b"".join(words) + struct.pack("=HH16s", 20, 3, name.encode())  # IFLA_IFNAME
            header = struct.pack("=IHHII", 32 + len(attributes), 16, 5, 1, 0)  # RTM_NEWLINK, with an answer
            netlink.send(header + struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attributes)
            assert struct.unpack_from("=i", netlink.recv(4096), 16) == (0,), name


@pytest.mark.parametrize("address", ["10.1.0.30", "fd00:1::1e"])
@pytest.mark.parametrize("oversize", ["Segment", "Drop"])
def test_longer_than_an_ip_length(bed: Bed, address: str, oversize: str) -> None:
    """C29: BIG TCP, IPv6 with its hop-by-hop header and IPv4 with a length of 0: the stream arrives in segments that
    the wire carries, without a fragment."""
    _, agent = bed
    sent = content(8 << 20)
    devices = (("eth0", "pod"), ("eth0", "peer"), ("pod0", None), ("peer0", None), ("br0", None))
    set_longest(120_000, *devices)
    try:
        (name,) = programme(agent, target(oversize=oversize), mirror_of("ana"))
        with Capture("pod0") as hook, Capture("eth0", "ana") as analyzer:
            assert tcp(sent, address) == sent
            outer = copies(analyzer)
    finally:
        set_longest(65536, *devices)
    assert max(map(len, hook.octets())) > 70_000
    (row,) = settled(agent, name)
    check_identity(row)
    assert row["matched"]["packets"] == len(hook.frames)
    assert not any(row["lost"].values())
    assert row["wire"]["packets"] == len(outer)
    if oversize == "Drop":
        assert row["dropped"]["oversize"] > 0
        return
    received = decode(outer)
    single = {unsummed(frame) for frame in hook.octets() if len(frame) <= 1514}
    assert all(item.fragments == 1 or unsummed(item.frame) in single for item in received)
    assert all(checksums_good(item.frame) for item in received if layers(item.frame))
    assert list(rebuild(item.frame for item in received).values()) == [sent]


def test_an_interface_without_an_ethernet_header(bed: Bed) -> None:
    """C30: by its name it is refused, with a reason; a pattern leaves it out; the other mirrors work."""
    _, agent = bed
    with tun("tun0", TUN):
        agent.write(
            target(),
            mirror("named", ["tun0"]),
            mirror("loop", ["lo"]),
            mirror("pattern", ["tun*", "pod0"], direction="Ingress"),
        )
        rows = {row["name"]: row for row in agent.programmed("pattern")["mirrors"]}
        for name, device in (("named", "tun0"), ("loop", "lo")):
            assert (rows[name]["state"], rows[name]["reason"]) == ("Rejected", "UnsupportedInterface")
            assert rows[name]["message"] == f"{device} has no Ethernet header"
        assert rows["pattern"]["interfaces"] == ["pod0"]
        assert {hook["interface"] for hook in agent.status()["hooks"]} == {"pod0"}


@pytest.mark.parametrize(("direction", "device", "netns"), [("Ingress", "eth0", "pod"), ("Egress", "pod0", None)])
def test_frames_with_hardly_anything_behind_their_header(bed: Bed, direction: str, device: str, netns: str) -> None:
    """C12, C14: nothing at all, or a tag that is cut or ends the frame. A receiving kernel drops those before any hook
    sees them; on their way out they are there."""
    _, agent = bed
    frames = [BARE.frame, *(FRAMES[0][:12] + bytes.fromhex(tag)[:n] for tag in TAGS for n in range(3, 9))]
    (name,) = programme(agent, target(), mirror_of("ana", direction=direction))
    with Capture("eth0", "ana") as analyzer:
        send(frames, device, netns)
        outer = copies(analyzer)
    wanted = [frame for frame in frames if direction == "Egress" or reaches_hooks(frame) or frame == BARE.frame]
    assert difference(wanted, (item.frame for item in decode(outer))) == ([], [])
    check_counts(*settled(agent, name), wanted, outer)
