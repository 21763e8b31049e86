"""A4: an analyzer that answers copies with ICMP errors. Status says so while it does, production and copies go on."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from tests.agent import Agent, Status, mirror, sniffer, target
from tests.inventory import attached
from tests.mirrored import agent_at, check_identity, programme, unique
from tests.numbered import datagrams, numbers
from tests.topology import Node, node, refuses, run, set_sysctl
from tests.traffic import Background, blast
from tests.wire import Capture, send, socket_in

Bed = tuple[Node, Agent]
SIX = "fd00:9::2"
TARGETS = (
    target(),
    target("gre", encapsulation={"gre": {"key": 2}}),
    target("geneve", SIX, encapsulation={"geneve": {"vni": 3}}, outer={"udpChecksum": True}),
    target("erspan", SIX, encapsulation={"erspan": {"version": 2, "sessionId": 4}}),
)
NAMES = ("ana", "gre", "geneve", "erspan")


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with node() as made, agent_at(tmp_path_factory.mktemp("agent")) as agent:
        for device, netns, last in ((made.uplink, None, 1), ("eth0", made.analyzer, 2)):
            set_sysctl(f"net.ipv6.conf.{device}.disable_ipv6", 0, netns)
            for address in (f"fd00:9::{last}", f"fe80::{last}"):
                run("ip", "address", "add", f"{address}/64", "dev", device, "nodad", netns=netns)
        yield made, agent


def row(status: Status) -> Status:
    (found,) = status["mirrors"]
    return found


def states(status: Status) -> dict[str, str]:
    return {one["name"]: one["endpoints"][0]["state"] for one in row(status)["targets"]}


def on_uplink() -> set[tuple[str, str, int]]:
    return {one for one in attached() if one[0] == "up0"}


def test_every_tunnel_over_ipv4_and_ipv6(bed: Bed) -> None:
    """UDP: port unreachable; GRE: protocol unreachable, over IPv6 a parameter problem. It ends with the errors."""
    here, agent = bed
    (many,) = programme(agent, *TARGETS, mirror(unique(), ["pod0"], NAMES, direction="Ingress", filter="udp port 9"))
    assert not on_uplink()
    refuses(True, "ana")
    with Background("pod", dst=here.peer_address, port=9, size=100, rate=100.0, seconds=40):
        said = agent.wait(lambda status: set(states(status).values()) == {"rejecting"}, 12)
        assert (row(said)["state"], row(said)["reason"]) == ("Programmed", "SinkRejecting")
        for name, address in zip(NAMES, ("10.9.0.2", "10.9.0.2", SIX, SIX), strict=True):
            assert f"{address} ({name})" in row(said)["message"]
        done = sniffer("status", "--json")
        assert (done.returncode, row(json.loads(done.stdout))["reason"]) == (0, "SinkRejecting")
        assert {one["interface"] for one in said["hooks"]} == {"pod0"}
        quiet = agent.wait(lambda status: not status["watching"], 10)
        assert row(quiet)["reason"] == "SinkRejecting"
        assert not on_uplink(), "for seconds only"
        refuses(False, "ana")
        agent.wait(lambda status: row(status)["reason"] is None, 12)
        assert set(states(agent.status()).values()) == {"reachable"}
    check_identity(agent.mirror(many))
    assert not any(agent.mirror(many)["dropped"].values()), "copies go on"
    assert "MirrorTarget gre: 10.9.0.2 refuses copies by ICMP" in agent.log.read_text()


def test_a_host_that_sends_few_errors(bed: Bed) -> None:
    """As Linux does: one a second, however many copies; and it is heard where the uplink is mirrored anyway."""
    here, agent = bed
    programme(agent, target(), mirror(unique(), ["pod0", "up0"], direction="Ingress", filter="udp port 9 or icmp"))
    set_sysctl("net.ipv4.icmp_ratelimit", 1000, "ana")
    with Capture("eth0", here.peer) as production:
        with Background("pod", dst=here.peer_address, port=9, size=100, rate=1000.0, seconds=20):
            said = agent.wait(lambda status: row(status)["reason"] == "SinkRejecting", 12)
        assert said["watching"] == []
        production.settle()
    found = numbers(datagrams(production.frames))
    assert found == list(range(len(found)))
    refuses(False, "ana")
    agent.wait(lambda status: row(status)["reason"] is None, 12)


@contextmanager
def sending(frames: list[bytes], netns: str, pause_s: float = 0.25) -> Iterator[None]:
    """The same again and again."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(pause_s):
            send(frames, "eth0", netns)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join()


def test_forged_errors_stop_nothing(bed: Bed) -> None:
    """A status is all that comes of them."""
    here, agent = bed
    (name,) = programme(agent, target(), mirror(unique(), ["pod0"], direction="Ingress", filter="udp port 9"))
    quoted = IP(src="10.9.0.1", dst="10.9.0.2") / UDP(sport=50000, dport=4789) / VXLAN(vni=4242, flags=8)
    to_node = Ether(src=here.analyzer_mac, dst=here.uplink_mac) / IP(src="10.9.0.77", dst="10.9.0.1")
    forged = bytes(to_node / ICMP(type=3, code=13) / quoted / Ether() / IP())
    with sending([forged], here.analyzer):
        agent.wait(lambda status: row(status)["reason"] == "SinkRejecting", 12)
        blast(dst=here.peer_address, port=9, size=100, count=200, rate=2000)
    after = agent.mirror(name)
    assert after["matched"]["packets"] == after["sent"]["packets"] == 200
    agent.wait(lambda status: row(status)["reason"] is None, 12)


def test_errors_about_other_things_say_nothing(bed: Bed) -> None:
    """Nor does the node keep looking at them."""
    _, agent = bed
    programme(agent, target(), mirror(unique(), ["pod0"], direction="Ingress"))
    refuses(True, "ana")
    over = threading.Event()

    def ask() -> None:
        with socket_in(None, socket.AF_INET, socket.SOCK_DGRAM) as client:
            while not over.wait(0.2):
                client.sendto(struct.pack("=I", 1), ("10.9.0.2", 9))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        assert agent.wait(lambda status: status["watching"] == ["up0"], 12)
        agent.wait(lambda status: not status["watching"], 10)
        time.sleep(2.5)
        status = agent.status()
        assert (row(status)["reason"], status["watching"]) == (None, [])
        assert not on_uplink()
    finally:
        over.set()
        thread.join()
        refuses(False, "ana")
