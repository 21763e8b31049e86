"""Copies are never copied, and nobody hides by looking like one."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent import Agent, mirror, target
from tests.inventory import attached
from tests.numbered import VXLAN, assert_each_once, datagrams, numbers
from tests.receivers import inner_frames
from tests.topology import Node, node, refuses, remove, run, set_sysctl, up
from tests.traffic import blast
from tests.wire import Capture, send, socket_in
from tests.witness import Witness

ENCAPSULATIONS = {"vxlan": {"vxlan": {"vni": 4242}}, "gre": {"gre": {"key": 7}}, "gre without key": {"gre": {}}}


@pytest.fixture
def bed() -> Iterator[Node]:
    with node() as made:
        for netns, device, address, mac in (
            (None, "up0", made.analyzer_address, made.analyzer_mac),
            (made.analyzer, "eth0", made.uplink_address, made.uplink_mac),
        ):
            run("ip", "neighbour", "replace", address, "lladdr", mac, "dev", device, "nud", "permanent", netns=netns)
        # Somebody listens: an analyzer that refuses (A4) is another test.
        with socket_in(made.analyzer, socket.AF_INET, socket.SOCK_DGRAM) as vxlan:
            vxlan.bind(("0.0.0.0", 4789))
            yield made


@pytest.fixture
def agent(bed: Node, tmp_path: Path) -> Iterator[Agent]:
    one = Agent(tmp_path)
    yield one
    one.stop()
    one.cleanup()


def skipped(agent: Agent) -> int:
    return int(agent.status()["skipped"]["packets"])


@pytest.mark.parametrize("encapsulation", ENCAPSULATIONS.values(), ids=ENCAPSULATIONS)
@pytest.mark.parametrize("size", [64, 1472, 4000], ids=["small", "fragmented", "three fragments"])
def test_a_mirrored_uplink_amplifies_by_exactly_one(
    bed: Node, agent: Agent, encapsulation: dict[str, object], size: int
) -> None:
    """B1, A4: the target takes what the pod sends and all that passes the uplink; no copy is copied, each skipped."""
    agent.write(
        target(encapsulation=encapsulation),
        mirror("pods", ["pod0"], direction="Ingress", filter="udp"),
        mirror("uplink", ["up0"]),
    )
    agent.start()
    agent.programmed("pods", "uplink")
    count = 500
    refuses(True, bed.analyzer)  # its kernel knows no GRE
    with Capture("eth0", bed.analyzer) as copies, Capture("up0") as refusals:
        blast(dst=bed.peer_address, port=9, size=size, count=count, rate=2000)
        copies.settle()
    ours = [frame.octets for frame in copies.frames if frame.octets[26:34] == bytes([10, 9, 0, 1, 10, 9, 0, 2])]
    pods = next(row for row in agent.status()["mirrors"] if row["name"] == "pods")
    per_frame = -(-size // 1480) if size > 1472 else 1  # what the pod sends is fragmented by itself
    assert pods["matched"]["packets"] == pods["sent"]["packets"] == count * per_frame
    assert pods["wire"]["packets"] == len(ours)
    assert agent.mirror("uplink")["matched"]["packets"] == 0
    assert skipped(agent) == len(ours) + len(refusals.frames)
    assert len(inner_frames(ours)) == count * per_frame


def test_the_uplinks_own_traffic_is_mirrored_once(bed: Node, agent: Agent) -> None:
    """B1, B4: both directions of up0, to the analyzer behind it."""
    agent.write(target(), mirror("uplink", ["up0"], filter="icmp"))
    agent.start()
    agent.programmed()
    with Capture("eth0", bed.analyzer) as copies:
        run("ping", "-c", "20", "-i", "0.02", "-W", "2", bed.analyzer_address)
        copies.settle()
    inner = inner_frames(frame.octets for frame in copies.frames)
    assert len(inner) == 40
    assert {frame[34] for frame in inner} == {8, 0}
    row = agent.mirror("uplink")
    assert row["matched"]["packets"] == row["sent"]["packets"] == 40
    assert skipped(agent) == 40


def test_an_uplink_that_is_a_bridge_whose_ports_are_tapped(bed: Node, agent: Agent) -> None:
    """D12, B1: copies leave by the bridge and by its port; both are mirrored, none of them takes a copy for traffic."""
    run("ip", "link", "add", "brup", "type", "bridge", "mcast_snooping", 0)
    try:
        run("ip", "address", "flush", "dev", "up0")
        run("ip", "link", "set", "up0", "master", "brup")
        run("ip", "address", "add", "10.9.0.1/24", "dev", "brup")
        up("brup")
        run("ping", "-c", "1", "-W", "2", bed.analyzer_address)
        agent.write(
            target(),
            mirror("pods", ["pod0"], direction="Ingress", filter="udp"),
            mirror("under", ["up0", "brup"], filter="udp"),
        )
        agent.start()
        agent.programmed("pods", "under")
        with Capture("eth0", bed.analyzer) as copies:
            blast(dst=bed.peer_address, port=9, size=64, count=500, rate=2000)
            copies.settle()
        assert_each_once(numbers(datagrams(copies.frames, VXLAN)), 500, "copies")
        assert agent.mirror("under")["matched"]["packets"] == 0
        assert skipped(agent) == 1000
    finally:
        remove(["brup"], [])


@pytest.fixture
def overlay(bed: Node) -> Iterator[str]:
    """A CNI's VXLAN between the node and the analyzer's, and the analyzer's address in it."""
    for netns, here, there in ((None, 1, 2), (bed.analyzer, 2, 1)):
        device = f"ip link add ov0 address 02:00:00:00:50:0{here} mtu 1450 type vxlan id 3 dstport 8472 noudpcsum"
        run(*device.split(), "local", f"10.9.0.{here}", "remote", f"10.9.0.{there}", netns=netns)
        set_sysctl("net.ipv6.conf.ov0.disable_ipv6", 1, netns)
        run("ip", "address", "add", f"10.50.0.{here}/24", "dev", "ov0", netns=netns)
        run("ip", "link", "set", "ov0", "up", netns=netns)
        neighbour = f"10.50.0.{there} lladdr 02:00:00:00:50:0{there} dev ov0 nud permanent"
        run("ip", "neighbour", "replace", *neighbour.split(), netns=netns)
    run("ping", "-c", "1", "-W", "2", "10.50.0.2")
    yield "10.50.0.2"
    remove(["ov0"], [])


