"""Other people's programs and qdiscs on our hooks, and what other people do to ours."""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sniffer.abi.limits import Direction
from sniffer.kernel import bpf, tcx
from tests.agent import Agent, mirror, sniffer, target
from tests.inventory import ROOT, attached, bpftool, ifindex, surfaces
from tests.numbered import VXLAN, assert_each_once, datagrams, numbers
from tests.topology import Node, node, run, wait_until
from tests.traffic import Background, blast
from tests.wire import Capture

FOREIGN = Path(__file__).parents[2] / "build/tests/bpf/foreign.bpf.o"
PINS = Path("/sys/fs/bpf/foreign")
DIRECTIONS = ("ingress", "egress")
TWO_SECONDS = 2.0


@pytest.fixture(scope="module")
def bed() -> Iterator[Node]:
    with node() as made:
        yield made


class Foreign:
    """Programs of somebody else: next and ok, pinned, with a count of their runs."""

    def __init__(self) -> None:
        PINS.mkdir()
        with bpf.Object.open(FOREIGN, PINS) as loaded:
            self.ids = {}
            for name in ("foreign_next", "foreign_ok", "foreign_drop"):
                bpf.pin(loaded.program(name).fd, PINS / name)
                self.ids[name] = loaded.program(name).id

    def runs(self) -> int:
        (row,) = bpftool("map", "dump", "pinned", PINS / "runs")
        value = (
            row["formatted"]["value"]
            if "formatted" in row
            else int.from_bytes(bytes(int(b, 0) for b in row["value"]), "little")
        )
        return int(value)

    def tcx(self, device: str, direction: str, program: str = "foreign_next") -> None:
        """At the head of the chain, by a link that only its pin holds."""
        fd = bpf.get_pinned(PINS / program)
        link = tcx.attach_tcx(ifindex(device), Direction[direction.upper()], fd)
        count = len(list(PINS.glob("link*")))
        bpf.pin(link, PINS / f"link{count}")
        os.close(link)
        os.close(fd)

    def tc(self, device: str, direction: str, prio: int, program: str = "foreign_next") -> None:
        run(
            *("tc", "filter", "add", "dev", device, direction, "prio", prio, "protocol", "all"),
            *("bpf", "da", "pinned", PINS / program),
        )

    def remove(self) -> None:
        for path in PINS.iterdir():
            path.unlink()
        PINS.rmdir()
        for device in ("pod0", "peer0", "up0"):
            run("tc", "qdisc", "del", "dev", device, "clsact", check=False)


@pytest.fixture
def foreign(bed: Node) -> Iterator[Foreign]:
    one = Foreign()
    yield one
    one.remove()


@pytest.fixture(params=["tcx", "clsact"])
def agent(bed: Node, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Agent]:
    one = Agent(tmp_path, ROOT, "--attachment", request.param)
    one.write(target(), mirror(filter="udp"))
    yield one
    one.stop()
    sniffer("cleanup")


def chain(device: str, direction: str) -> list[str]:
    """Names of the programs on a TCX hook, in order."""
    names = {row["id"]: row.get("name", "?") for row in bpftool("prog", "show")}
    return [names[number] for number in tcx.query_tcx(ifindex(device), Direction[direction.upper()])]


def filters(device: str, direction: str) -> list[str]:
    """What `tc filter show` says, line by line."""
    return run("tc", "filter", "show", "dev", device, direction).splitlines()


def install(foreign: Foreign) -> None:
    """clsact with BPF and u32, and TCX, on both directions of pod0."""
    run("tc", "qdisc", "add", "dev", "pod0", "clsact", check=False)
    for direction in DIRECTIONS:
        foreign.tc("pod0", direction, 1)
        foreign.tc("pod0", direction, 50)
        never = "protocol ip u32 match ip dport 65000 0xffff flowid 1:1"
        run(*f"tc filter add dev pod0 {direction} prio 70 {never}".split())
        foreign.tcx("pod0", direction)


def foreign_filters() -> list[str]:
    return [line for direction in DIRECTIONS for line in filters("pod0", direction) if "sniffer" not in line]


def foreign_tcx(foreign: Foreign) -> list[tuple[str, int]]:
    return [(direction, chain("pod0", direction).count("foreign_next")) for direction in DIRECTIONS]


