"""PTP's event packets are left out on the way out of devices that stamp in hardware, and counted; nowhere else.

No device here stamps, so the programs are told of one that does not, while the agent stands still.
"""

import os
import signal
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from sniffer.abi.limits import HOOK_STAMPS, Direction
from sniffer.abi.records import Hook
from sniffer.kernel.bpf import load_word, store_word
from sniffer.kernel.netlink import Netlink
from sniffer.kernel.pins import Maps, Pins
from sniffer.kernel.stamps import Stamps, has_hardware_stamps, stamps_of
from tests.agent import Agent, target
from tests.mirrored import agent_at, copies, difference, mirror_of, programme, settled
from tests.receivers import inner_frames
from tests.topology import Node, node
from tests.wire import Capture, send

PTP = 0x88F7
SYNC, DELAY_REQUEST, FOLLOW_UP, ANNOUNCE = 0, 1, 8, 11
ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")


def message(kind: int, major: int = 0) -> Raw:
    """A PTP message of 44 bytes (IEEE 1588-2019, 13.3): transport-specific bits and messageType first."""
    return Raw(bytes([major << 4 | kind, 2, 0, 44]).ljust(44, b"\0"))


EVENTS = [
    Ether(src=ETHER.src, dst="01:1b:19:00:00:00", type=PTP) / message(SYNC),
    Ether(src=ETHER.src, dst="01:80:c2:00:00:0e", type=PTP) / message(3, major=1),
    ETHER / Dot1Q(vlan=7, type=PTP) / message(DELAY_REQUEST),
    ETHER / Dot1AD(vlan=3) / Dot1Q(vlan=7, type=PTP) / message(SYNC),
    ETHER / IP(dst="224.0.1.129") / UDP(sport=319, dport=319) / message(SYNC),
    ETHER / Dot1Q(vlan=7) / IP(options=b"\1\1\1\1") / UDP(dport=319) / message(DELAY_REQUEST),
    ETHER / IPv6() / UDP(dport=319) / message(SYNC),
    ETHER / IPv6() / IPv6ExtHdrHopByHop() / UDP(dport=319) / message(SYNC),
]
OTHERS = [
    Ether(src=ETHER.src, dst="01:1b:19:00:00:00", type=PTP) / message(ANNOUNCE),
    ETHER / Dot1Q(vlan=7, type=PTP) / message(FOLLOW_UP),
    ETHER / IP(dst="224.0.1.129") / UDP(sport=320, dport=320) / message(FOLLOW_UP),
    ETHER / IP() / UDP(sport=319, dport=9) / message(SYNC),
    ETHER / IP() / TCP(dport=319),
    ETHER / IPv6() / TCP(dport=319),
]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Agent]]:
    with node() as made, agent_at(tmp_path_factory.mktemp("agent")) as agent:
        yield made, agent


@pytest.mark.parametrize("stamps", [True, False])
def test_events_are_left_out_where_they_are_stamped(bed: tuple[Node, Agent], stamps: bool) -> None:
    _, agent = bed
    events, others = [bytes(one) for one in EVENTS], [bytes(one) for one in OTHERS]
    out, into = mirror_of("ana", direction="Egress"), mirror_of("ana", direction="Ingress")
    names = programme(agent, target(), out, into)
    assert agent.process
    with Netlink() as netlink, Maps(Pins(agent.pin_root), writable=True) as maps:
        hooks = [Hook(link.index, Direction.EGRESS) for link in netlink.links() if link.name == "pod0"]
        memory = maps.memory["hooks"]
        (place,) = (p for hook in hooks for p in hook.places() if Hook.of_word(load_word(memory, p))[0] == hook)
        os.kill(agent.process.pid, signal.SIGSTOP)
        try:
            word = load_word(memory, place)
            assert not word & HOOK_STAMPS
            store_word(memory, place, word | (HOOK_STAMPS if stamps else 0))
            with Capture("eth0", "ana") as analyzer, Capture("eth0", "pod") as pod:
                send(events + others, "pod0", netns=None)
                send(events + others)
                outer = copies(analyzer)
                assert difference(events + others, pod.settle()) == ([], [])
        finally:
            os.kill(agent.process.pid, signal.SIGCONT)
        agent.wait(lambda _: load_word(memory, place) == word)
    left = others if stamps else events + others
    assert difference(left + events + others, inner_frames(outer)) == ([], [])
    rows = settled(agent, *names)
    assert len(outer) == len(left) + len(events) + len(others)
    assert rows[0]["dropped"]["ptp"] == (len(events) if stamps else 0)
    assert rows[1]["dropped"]["ptp"] == 0
    for row in rows:
        assert row["matched"]["packets"] == row["sent"]["packets"] + row["dropped"]["ptp"] == len(events + others)


def test_who_stamps() -> None:
    """ETHTOOL_GET_TS_INFO: what a NIC says, and what virtual devices do."""
    nic = bytes.fromhex("410000005f0000000000000003000000").ljust(44, b"\0")
    veth = bytes.fromhex("410000001a000000ffffffff00000000").ljust(44, b"\0")
    assert (stamps_of(nic), stamps_of(veth)) == (True, False)
    assert not has_hardware_stamps("lo")
    assert not has_hardware_stamps("none")
    with Netlink() as netlink:
        assert Stamps().of(netlink.links()) == frozenset()