@pytest.mark.parametrize("encapsulation", [ENCAPSULATIONS["vxlan"], ENCAPSULATIONS["gre"]], ids=["vxlan", "gre"])
@pytest.mark.parametrize("size", [64, 1472], ids=["small", "fragmented"])
def test_copies_that_leave_by_an_overlay_whose_uplink_is_mirrored(
    bed: Node, agent: Agent, overlay: str, encapsulation: dict[str, object], size: int
) -> None:
    """B6: by a real device, which wraps copies of ours, whole and in fragments; what it wraps is not copied."""
    agent.write(
        target(address=overlay, encapsulation=encapsulation),
        mirror("pods", ["pod0"], direction="Ingress", filter="udp"),
        mirror("under", ["up0", "ov0"], filter="udp or ip proto 47 or ip[6:2] & 0x1fff != 0"),
    )
    agent.start()
    agent.programmed("pods", "under")
    with Capture("eth0", bed.analyzer) as wire, Capture("ov0", bed.analyzer) as copies:
        blast(dst=bed.peer_address, port=9, size=size, count=100, rate=1000)
        copies.settle()
        wire.settle()
    pods = agent.mirror("pods")
    assert pods["matched"]["packets"] == pods["sent"]["packets"] == 100
    assert agent.mirror("under")["matched"]["packets"] == 0
    ours = [frame for frame in copies.octets() if frame[26:30] == bytes([10, 50, 0, 1])]
    assert len(inner_frames(ours)) == 100
    assert pods["wire"]["packets"] == len(ours) == 100 * (1 + (size > 64))
    assert skipped(agent) == len(ours) + sum(frame[26:30] == bytes([10, 9, 0, 1]) for frame in wire.octets())


