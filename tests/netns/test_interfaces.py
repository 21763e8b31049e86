"""Interfaces come and go, are renamed, and their indexes are used again."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.agent import Agent, mirror, target
from tests.inventory import attached, ifindex, pinned
from tests.numbered import VXLAN, assert_each_once, datagrams, numbers
from tests.topology import Node, namespace, node, remove, run, up, veth
from tests.traffic import Background, blast
from tests.wire import Capture

A_SECOND = 1.0
FRAME = bytes.fromhex("020000000122 020000000121 88b5") + bytes(50)


@pytest.fixture(scope="module")
def bed() -> Iterator[Node]:
    with node() as made:
        yield made


@pytest.fixture(params=["tcx", "clsact"])
def agent(bed: Node, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Agent]:
    one = Agent(tmp_path, Path("/sys/fs/bpf/sniffer"), "--attachment", request.param)
    one.write(target(), mirror(interfaces=["pod*"]))
    one.start()
    one.programmed()
    yield one
    one.stop()
    one.cleanup()
    remove(["pod1", "pod2", "web0", "other0", "sink0"], ["pod1"])


only_tcx = pytest.mark.parametrize("agent", ["tcx"], indirect=True)


def add_pod(name: str = "pod1", index: int | None = None) -> None:
    where = ["index", index] if index else []
    run("ip", "link", "add", name, *where, "type", "veth", "peer", "name", f"far-{name}")
    up(name)
    up(f"far-{name}")


def raw(device: str, count: int = 100, rate: float = 1000) -> None:
    blast("raw", netns=None, dev=device, hex=FRAME.hex(), count=count, rate=rate)


def hooks(agent: Agent) -> set[tuple[str, str]]:
    return {(row["interface"], row["direction"]) for row in agent.status()["hooks"] if row["state"] == "attached"}


BOTH = {("pod0", "ingress"), ("pod0", "egress")}
POD1 = {("pod1", "ingress"), ("pod1", "egress")}


def bridges(stem: str, indexes: Iterable[int]) -> list[str]:
    """Devices with these indexes, up."""
    names = [f"{stem}{number}" for number, _ in enumerate(indexes)]
    pairs = list(zip(names, indexes, strict=True))
    lines = [f"link add {name} index {index} type bridge\nlink set {name} up" for name, index in pairs]
    run("ip", "-batch", "-", stdin="\n".join(lines))
    return names


@only_tcx
def test_indexes_that_have_come_round(bed: Node, agent: Agent) -> None:
    """A row of interfaces that have been there for long, and new ones, thousands of interfaces later, whose words in
    the map would lie in its midst. Where there is no room for some, they say so, and stand in nobody's way."""
    row = bridges("row", range(40_000, 40_060))
    new = bridges("new", range(44_116, 44_122))
    same = bridges("same", range(50_000, 50_000 + 16 * 4096, 4096))
    try:
        agent.write(target(), mirror("rows", ["row*", "new*"]), mirror("many", ["same*"]), mirror("pods", ["pod0"]))
        agent.wait(lambda status: {r["name"]: r["state"] for r in status["mirrors"]}.get("many") == "Degraded", 15)
        assert {(name, way) for name in (*row, *new) for way in ("ingress", "egress")} <= hooks(agent)
        assert (agent.mirror("rows")["state"], agent.mirror("pods")["state"]) == ("Programmed", "Programmed")
        many = agent.mirror("many")
        assert many["reason"] == "NotAttached"
        assert "no room in `hooks` for ifindex" in many["message"]
        there = [name for name in same if (name, "egress") in hooks(agent)]
        assert 8 < len(there) < 16
        with Capture("eth0", bed.analyzer) as copies:
            for name in (row[0], new[0], new[-1], there[-1]):
                raw(name, 10)
            copies.settle()
        assert sum(frame.octets[50:] == FRAME for frame in copies.frames) == 40
        remove(same[8:], [])
        agent.wait(lambda status: {r["name"]: r["state"] for r in status["mirrors"]}["many"] == "Programmed")
    finally:
        remove([*row, *new, *same], [])