@pytest.mark.parametrize("when", ["before", "after"])
def test_they_survive_everything_we_do(bed: Node, agent: Agent, foreign: Foreign, when: str) -> None:
    """D2, D4: start, edits, takeover, cleanup; all of them run for every packet, and so do ours."""
    if when == "before":
        install(foreign)
        agent.start()
    else:
        agent.start()
        agent.programmed()
        install(foreign)
    theirs = foreign_filters()
    assert len(theirs) > 8
    tcxs = foreign_tcx(foreign)

    def check(copies_wanted: int) -> None:
        assert foreign_filters() == theirs
        assert foreign_tcx(foreign) == tcxs
        runs = foreign.runs()
        with Capture("eth0", bed.analyzer) as copies:
            assert blast(dst=bed.peer_address, port=9, size=64, count=100, rate=5000).packets == 100
            copies.settle()
        assert len(numbers(datagrams(copies.frames, VXLAN))) == copies_wanted
        assert foreign.runs() - runs >= 300

    agent.programmed()
    check(100)
    agent.write(target(), mirror(interfaces=["peer0"], direction="Egress", filter="udp"))
    agent.wait(lambda status: {row["interface"] for row in status["hooks"]} == {"peer0"})
    check(100)
    agent.write(target(), mirror(filter="udp"))
    agent.wait(lambda status: {row["interface"] for row in status["hooks"]} == {"pod0"})
    agent.kill()
    agent.start()
    check(100)
    agent.stop()
    agent.cleanup()
    check(0)
    assert "clsact" in run("tc", "qdisc", "show", "dev", "pod0")


def test_ahead_lists_what_runs_before_us(bed: Node, agent: Agent, foreign: Foreign) -> None:
    """D3."""
    if "tcx" in agent.arguments:
        foreign.tcx("pod0", "ingress")
        agent.start()
        agent.programmed()
        assert all(row["ahead"] == [] for row in agent.status()["hooks"])
        assert chain("pod0", "ingress") == ["tap_ingress", "foreign_next"]
        foreign.tcx("pod0", "ingress", "foreign_ok")
    else:
        agent.start()
        agent.programmed()
        foreign.tc("pod0", "ingress", 1, "foreign_ok")
    status = agent.status()
    (row,) = (row for row in status["hooks"] if row["direction"] == "ingress")
    assert (row["state"], row["ahead"]) == ("bypassed", [foreign.ids["foreign_ok"]])
    (other,) = (row for row in status["hooks"] if row["direction"] == "egress")
    assert (other["state"], other["ahead"]) == ("attached", [])
    assert sniffer("status").returncode == 1
    if "tcx" in agent.arguments:  # never fight: where we are we stay
        time.sleep(1.5)
        assert chain("pod0", "ingress") == ["foreign_ok", "tap_ingress", "foreign_next"]


@pytest.mark.parametrize("agent", ["clsact"], indirect=True)
def test_tcx_runs_before_our_clsact_filter(bed: Node, agent: Agent, foreign: Foreign) -> None:
    """D4: seen, though it is another mechanism."""
    agent.start()
    agent.programmed()
    foreign.tcx("pod0", "ingress")
    (row,) = (row for row in agent.status()["hooks"] if row["direction"] == "ingress")
    assert row["ahead"] == [foreign.ids["foreign_next"]]


@pytest.mark.parametrize("agent", ["clsact"], indirect=True)
def test_our_place_is_taken(bed: Node, agent: Agent, foreign: Foreign) -> None:
    """D2: their filter at our priority and handle stays; the other hook works on, the agent lives and says it."""
    run("tc", "qdisc", "add", "dev", "pod0", "clsact", check=False)
    run(
        *[
            "tc",
            "filter",
            "add",
            "dev",
            "pod0",
            "ingress",
            "prio",
            "1",
            "handle",
            "0x5e1f",
            "protocol",
            "all",
            "bpf",
            "da",
        ],
        *("pinned", PINS / "foreign_next"),
    )
    agent.start()
    agent.wait(
        lambda status: (
            {(r["direction"], r["state"]) for r in status["hooks"]} == {("ingress", "missing"), ("egress", "attached")}
        )
    )
    assert sniffer("status").returncode == 1
    assert not any("sniffer" in line for line in filters("pod0", "ingress"))
    assert "foreign_next" in agent.log.read_text()
    with Capture("eth0", bed.analyzer) as copies:
        blast(netns="peer", dst=bed.pod_address, port=9, size=64, count=100, rate=5000)
        copies.settle()
    assert_each_once(numbers(datagrams(copies.frames, VXLAN)), 100, "egress")


@pytest.mark.parametrize("agent", ["clsact"], indirect=True)
def test_an_ingress_qdisc_leaves_no_room_for_egress(bed: Node, agent: Agent) -> None:
    """D6: ingress is mirrored, egress is said to be impossible."""
    # The agent of a former test may have made one in its last moment.
    run("tc", "qdisc", "del", "dev", "pod0", "clsact", check=False)
    run("tc", "qdisc", "add", "dev", "pod0", "ingress")
    try:
        agent.start()
        agent.wait(
            lambda status: (
                {(r["direction"], r["state"]) for r in status["hooks"]}
                == {("ingress", "attached"), ("egress", "missing")}
            )
        )
        assert "egress cannot be mirrored" in agent.log.read_text()
        with Capture("eth0", bed.analyzer) as copies:
            blast(dst=bed.peer_address, port=9, size=64, count=100, rate=5000)
            copies.settle()
        assert_each_once(numbers(datagrams(copies.frames, VXLAN)), 100, "ingress")
        agent.stop()
        agent.cleanup()
        assert "ingress" in run("tc", "qdisc", "show", "dev", "pod0")
    finally:
        run("tc", "qdisc", "del", "dev", "pod0", "ingress")