@pytest.mark.parametrize("program", ["tag", "tag_twice"])
def test_an_uplink_that_is_a_vlan_whose_parent_is_tapped(bed: Node, agent: Agent, program: str) -> None:
    """B10: with a tag in front, or one beside and one inside, the copy is still recognised. The VLAN device is made
    of a bridge and a program that tags what leaves by it: a kernel may have none."""
    run("ip", "link", "add", "vlan5", "type", "bridge", "mcast_snooping", 0)
    try:
        run("ip", "address", "flush", "dev", "up0")
        run("ip", "link", "set", "up0", "master", "vlan5")
        run("ip", "link", "set", "vlan5", "mtu", 1400)
        run("ip", "address", "add", "10.9.0.1/24", "dev", "vlan5")
        run("ip", "neighbour", "add", bed.analyzer_address, "lladdr", bed.analyzer_mac, "dev", "vlan5")
        up("vlan5")
        targets = [target(f"t{n}", encapsulation=one) for n, one in enumerate(ENCAPSULATIONS.values())]
        with Witness() as witness:
            witness.attach(program, "vlan5", "egress")
            agent.write(
                *targets,
                mirror("pods", ["pod0"], ["t0", "t1", "t2"], direction="Ingress", filter="udp"),
                mirror("under", ["up0", "vlan5"], ["t0"], filter="not icmp"),
            )
            agent.start()
            agent.programmed("pods", "under")
            with Capture("eth0", bed.analyzer) as copies:
                for size in (64, 1400):
                    blast(dst=bed.peer_address, port=9, size=size, count=200, rate=2000)
                copies.settle()
        tags = bytes.fromhex({"tag": "81000005", "tag_twice": "88a8000681000005"}[program])
        assert all(frame[12:].startswith(tags) for frame in copies.octets())
        assert len(copies.frames) == agent.mirror("pods")["wire"]["packets"] == 3 * (200 + 400)
        assert agent.mirror("under")["matched"]["packets"] == 0
    finally:
        remove(["vlan5"], [])


def test_another_product_that_mirrors_our_copies(bed: Node, agent: Agent) -> None:
    """B8: its copies of our copies leave by an interface that we mirror, and are known there."""
    run("ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1")
    try:
        up("other0")
        up("other1")
        run("tc", "qdisc", "add", "dev", "up0", "clsact")
        words = "filter add dev up0 egress protocol ip u32 match u32 0 0 action mirred egress mirror dev other0"
        run("tc", *words.split())
        agent.write(
            target(),
            mirror("pods", ["pod0"], direction="Ingress", filter="udp"),
            mirror("under", ["up0", "other0"]),
        )
        agent.start()
        agent.programmed("pods", "under")
        with Capture("eth0", bed.analyzer) as copies, Capture("other1") as others:
            blast(dst=bed.peer_address, port=9, size=64, count=500, rate=2000)
            copies.settle()
            others.settle()
        assert_each_once(numbers(datagrams(copies.frames, VXLAN)), 500, "copies")
        assert_each_once(numbers(datagrams(others.frames, VXLAN)), 500, "the other product's")
        assert agent.mirror("under")["matched"]["packets"] == 0
        assert skipped(agent) == 1000
    finally:
        run("tc", "qdisc", "delete", "dev", "up0", "clsact", check=False)
        remove(["other0"], [])


def udp(source: str, destination: str, port: int, payload: bytes, macs: tuple[str, str]) -> bytes:
    octets = [bytes(map(int, item.split("."))) for item in (source, destination)]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0, *octets)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]
    ethernet = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in macs) + b"\x08\x00"
    return ethernet + head + struct.pack("!HHHH", 50000, port, 8 + len(payload), 0) + payload


@pytest.mark.parametrize("source", ["10.9.0.1", "10.1.0.20"], ids=["forged source", "own source"])
def test_a_pod_cannot_hide_behind_our_outer_header(bed: Node, agent: Agent, source: str) -> None:
    """G18: it forges what a copy looks like, or talks to the analyzer; at its own interface all of it is mirrored."""
    agent.write(target(), mirror(direction="Ingress"))
    agent.start()
    agent.programmed()
    vxlan = struct.pack("!II", 0x08000000, 4242 << 8)
    frames = [
        udp(source, "10.9.0.2", 4789, vxlan + bytes(64) + bytes([n]), (bed.peer_mac, bed.pod_mac)) for n in range(50)
    ]
    with Capture("eth0", bed.analyzer) as copies:
        send(frames)
        copies.settle()
    assert inner_frames(frame.octets for frame in copies.frames) == frames
    assert skipped(agent) == 0
    assert agent.mirror()["sent"]["packets"] == 50


