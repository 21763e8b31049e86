"""Production is not disturbed by what becomes of its copies (an uplink that is full, an analyzer that refuses, no
memory), nor in what it asks of the kernel beside delivery: time stamps, sending without copying.
"""

import json
import mmap
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from scapy.layers import vxlan
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether

from tests.agent import Agent, mirror, target
from tests.mirrored import agent_at, check_counts, check_identity, copies, mirror_of, programme, settled, unique
from tests.numbered import VXLAN, datagrams, numbers
from tests.packets import payload
from tests.receivers import decode
from tests.topology import Node, node, offloads, refuses, run, set_sysctl, wait_until
from tests.traffic import blast
from tests.tun import TAP, VNET_HDR, tun
from tests.wire import Capture, send, socket_in
from tests.witness import Witness, quiet_kernel

Bed = tuple[Node, Agent]
ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
SO_MARK, SO_PRIORITY, SO_TXTIME, SO_ZEROCOPY, MSG_ZEROCOPY = 36, 12, 61, 60, 0x4000000


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with node() as made, agent_at(tmp_path_factory.mktemp("agent")) as agent, quiet_kernel():
        yield made, agent


def test_a_saturated_uplink(bed: Bed) -> None:
    """A5: a tenth of the copies fits; production gets through whole, in order, and no later than without."""
    here, agent = bed
    (name,) = programme(agent, target(), mirror_of("ana", filter="udp"))
    run("tc", *["qdisc", "add", "dev", "up0", "root", "tbf", "rate", "4mbit", "burst", "4000", "limit", "4000"])
    try:
        with Capture("eth0", here.peer) as production, Capture("eth0", "ana") as analyzer:
            blast(dst=here.peer_address, port=9, size=1000, count=5000, rate=25_000)
            outer = copies(analyzer)
            production.settle()
    finally:
        run("tc", "qdisc", "delete", "dev", "up0", "root")
    assert numbers(datagrams(production.frames)) == list(range(5000))
    assert 10 < len(outer) < 2500
    (row,) = settled(agent, name)
    check_identity(row)
    assert row["sent"]["packets"] == 5000, "handed to the uplink's queue, which said nothing"


def test_a_flood_of_the_smallest_packets(bed: Bed) -> None:
    """A12: as fast as one core can, each of them mirrored twice; what that costs, `make bench` says."""
    here, agent = bed
    second = target("second", encapsulation={"gre": {"key": 2}})
    (name,) = programme(agent, target(), second, mirror_of("ana", targetRefs=[{"name": "ana"}, {"name": "second"}]))
    before = received(here.peer)
    sent = blast(dst=here.peer_address, port=9, size=18, count=300_000).packets
    wait_until(lambda: received(here.peer) - before >= sent, what="all of production")
    assert received(here.peer) - before == sent == 300_000
    (row,) = settled(agent, name)
    check_identity(row)
    assert row["matched"]["packets"] == row["sent"]["packets"] == 2 * sent


def received(netns: str) -> int:
    (link,) = json.loads(run("ip", "-j", "-s", "link", "show", "eth0", netns=netns))
    return int(link["stats64"]["rx"]["packets"])


@pytest.mark.parametrize("encapsulation", [{"vxlan": {"vni": 4242}}, {"gre": {"key": 1}}], ids=["vxlan", "gre"])
def test_an_analyzer_that_refuses(bed: Bed, encapsulation: dict[str, object]) -> None:
    """A4: each copy is answered by ICMP, and no answer is copied, though everything on the uplink is mirrored."""
    here, agent = bed
    refuses(True, "ana")
    set_sysctl("net.ipv4.icmp_ratemask", 0, "ana")
    programme(
        agent,
        target(encapsulation=encapsulation),
        mirror(pods := unique("pods"), ["pod0"], direction="Ingress", filter="udp"),
        mirror(uplink := unique("uplink"), ["up0"], filter="not arp"),
    )
    skipped = agent.status()["skipped"]["packets"]
    with Capture("eth0", here.peer) as production, Capture("up0") as answers, Capture("eth0", "ana") as analyzer:
        blast(dst=here.peer_address, port=9, size=300, count=300, rate=3000)
        outer = copies(analyzer)
        production.settle()
    refusals = [frame for frame in answers.octets() if frame[23] == 1 and frame[34] == 3]
    assert numbers(datagrams(production.frames)) == list(range(300))
    assert len(outer) == 300
    assert len(refusals) > 20
    assert agent.mirror(pods)["sent"]["packets"] == 300
    assert agent.mirror(uplink)["matched"]["packets"] == 0
    assert agent.status()["skipped"]["packets"] - skipped == 300 + len(refusals)
    refuses(False, "ana")


def test_refusals_of_others_are_mirrored(bed: Bed) -> None:
    """A4: an ICMP error about anything else is traffic."""
    _, agent = bed
    refuses(True, "ana")
    (name,) = programme(agent, target(), mirror_of("ana", "up0", filter="icmp"))
    with socket_in(None, socket.AF_INET, socket.SOCK_DGRAM) as sender, Capture("eth0", "ana") as analyzer:
        for port in (9, 4790):
            sender.sendto(b"\x08\0\0\0\0\x10\x92\0" + bytes(60), ("10.9.0.2", port))
        outer = copies(analyzer)
    refuses(False, "ana")
    assert [frame[34:36] for frame in (item.frame for item in decode(outer))] == [b"\x03\x03"] * 2
    check_identity(*settled(agent, name))


