"""Where copies leave: routes, neighbours and MTUs change under traffic."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent import Agent, mirror, target
from tests.inventory import ifindex
from tests.numbered import VXLAN, assert_each_once, datagrams, numbers
from tests.topology import Node, add_analyzer, node, remove, run, set_sysctl, wait_until
from tests.traffic import Background, blast
from tests.wire import Capture

SINK = "10.99.0.1"
"""An address behind either analyzer, so that the route decides."""


@pytest.fixture
def bed() -> Iterator[Node]:
    """Two analyzers: `ana` behind up0 and `two` behind up1, both of which have SINK."""
    with node() as made:
        add_analyzer("two", "up1", 5, mtu=1400)
        try:
            for netns in (made.analyzer, "two"):
                run("ip", "address", "add", f"{SINK}/32", "dev", "lo", netns=netns)
            run("ip", "route", "add", f"{SINK}/32", "via", "10.9.0.2")
            yield made
        finally:
            remove(["up1"], ["two"])


@pytest.fixture
def agent(bed: Node, tmp_path: Path) -> Iterator[Agent]:
    one = Agent(tmp_path)
    one.write(target(address=SINK), mirror(direction="Ingress", filter="udp"))
    one.start()
    wait_until(lambda: endpoint(one)["state"] == "reachable")
    yield one
    one.stop()
    one.cleanup()


def endpoint(agent: Agent) -> dict[str, Any]:
    (row,) = agent.mirror()["targets"][0]["endpoints"]
    return dict(row)


def check_identity(row: dict[str, Any], sent: int) -> None:
    assert row["matched"]["packets"] == sent
    assert row["sent"]["packets"] + sum(row["dropped"].values()) == sent


def load(bed: Node, count: int, rate: int = 2000, size: int = 64) -> Background:
    return Background(dst=bed.peer_address, port=9, size=size, count=count, rate=rate)


def test_a_gateway_is_a_nexthop(bed: Node, agent: Agent) -> None:
    row = endpoint(agent)
    expected = {"address": SINK, "device": "up0", "source": "10.9.0.1", "nexthop": "10.9.0.2", "mtu": 1500}
    assert row == expected | {"state": "reachable"}
    with Capture("eth0", bed.analyzer) as copies:
        blast(dst=bed.peer_address, port=9, size=64, count=100, rate=2000)
        copies.settle()
    assert_each_once(numbers(datagrams(copies.frames, VXLAN)), 100, "copies")
    assert {frame.octets[26:34] for frame in copies.frames} == {bytes([10, 9, 0, 1, 10, 99, 0, 1])}


def test_a_nexthop_that_no_neighbour_can_be_made_for(bed: Node, tmp_path: Path) -> None:
    """Of IPv6, on a device whose MTU has become too small for that. So it is where the kernel's table is full. The
    other mirror goes on past its lease, and who is cut off says so."""
    set_sysctl("net.ipv6.conf.up1.disable_ipv6", 0)
    run("ip", "route", "add", "10.98.0.0/16", "via", "inet6", "fe80::1", "dev", "up1")
    run("ip", "link", "set", "up1", "mtu", "1200")
    with Agent(tmp_path, Path("/sys/fs/bpf/sniffer"), "--lease", "3") as agent:
        agent.write(target(), target("cut", "10.98.0.1"), mirror(), mirror("off", targets=["cut"]))
        agent.wait(lambda status: len(status["mirrors"]) == 2)
        began = time.monotonic()
        while time.monotonic() - began < 4:
            assert agent.mirror()["lease_s"] > 1
            time.sleep(0.1)
        assert agent.mirror("off")["reason"] == "EndpointUnreachable"
        assert "again" not in agent.log.read_text()
    agent.cleanup()


def test_a_route_that_changes_moves_the_copies_whole(bed: Node, agent: Agent) -> None:
    """To the other device, with its source and its MTU; each copy goes to the one or the other, at most once."""
    run("ping", "-c", "1", "-W", "2", "10.9.5.2")
    with Capture("eth0", bed.analyzer) as one, Capture("eth0", "two") as two, load(bed, 8000) as traffic:
        one.wait(500)
        run("ip", "route", "replace", f"{SINK}/32", "via", "10.9.5.2")
        changed = time.monotonic()
        sent = traffic.finish().packets
        one.settle()
        two.settle()
    first, second = datagrams(one.frames, VXLAN), datagrams(two.frames, VXLAN)
    assert_each_once(numbers(first) + numbers(second), sent, "copies")
    assert second[0].when - changed < 1
    assert {frame.octets[26:34] for frame in two.frames if frame.octets[23] == 17} == {
        bytes([10, 9, 5, 1, 10, 99, 0, 1])
    }
    row = endpoint(agent)
    assert (row["device"], row["source"], row["mtu"]) == ("up1", "10.9.5.1", 1400)
    check_identity(agent.mirror(), sent)
    with Capture("eth0", "two") as two:
        blast(dst=bed.peer_address, port=9, size=1400, count=10, rate=1000)
        two.settle()
    assert max(len(frame.octets) for frame in two.frames) <= 1400 + 14


def test_a_route_that_goes_is_counted_and_said(bed: Node, agent: Agent) -> None:
    with Capture("eth0", bed.analyzer) as copies, load(bed, 8000) as traffic:
        copies.wait(200)
        run("ip", "route", "delete", f"{SINK}/32")
        status = agent.wait(lambda status: status["mirrors"][0]["reason"] == "EndpointUnreachable")
        row = status["mirrors"][0]
        assert SINK in row["message"]
        assert endpoint(agent) == {"address": SINK, "device": None, "source": None, "nexthop": None, "mtu": None} | {
            "state": "no_route"
        }
        seen = len(copies.settle())
        run("ip", "route", "add", f"{SINK}/32", "via", "10.9.0.2")
        back = time.monotonic()
        copies.wait(seen + 1)
        assert copies.frames[seen].when - back < 1
        sent = traffic.finish().packets
        copies.settle()
    row = agent.mirror()
    check_identity(row, sent)
    assert row["dropped"]["no_route"] > 0
    assert {reason for reason, count in row["dropped"].items() if count} == {"no_route"}
    assert row["sent"]["packets"] == len(datagrams(copies.frames, VXLAN))
    assert (row["state"], row["reason"]) == ("Programmed", None)


def test_a_silent_analyzer_is_counted_as_no_neighbour(bed: Node, agent: Agent) -> None:
    """A3: FAILED is a counted drop, production goes on, nobody is flooded with ARP; it comes back within 2 s."""
    # The device stays up: only its answers are missing.
    run("ip", "link", "set", "eth0", "arp", "off", netns=bed.analyzer)
    for name, value in (("base_reachable_time_ms", 500), ("delay_first_probe_time", 1), ("retrans_time_ms", 100)):
        set_sysctl(f"net.ipv4.neigh.up0.{name}", value)
    run("ip", "neighbour", "flush", "dev", "up0")
    started = time.monotonic()
    with (
        Capture("eth0", bed.analyzer) as copies,
        Capture("eth0", bed.peer) as production,
        load(bed, 16_000) as traffic,
    ):
        status = agent.wait(lambda status: status["mirrors"][0]["reason"] == "EndpointUnreachable")
        assert status["mirrors"][0]["targets"][0]["endpoints"][0]["state"] == "unreachable"
        time.sleep(max(0.0, started + 4 - time.monotonic()))
        asked = [frame for frame in copies.frames if frame.octets[12:14] == b"\x08\x06"]
        assert 1 <= len(asked) < 40
        seen = len(datagrams(copies.frames, VXLAN))
        run("ip", "link", "set", "eth0", "arp", "on", netns=bed.analyzer)
        back = time.monotonic()
        wait_until(lambda: len(datagrams(copies.frames, VXLAN)) > seen)
        assert datagrams(copies.frames, VXLAN)[seen].when - back < 2
        sent = traffic.finish().packets
        copies.settle()
        production.settle()
    assert_each_once(numbers(datagrams(production.frames)), sent, "production")
    row = agent.mirror()
    check_identity(row, sent)
    assert row["dropped"]["no_neighbour"] > 2000
    found = numbers(datagrams(copies.frames, VXLAN))
    assert len(found) == len(set(found))
    # The kernel keeps a few packets for a neighbour that it asks for and drops the rest, without a word: what was
    # handed to it before it had given up. Not more than that second or so.
    assert row["sent"]["packets"] - len(found) < 4000


def test_an_uplink_that_is_down(bed: Node, agent: Agent) -> None:
    """A7: counted; back up, copies flow again."""
    with Capture("eth0", bed.analyzer) as copies, load(bed, 12_000) as traffic:
        copies.wait(200)
        run("ip", "link", "set", "up0", "down")
        agent.wait(lambda status: status["mirrors"][0]["targets"][0]["endpoints"][0]["state"] == "no_route")
        seen = len(datagrams(copies.frames, VXLAN))
        run("ip", "link", "set", "up0", "up")
        run("ip", "route", "replace", f"{SINK}/32", "via", "10.9.0.2")
        back = time.monotonic()
        wait_until(lambda: len(datagrams(copies.frames, VXLAN)) > seen)
        assert datagrams(copies.frames, VXLAN)[seen].when - back < 2
        sent = traffic.finish().packets
        copies.settle()
    row = agent.mirror()
    check_identity(row, sent)
    assert row["dropped"]["no_route"] > 0


def test_an_uplink_without_carrier(bed: Node, agent: Agent) -> None:
    """A7: the other end of the cable is pulled."""
    run("ip", "link", "set", "eth0", "down", netns=bed.analyzer)
    agent.wait(lambda status: status["mirrors"][0]["reason"] == "EndpointUnreachable")
    blast(dst=bed.peer_address, port=9, size=64, count=100, rate=2000)
    row = agent.mirror()
    check_identity(row, 100)
    assert row["sent"]["packets"] == 0


def test_an_uplink_that_is_deleted_and_its_index_used_again(bed: Node, agent: Agent) -> None:
    """A6: what has the index next gets no copy, once the agent has looked: a tenth of a second."""
    index = ifindex("up0")
    with load(bed, 10_000) as traffic:
        wait_until(lambda: agent.mirror()["sent"]["packets"] > 100)
        run("ip", "link", "delete", "up0")
        run("ip", "link", "add", "wrong0", "index", index, "type", "veth", "peer", "name", "wrong1")
        run("ip", "link", "set", "wrong1", "up")
        # Neither ARP nor carrier would stop what is sent out of it.
        run("ip", "link", "set", "wrong0", "up", "arp", "off")
        time.sleep(0.2)
        with Capture("wrong1") as wrong:
            agent.wait(lambda status: status["mirrors"][0]["reason"] == "EndpointUnreachable")
            sent = traffic.finish().packets
            wrong.settle()
    assert datagrams(wrong.frames, VXLAN) == []
    row = agent.mirror()
    check_identity(row, sent)
    assert row["dropped"]["no_route"] > 1000
    remove(["wrong0"], [])


@pytest.mark.parametrize("what", ["route", "link"])
def test_an_mtu_that_changes_is_followed(bed: Node, agent: Agent, what: str) -> None:
    """A8: from 1500 to 1300 and back; never a frame above what holds."""
    down = {"route": f"ip route replace {SINK}/32 via 10.9.0.2 mtu 1300", "link": "ip link set up0 mtu 1300"}[what]
    up = {"route": f"ip route replace {SINK}/32 via 10.9.0.2", "link": "ip link set up0 mtu 1500"}[what]
    longest = []
    for change, mtu in ((down, 1300), (up, 1500)):
        run(*change.split())
        agent.wait(lambda status: status["mirrors"][0]["targets"][0]["endpoints"][0]["mtu"] == mtu)  # noqa: B023
        with Capture("eth0", bed.analyzer) as copies:
            blast(dst=bed.peer_address, port=9, size=1400, count=20, rate=1000)
            copies.settle()
        longest.append(max(len(frame.octets) - 14 for frame in copies.frames))
        assert len(copies.frames) == (40 if mtu == 1300 else 20)
    assert longest[0] <= 1300
    assert longest[1] == 1400 + 28 + 14 + 36


def test_several_endpoints_fail_alone(bed: Node, agent: Agent) -> None:
    """Flows of the one that is gone are counted; those of the other go on."""
    agent.write(target(address=["10.9.0.2", "10.9.5.2"]), mirror(direction="Ingress", filter="udp"))
    agent.wait(
        lambda status: (
            [e["state"] for t in status["mirrors"][0]["targets"] for e in t["endpoints"]] == ["reachable"] * 2
        )
    )
    before = agent.mirror()["sent"]["packets"]

    def round_of_flows() -> tuple[int, int]:
        with Capture("eth0", bed.analyzer) as one, Capture("eth0", "two") as two:
            blast(dst=bed.peer_address, port=1000, ports=64, sport=1234, size=64, count=640, rate=4000)
            one.settle()
            two.settle()
        return len(datagrams(one.frames, VXLAN)), len(datagrams(two.frames, VXLAN))

    one, two = round_of_flows()
    assert one + two == 640
    assert min(one, two) > 100
    run("ip", "link", "set", "up1", "down")
    agent.wait(lambda status: status["mirrors"][0]["reason"] == "EndpointUnreachable")
    assert round_of_flows() == (one, 0)
    row = agent.mirror()
    assert row["sent"]["packets"] - before == 640 + one
    assert row["dropped"]["no_route"] == two


def test_routes_that_flap(bed: Node, agent: Agent) -> None:
    """Twenty changes a second: every copy in one place or counted, none twice, and it settles."""
    run("ping", "-c", "1", "-W", "2", "10.9.5.2")
    ways = itertools.cycle(["10.9.5.2", "10.9.0.2"])
    with Capture("eth0", bed.analyzer) as one, Capture("eth0", "two") as two, load(bed, 8000) as traffic:
        one.wait(100)
        for _, way in zip(range(60), ways, strict=False):
            run("ip", "route", "replace", f"{SINK}/32", "via", way)
            time.sleep(0.05)
        sent = traffic.finish().packets
        one.settle()
        two.settle()
    found = sorted(numbers(datagrams(one.frames, VXLAN)) + numbers(datagrams(two.frames, VXLAN)))
    assert_each_once(found, sent, "copies")
    assert endpoint(agent)["device"] == "up0"