def delete_links() -> None:
    for direction in DIRECTIONS:
        for row in bpftool("-f", "link", "show"):
            if any(f"links/{ifindex('pod0')}-{direction}" in path for path in row.get("pinned", ())):
                run("bpftool", "link", "detach", "id", row["id"])


def unlink_pins() -> None:
    for path in (ROOT / "abi-2/links").glob(f"{ifindex('pod0')}-*"):
        path.unlink()


def delete_filters() -> None:
    for direction in DIRECTIONS:
        run(*f"tc filter del dev pod0 {direction}".split())


def delete_clsact() -> None:
    run(*["tc", "qdisc", "del", "dev", "pod0", "clsact"])


TAMPERING = {
    "tcx": {"detached": delete_links, "unpinned": unlink_pins},
    "clsact": {"filters deleted": delete_filters, "qdisc deleted": delete_clsact},
}
CASES = [(kind, name) for kind, ways in TAMPERING.items() for name in ways]


@pytest.mark.parametrize(("agent", "how"), CASES, ids=[name for _, name in CASES], indirect=["agent"])
def test_somebody_takes_our_program_off(bed: Node, agent: Agent, how: str) -> None:
    """D1: it is back within two seconds, at a lease of a minute."""
    agent.start()
    agent.programmed()
    before = {row[:2] for row in attached() if row[0] == "pod0"}
    with Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=9, size=64, seconds=60, rate=1000):
            copies.wait(200)
            TAMPERING[agent.arguments[1]][how]()
            gone = time.monotonic()
            wait_until(lambda: {row[:2] for row in attached() if row[0] == "pod0"} == before, TWO_SECONDS + 1)
            time.sleep(0.3)
        copies.settle()
    whens = [item.when for item in datagrams(copies.frames, VXLAN)]
    assert whens[-1] > gone
    assert max(b - a for a, b in itertools.pairwise(whens)) < TWO_SECONDS


RELAY_CASES = [("tcx", how) for how in ("deleted", "sender down", "offloads on", "mtu")] + [("clsact", "deleted")]


@pytest.mark.parametrize(("agent", "how"), RELAY_CASES, ids=map(" ".join, RELAY_CASES), indirect=["agent"])
def test_somebody_breaks_our_relay(bed: Node, agent: Agent, how: str) -> None:
    """It is mended within two seconds; what could not be copied meanwhile is counted, production never notices."""
    change = {
        "deleted": "ip link del sniffer-tx",
        "sender down": "ip link set sniffer-tx down",
        "offloads on": "ethtool -K sniffer-tx tso on gso on",
        "mtu": "ip link set sniffer-rx mtu 1000",
    }[how]
    agent.start()
    agent.programmed()
    with Capture("eth0", bed.analyzer) as copies, Capture("eth0", bed.peer) as production:
        with Background(dst=bed.peer_address, port=9, size=64, count=6000, rate=3000) as load:
            copies.wait(200)
            run(*change.split())
            broken = time.monotonic()
            sent = load.finish().packets
        copies.settle()
        production.settle()
    assert_each_once(numbers(datagrams(production.frames)), sent, "production")
    found = datagrams(copies.frames, VXLAN)
    assert len(set(numbers(found))) == len(found)
    row = agent.mirror()
    dropped = {reason: count for reason, count in row["dropped"].items() if count}
    assert row["matched"]["packets"] == sent
    assert row["sent"]["packets"] + sum(dropped.values()) == sent
    assert dropped.keys() <= {"relay_down"}
    assert row["sent"]["packets"] - sum(row["lost"].values()) == len(found)
    if how == "deleted":
        assert dropped
    whens = [item.when for item in found]
    assert max(b - a for a, b in itertools.pairwise(whens)) < TWO_SECONDS
    assert whens[-1] > broken
    shown = run("ip", "-d", "link", "show", "sniffer-tx") + run("ethtool", "-k", "sniffer-tx")
    assert "tcp-segmentation-offload: off" in shown
    assert run("ip", "link", "show", "sniffer-rx").count("mtu 65535") == 1


def test_a_program_of_theirs_that_ends_the_chain_ends_nothing_of_theirs(
    bed: Node, agent: Agent, foreign: Foreign
) -> None:
    """Ours says next, always: what comes behind it decides."""
    run("tc", "qdisc", "add", "dev", "pod0", "clsact", check=False)
    foreign.tc("pod0", "ingress", 90, "foreign_drop")
    agent.start()
    agent.programmed()
    with Capture("eth0", bed.analyzer) as copies, Capture("eth0", bed.peer) as production:
        blast(dst=bed.peer_address, port=9, size=64, count=100, rate=5000)
        copies.settle()
        production.settle()
    assert numbers(datagrams(production.frames)) == []
    assert_each_once(numbers(datagrams(copies.frames, VXLAN)), 100, "copies")


def test_surfaces_are_seen(bed: Node, foreign: Foreign) -> None:
    """The witness of test_cleanup.py sees a filter, a TCX link and a pin."""
    before = set(surfaces())
    install(foreign)
    assert len(set(surfaces()) - before) > 6