def test_no_pod_hides_in_refusals(bed: Bed) -> None:
    """A4, G18: an ICMP error that quotes our header and goes to somebody else than this node is traffic."""
    _, agent = bed
    quoted = (
        IP(src="10.9.0.1", dst="10.9.0.2") / UDP(sport=50000, dport=4789) / vxlan.VXLAN(vni=4242, flags=8) / payload(40)
    )
    forged = bytes(ETHER / IP(src="10.1.0.2", dst="10.1.0.3") / ICMP(type=3, code=3) / quoted)
    (name,) = programme(agent, target(), mirror_of("ana"))
    with Capture("eth0", "ana") as analyzer:
        send([forged])
        outer = copies(analyzer)
    assert [item.frame for item in decode(outer)] == [forged]
    check_counts(*settled(agent, name), [forged], outer)


def test_no_memory_for_a_copy(bed: Bed) -> None:
    """A9, A10: what the kernel answers then (ENOMEM) is counted, and production has its packet. A super-packet that
    cannot be segmented, for its TCP header lies, ends like one for whose segments there is no memory."""
    _, agent = bed
    head = ETHER / IP(src="10.1.0.2", dst="10.1.0.3") / TCP(dataofs=4)
    offload = struct.pack("=BBHHHH", 1, 1, 54, 1400, 34, 16)  # <linux/virtio_net.h>: fill the checksum in, TCP on IPv4
    with tun("guest0", TAP | VNET_HDR) as guest, Witness() as witness, Capture("eth0", "ana") as analyzer:
        (name,) = programme(agent, target(), mirror_of("ana", "guest0"))
        witness.attach("look", "guest0", "ingress")
        for _ in range(20):
            os.write(guest, offload + bytes(head / payload(9000)))
        assert copies(analyzer) == []
        assert witness.seen().packets == 20
        (row,) = settled(agent, name)
    check_identity(row)
    assert {reason: count for reason, count in row["dropped"].items() if count} == {"no_memory": 20}
    assert row["wire"]["packets"] == 0


def test_production_that_paces_itself(bed: Bed) -> None:
    """A13: time stamp, mark and priority behind the tap are those of the sender; the copy has none, and is not late."""
    _, agent = bed
    programme(agent, target(), mirror_of("ana", "up0", "Egress", filter="udp port 9"))
    with Witness() as witness, Capture("eth0", "ana") as analyzer:
        witness.attach("look", "up0", "egress")
        with socket_in(None, socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, SO_TXTIME, struct.pack("=iI", time.CLOCK_MONOTONIC, 0))
            sender.setsockopt(socket.SOL_SOCKET, SO_MARK, 0x77)
            sender.setsockopt(socket.SOL_SOCKET, SO_PRIORITY, 5)
            due, began = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 30_000_000_000, time.monotonic()
            stamp = (socket.SOL_SOCKET, SO_TXTIME, struct.pack("=Q", due))
            sender.sendmsg([bytes(16)], [stamp], 0, ("10.9.0.2", 9))
        analyzer.wait(2)
        original, copy = witness.seen(), witness.seen(copies=True)
        run("tc", "qdisc", "delete", "dev", "up0", "clsact")
    assert (original.tstamp, original.mark, original.priority, original.packets) == (due, 0x77, 5, 1)
    assert (copy.tstamp, copy.priority, copy.packets) == (0, 0, 1), "waits for nothing, goes before nobody"
    (arrived,) = datagrams(analyzer.frames, VXLAN)
    assert arrived.when - began < 1


@pytest.mark.parametrize("size", [100, 1400, 1472, 40_000])
def test_production_that_sends_without_copying(bed: Bed, size: int) -> None:
    """A14: each send completes, and what the sender writes into its memory afterwards is in no copy. The longest is a
    super-packet; one of 1472 bytes is fragmented."""
    _, agent = bed
    (name,) = programme(agent, target(), mirror_of("ana", "up0", "Egress", filter="udp port 19"))
    offloads("up0", on=True)
    memory = mmap.mmap(-1, 65536)
    try:
        with (
            socket_in("ana", socket.AF_INET, socket.SOCK_DGRAM) as listener,
            socket_in(None, socket.AF_INET, socket.SOCK_DGRAM) as sender,
            Capture("eth0", "ana") as analyzer,
        ):
            listener.bind(("10.9.0.2", 19))
            sender.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
            if size > 1472:
                sender.setsockopt(socket.IPPROTO_UDP, 103, 1400)  # UDP_SEGMENT
            sender.connect(("10.9.0.2", 19))
            for number in range(30):
                memory[:size] = bytes([number]) * size
                sender.send(memoryview(memory)[:size], MSG_ZEROCOPY)
                completed = wait_until(lambda: completion(sender), what="the send completes")
                assert completed == (number, number)
                memory[:size] = b"\xff" * size
            outer = [
                frame for frame in copies(analyzer) if frame[36:38] == (4789).to_bytes(2) or frame[20:22] != b"\0\0"
            ]
    finally:
        offloads("up0", on=False)
    inner = [item.frame[42:] for item in decode(outer)]
    wanted = [bytes([number]) * size for number in range(30)]
    assert b"".join(inner) == b"".join(wanted)
    check_identity(*settled(agent, name))


def completion(sender: socket.socket) -> tuple[int, int] | None:
    """The first and the last send that a notification is about."""
    try:
        _, control, _, _ = sender.recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    ((_, _, octets),) = control
    number, origin, _, _, _, first, last = struct.unpack("=IBBBBII", octets[:16])
    assert (number, origin) == (0, 5), octets.hex()  # SO_EE_ORIGIN_ZEROCOPY
    return first, last