@only_tcx
def test_a_veth_made_later_is_mirrored_within_a_second(bed: Node, agent: Agent) -> None:
    """And every frame from then on."""
    with Capture("eth0", bed.analyzer) as copies:
        made = time.monotonic()
        add_pod()
        raw("far-pod1", 1500, 1000)
        copies.settle()
    found = [frame for frame in copies.frames if frame.octets[50:] == FRAME]
    assert found
    assert found[0].when - made < A_SECOND
    status = agent.wait(lambda status: status["mirrors"][0]["interfaces"] == ["pod0", "pod1"])
    assert status["mirrors"][0]["matched"]["packets"] == len(found)
    assert len(found) > 1000


def test_one_that_vanished_leaves_nothing(bed: Node, agent: Agent) -> None:
    before, on = set(pinned()), attached()
    for _ in range(5):
        add_pod()
        agent.wait(lambda _: hooks(agent) == BOTH | POD1)
        run("ip", "link", "delete", "pod1")
        agent.wait(lambda status: {row["interface"] for row in status["hooks"]} == {"pod0"})
    assert set(pinned()) == before
    assert attached() == on
    assert "Traceback" not in agent.log.read_text()


@only_tcx
def test_a_hundred_come_and_go_at_once(bed: Node, agent: Agent) -> None:
    """D16, in small: events in a storm; pod0 is mirrored without a gap meanwhile."""
    names = [f"pod{n}" for n in range(100, 200)]
    script = "".join(f"link add {n} type veth peer name far{n}\nlink set {n} up\n" for n in names)
    with Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=9, size=64, seconds=60, rate=1000) as load:
            copies.wait(100)
            run("ip", "-batch", "-", stdin=script)
            agent.wait(lambda status: len(status["hooks"]) == 202, 10)
            run("ip", "-batch", "-", stdin="".join(f"link delete {n}\n" for n in names))
            agent.wait(lambda status: len(status["hooks"]) == 2, 10)
            del load
        copies.settle()
    found = sorted(numbers(datagrams(copies.frames, VXLAN)))
    assert found == list(range(len(found)))
    assert len([path for path in pinned() if "/links/" in path]) == (4 if "tcx" in agent.arguments else 0)


@only_tcx
def test_renamed_it_is_another_interface(bed: Node, agent: Agent) -> None:
    """D9: away from the pattern it is no longer mirrored, back it is; from one match to another nothing is lost."""
    add_pod()
    agent.wait(lambda _: hooks(agent) == BOTH | POD1)
    run("ip", "link", "set", "pod1", "name", "web0")
    agent.wait(lambda _: hooks(agent) == BOTH)
    with Capture("eth0", bed.analyzer) as copies:
        raw("far-pod1")
        copies.settle()
        assert copies.frames == []
        run("ip", "link", "set", "web0", "name", "pod1")
        agent.wait(lambda _: hooks(agent) == BOTH | POD1)
        with Background(netns="pod", dst=bed.peer_address, port=9, size=64, count=3000, rate=2000) as load:
            run("ip", "link", "set", "pod1", "name", "pod2")
            load.finish()
        agent.wait(lambda status: status["mirrors"][0]["interfaces"] == ["pod0", "pod2"])
        raw("far-pod1")
        copies.settle()
    ours = [frame for frame in copies.frames if frame.octets[50:] == FRAME]
    assert len(ours) == 100
    assert_each_once(sorted(numbers(datagrams(copies.frames, VXLAN))), 3000, "pod0's")


