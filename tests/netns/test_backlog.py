"""A burst through the slow path never costs production a packet of the backlog that it shares (docs/adr/0002).

The burst: 64 super-packets of 45 datagrams each, that do not fit the uplink together with the outer header, wait for
the peer's ARP answer and leave all at once, in one softirq: 2,880 segments for the relay before anybody takes one out.
Each is followed by a small packet of production.
"""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agent import Agent, target
from tests.mirrored import agent_at, check_identity, copies, drained, ip_length, mirror_of, programme, settled
from tests.packets import payload
from tests.receivers import decode
from tests.streams import UDP_SEGMENT
from tests.topology import Node, node, run, set_sysctl, wait_until
from tests.traffic import Background
from tests.wire import Capture, socket_in

Bed = tuple[Node, Agent]
SUPER, SEGMENTS, SIZE = 64, 45, 1440
BIG, SMALL, VICTIM = 9, 10, 11
"""Ports."""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with node() as made, agent_at(tmp_path_factory.mktemp("agent")) as agent:
        yield made, agent


def shared_backlog_drops() -> int:
    """Packets that the backlogs of all CPUs have refused: of the whole machine, since it runs."""
    rows = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(row.split()[1], 16) for row in rows)


def burst(bed: Node) -> list[bytes]:
    """Sends it; returns the payloads, in order."""
    for name, value in (("unres_qlen_bytes", 64 << 20), ("mcast_solicit", 30)):
        set_sysctl(f"net.ipv4.neigh.eth0.{name}", value, "pod")
    run("ip", "link", "set", "eth0", "arp", "off", netns="peer")
    run("ip", "neighbour", "delete", bed.peer_address, "dev", "eth0", netns="pod", check=False)
    sent = []
    with (
        socket_in("pod", socket.AF_INET, socket.SOCK_DGRAM) as big,
        socket_in("pod", socket.AF_INET, socket.SOCK_DGRAM) as small,
    ):
        big.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
        for each in (big, small):
            each.setsockopt(socket.SOL_SOCKET, 32, 64 << 20)  # SO_SNDBUFFORCE
        for number in range(SUPER):
            sent += [number.to_bytes(4) + payload(SIZE * SEGMENTS - 4), number.to_bytes(4)]
            big.sendto(sent[-2], (bed.peer_address, BIG))
            small.sendto(sent[-1], (bed.peer_address, SMALL))
    run("ip", "link", "set", "eth0", "arp", "on", netns="peer")
    return sent


class Seen:
    """A burst while a victim sends the other way: what production got, what the analyzer got, what the backlog lost."""

    def __init__(self, here: Node) -> None:
        before = shared_backlog_drops()
        with Capture("eth0", "ana") as analyzer, Capture("eth0", "peer") as peer, Capture("eth0", "pod") as pod:
            with Background("peer", dst=here.pod_address, port=VICTIM, count=40_000, rate=20_000, size=64) as load:
                self.sent = burst(here)
                wait_until(lambda: len(self.arrived(peer)) > SUPER // 4, 10, what="the burst arrives")
                self.victims_sent = load.finish().packets
            self.outer = copies(analyzer)
            drained(peer)
            self.got = self.arrived(peer)
            self.victims_got = sum(frame[36:38] == VICTIM.to_bytes(2) for frame in drained(pod))
        self.backlog_drops = shared_backlog_drops() - before

    @staticmethod
    def arrived(peer: Capture) -> list[bytes]:
        ports = {port.to_bytes(2) for port in (BIG, SMALL)}
        return [frame[42:] for frame in peer.octets() if frame[23] == 17 and frame[36:38] in ports]


@contextmanager
def without_ring(agent: Agent) -> Iterator[None]:
    """The relay as any veth is; the agent, which would mend it, is stopped meanwhile."""
    assert agent.process is not None
    os.kill(agent.process.pid, signal.SIGSTOP)
    try:
        run("ip", "link", "set", "dev", "sniffer-rx", "xdp", "off")
        yield
    finally:
        os.kill(agent.process.pid, signal.SIGCONT)
        wait_until(lambda: "prog/xdp" in run("ip", "-d", "link", "show", "sniffer-rx"), 10, what="the ring is back")


def test_production_loses_nothing(bed: Bed) -> None:
    """P1 of the promises: every packet of production arrives, in order; what the relay could not take is counted."""
    here, agent = bed
    for _ in range(3):
        (name,) = programme(agent, target(), mirror_of("ana", filter=f"udp port {BIG}"))
        seen = Seen(here)
        assert seen.got == seen.sent
        assert seen.victims_got == seen.victims_sent == 40_000
        check_losses(agent, name, seen)
        if not seen.backlog_drops:  # the counter is the machine's: somebody else may have added to it
            return
    raise AssertionError(f"{seen.backlog_drops} packets dropped by the shared backlog in each of three runs")


def check_losses(agent: Agent, name: str, seen: Seen) -> None:
    """What arrived and what was lost behind the relay are all the segments there were; all of it was counted."""
    (row,) = settled(agent, name)
    check_identity(row)
    assert row["matched"]["packets"] == row["sent"]["packets"] == SUPER
    received = decode(seen.outer)
    assert {item.fragments for item in received} == {2}
    assert row["lost"] == dict.fromkeys(row["lost"], 0) | {"no_memory": SUPER * SEGMENTS - len(received)}
    assert row["lost"]["no_memory"] > SUPER * SEGMENTS / 2  # it did overflow
    assert row["wire"] == {"packets": len(seen.outer), "bytes": sum(map(ip_length, seen.outer))}


def test_without_the_ring_production_would_pay(bed: Bed) -> None:
    """The control: the same burst through the shared backlog overflows it, and production's packets go with it."""
    here, agent = bed
    programme(agent, target(), mirror_of("ana", filter=f"udp port {BIG}"))
    with without_ring(agent):
        seen = Seen(here)
    assert seen.backlog_drops > 1000
    assert len(seen.got) < len(seen.sent)


def test_without_a_mirror_the_burst_is_harmless(bed: Bed) -> None:
    """The other control: it is the copies that overflow the backlog, not the burst itself."""
    here, agent = bed
    agent.write(target())
    agent.wait(lambda status: not status["hooks"])
    seen = Seen(here)
    assert seen.got == seen.sent
    assert seen.victims_got == seen.victims_sent
    assert seen.outer == []