def test_a_pods_mark_does_not_leave_its_namespace(bed: Node, agent: Agent) -> None:
    """G18: SO_MARK with our word in it and our outer header: still mirrored, in both directions of pod0."""
    agent.write(target(), mirror(direction="Ingress"))
    agent.start()
    agent.programmed()
    with Capture("eth0", bed.analyzer) as copies:
        with socket_in(bed.pod, socket.AF_PACKET, socket.SOCK_RAW) as forged:
            forged.setsockopt(socket.SOL_SOCKET, 36, 0x5E1F0001)  # SO_MARK
            forged.bind(("eth0", 0))
            vxlan = struct.pack("!II", 0x08000000, 4242 << 8)
            for n in range(50):
                forged.send(udp("10.9.0.1", "10.9.0.2", 4789, vxlan + bytes([n] * 65), (bed.peer_mac, bed.pod_mac)))
        copies.settle()
    assert len(inner_frames(frame.octets for frame in copies.frames)) == 50


def test_a_marked_packet_of_the_node_that_is_no_copy_is_mirrored(bed: Node, agent: Agent) -> None:
    """The guard wants mark and outer header: either alone, from somebody on the node, hides nothing."""
    vxlan = struct.pack("!II", 0x08000000, 4242 << 8) + bytes(64)
    agent.write(target(), mirror("uplink", ["up0"], direction="Egress", filter="udp"))
    agent.start()
    agent.programmed()
    with Capture("eth0", bed.analyzer) as copies:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as marked:
            for mark in (0x5E1F0001, 0x5E1F0002, 0x5E1FFFFF):
                marked.setsockopt(socket.SOL_SOCKET, 36, mark)
                for port in (9, 4790):
                    marked.sendto(b"hello", ("10.9.0.2", port))
            for mark in (0, 1, 2):  # as ids of endpoints they may be right
                marked.setsockopt(socket.SOL_SOCKET, 36, mark)
                marked.sendto(vxlan, ("10.9.0.2", 4789))
        copies.settle()
    row = agent.mirror("uplink")
    assert row["matched"]["packets"] == row["sent"]["packets"] == 9
    assert skipped(agent) == 9
    assert len(copies.frames) == 18


@pytest.mark.parametrize("address", ["10.9.0.1", "10.77.0.1"])
def test_an_endpoint_that_is_the_node_itself_is_rejected(bed: Node, agent: Agent, address: str) -> None:
    """B4: with a reason; the others work on, and it works as soon as the address is somebody else's."""
    run("ip", "address", "add", "10.77.0.1/24", "dev", "br0")
    agent.write(target("self", address), target(), mirror("loop", targets=["self"]), mirror("fine"))
    agent.start()
    row = next(row for row in agent.programmed("fine")["mirrors"] if row["name"] == "loop")
    assert (row["state"], row["reason"]) == ("Rejected", "EndpointIsNode")
    assert address in row["message"]
    assert row["lease_s"] == 0
    if address == "10.77.0.1":
        run("ip", "address", "del", "10.77.0.1/24", "dev", "br0")
        run("ip", "route", "add", "10.77.0.0/24", "via", "10.9.0.2")
        agent.programmed("loop", timeout=2)
        run("ip", "route", "del", "10.77.0.0/24")
        run("ip", "address", "add", "10.77.0.1/24", "dev", "br0")
        agent.wait(lambda status: {r["state"] for r in status["mirrors"] if r["name"] == "loop"} == {"Rejected"})


def test_the_relay_is_never_tapped(bed: Node, agent: Agent) -> None:
    """B: by a pattern for everything, while all of it is mirrored."""
    agent.write(target(), mirror(interfaces=["*", "sniffer-tx", "sniffer-r?"], filter="udp"))
    agent.start()
    agent.programmed()
    assert {device for device, way, _ in attached() if device == "sniffer-tx"} == {"sniffer-tx"}
    assert {way for device, way, _ in attached() if device == "sniffer-tx"} == {"egress"}
    with Capture("eth0", bed.analyzer) as copies:
        blast(dst=bed.peer_address, port=9, size=64, count=200, rate=1000)
        copies.settle()
    # pod0 in, peer0 out: the bridge itself is not passed.
    found = numbers(datagrams(copies.frames, VXLAN))
    assert sorted(found) == sorted([*range(200), *range(200)])
    assert skipped(agent) == 400