@pytest.mark.parametrize("alive", [True, False], ids=["agent alive", "agent dead"])
def test_an_index_used_again_is_not_mirrored(bed: Node, agent: Agent, alive: bool) -> None:
    """A6: another device with the index of one that was mirrored."""
    add_pod()
    agent.wait(lambda _: hooks(agent) == BOTH | POD1)
    index = ifindex("pod1")
    if not alive:
        agent.kill()
    run("ip", "link", "delete", "pod1")
    add_pod("other0", index)
    assert ifindex("other0") == index
    with Capture("eth0", bed.analyzer) as copies:
        raw("far-other0", 1000, 2000)
        if not alive:
            agent.start()
            agent.programmed()
            raw("far-other0")
        copies.settle()
    assert copies.frames == []
    assert {row["interface"] for row in agent.status()["hooks"]} == {"pod0"}
    assert "other0" not in {device for device, _, _ in attached()}


def test_an_index_used_again_by_one_that_matches(bed: Node, agent: Agent) -> None:
    """A6: the new device is attached anew, though everything of ours still has its index."""
    add_pod()
    agent.wait(lambda _: hooks(agent) == BOTH | POD1)
    index = ifindex("pod1")
    agent.kill()
    run("ip", "link", "delete", "pod1")
    add_pod("pod2", index)
    agent.start()
    agent.wait(lambda _: hooks(agent) == BOTH | {("pod2", "ingress"), ("pod2", "egress")})
    with Capture("eth0", bed.analyzer) as copies:
        raw("far-pod2")
        copies.settle()
    assert len(copies.frames) == 100


@only_tcx
def test_the_relay_is_not_tapped_by_a_pattern(bed: Node, agent: Agent) -> None:
    """B: `*` means everything but our own and what has no Ethernet header."""
    agent.write(target(), mirror(interfaces=["*"]))
    status = agent.wait(lambda status: len(status["mirrors"][0]["interfaces"]) > 2)
    assert status["mirrors"][0]["interfaces"] == ["br0", "peer0", "pod0", "up0"]
    taps = {(device, way) for device, way, _ in attached() if device.startswith("sniffer")}
    assert taps == {("sniffer-tx", "egress"), ("sniffer-rx", "ingress"), ("sniffer-rx", "xdp")}
    for name in ("sniffer-tx", "sniffer-rx"):
        agent.write(target(), mirror(interfaces=[name]))
        agent.wait(lambda status: status["mirrors"][0]["state"] == "Pending")


def test_a_device_moved_to_another_namespace(bed: Node, agent: Agent) -> None:
    """D10: it takes no program of ours along, and nothing of it stays."""
    before = set(pinned())
    namespace("pod1", ipv6=False)
    add_pod()
    agent.wait(lambda _: hooks(agent) == BOTH | POD1)
    run("ip", "link", "set", "pod1", "netns", "pod1")
    agent.wait(lambda status: {row["interface"] for row in status["hooks"]} == {"pod0"})
    assert set(pinned()) == before
    assert "sched_cls" not in run("tc", "filter", "show", "dev", "pod1", "ingress", netns="pod1")


@only_tcx
def test_odd_names(bed: Node, agent: Agent) -> None:
    """D8: 15 characters, a dot, a bracket that fnmatch would take for a class."""
    names = ["pod.with.a.dot0", "pod[1]"]
    try:
        for name in names:
            run("ip", "link", "add", name, "type", "bridge")
        agent.wait(lambda status: set(names) <= set(status["mirrors"][0]["interfaces"]))
    finally:
        remove(names, [])


@only_tcx
def test_veth_helper_is_what_pods_have(bed: Node, agent: Agent) -> None:
    """The same with the other end in a namespace, as pods have it: from the pod's first frame on, within a second."""
    namespace("pod1", ipv6=False)
    made = time.monotonic()
    veth("pod1", "02:00:00:00:07:01", "pod1", "02:00:00:00:07:02", 1500)
    with Capture("eth0", bed.analyzer) as copies:
        blast("raw", netns="pod1", dev="eth0", hex=FRAME.hex(), count=1200, rate=1000)
        copies.settle()
    assert copies.frames[0].when - made < A_SECOND
