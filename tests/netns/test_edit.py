"""Editing the manifests of a running agent, under load."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.agent import Agent, mirror, target
from tests.inventory import pinned, programs
from tests.numbered import VXLAN, Datagram, assert_each_once, datagrams, numbers
from tests.topology import Node, node, wait_until
from tests.traffic import Background
from tests.wire import Capture

HALF_A_SECOND = 0.5
KEPT, EDITED = 7, 8


@pytest.fixture(scope="module")
def bed() -> Iterator[Node]:
    with node() as made:
        yield made


@pytest.fixture
def agent(bed: Node, tmp_path: Path) -> Iterator[Agent]:
    one = Agent(tmp_path)
    one.write(target("kept", encapsulation={"vxlan": {"vni": KEPT}}), file="a-target.yaml")
    one.write(target("edited", encapsulation={"vxlan": {"vni": EDITED}}), file="b-target.yaml")
    one.write(mirror("kept", targets=["kept"], direction="Ingress", filter="udp"), file="c-kept.yaml")
    with one:
        yield one
    one.cleanup()


def edited(port: int, **spec: object) -> dict[str, object]:
    return mirror("edited", targets=["edited"], **({"direction": "Ingress", "filter": f"udp port {port}"} | spec))


def write_edited(agent: Agent, port: int) -> float:
    agent.write(edited(port), file="d-edited.yaml")
    return time.monotonic()


def runs(found: list[Datagram]) -> list[int]:
    """The ports in order of arrival, repetitions left out."""
    ports = [item.port for item in found]
    return [port for n, port in enumerate(ports) if n == 0 or ports[n - 1] != port]


def test_an_edit_decides_within_half_a_second_and_nobody_else_notices(bed: Node, agent: Agent) -> None:
    """A2: each frame is decided by one version; an unchanged mirror loses nothing; no program is loaded."""
    write_edited(agent, 8)
    agent.programmed()
    before = pinned()
    with Capture("eth0", bed.analyzer) as copies, Capture("eth0", bed.peer) as production:
        with Background(dst=bed.peer_address, port=1, ports=8, size=64, count=24_000, rate=6000) as load:
            copies.wait(100)
            for port in (1, 2, 3, 4, 5, 6):
                written = write_edited(agent, port)
                first = wait_until(
                    lambda: next((d for d in vni_of(copies, EDITED) if d.port == port), None),  # noqa: B023
                    what=f"a copy of port {port}",
                )
                assert first.when - written < HALF_A_SECOND
                time.sleep(0.1)
            sent = load.finish().packets
        copies.settle()
        production.settle()
    assert_each_once(numbers(datagrams(production.frames)), sent, "production")
    assert_each_once(numbers(datagrams(copies.frames, VXLAN), vni=KEPT), sent, "the unchanged mirror")
    assert runs(vni_of(copies, EDITED)) == [8, 1, 2, 3, 4, 5, 6]
    assert pinned() == before
    row = agent.mirror("kept")
    assert (row["matched"]["packets"], row["sent"]["packets"]) == (sent, sent)


def vni_of(copies: Capture, vni: int) -> list[Datagram]:
    return [item for item in datagrams(copies.frames, VXLAN) if item.vni == vni]


def test_a_target_is_edited_without_loss_or_duplicate(bed: Node, agent: Agent) -> None:
    """A2: each copy goes to one version of the target."""
    with Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=9, size=64, count=9000, rate=6000) as load:
            copies.wait(100)
            for vni in (100, 101, 102, 103):
                agent.write(target("kept", encapsulation={"vxlan": {"vni": vni}}), file="a-target.yaml")
                wait_until(lambda: numbers(datagrams(copies.frames[-50:], VXLAN), vni=vni), what=f"VNI {vni}")  # noqa: B023
            sent = load.finish().packets
        copies.settle()
    found = datagrams(copies.frames, VXLAN)
    assert_each_once(numbers(found), sent, "copies")
    vnis = [item.vni for item in found]
    assert vnis == sorted(vnis, key=[KEPT, 100, 101, 102, 103].index)


def test_counters_survive_an_edit(bed: Node, agent: Agent) -> None:
    with Capture("eth0", bed.analyzer) as copies:
        for port in (1, 2, 1):
            written = write_edited(agent, port)
            agent.wait(lambda status: "edited" in {row["name"] for row in status["mirrors"]})
            time.sleep(max(0.0, written + HALF_A_SECOND - time.monotonic()))
            with Background(dst=bed.peer_address, port=1, ports=2, size=64, count=100) as load:
                load.finish()
        copies.settle()
    assert agent.mirror("edited")["matched"]["packets"] == 150
    assert agent.mirror("kept")["matched"]["packets"] == 300


GOOD = yaml.safe_dump(edited(5), sort_keys=False)
BROKEN = {
    "half-written": GOOD[: len(GOOD) // 2],
    "cut in a word": GOOD[: GOOD.index("filter") + 3],
    "not YAML": "{[",
    "not UTF-8": "\udcff\udcfe: 1",
    "filter typo": GOOD.replace("udp port 5", "udp prot 5"),
    "host name": GOOD.replace("udp port 5", "host sink.example"),
    "unknown field": GOOD.replace("filter:", "filtre:"),
    "direction typo": GOOD.replace("Ingress", "Inward"),
    "unknown kind": GOOD.replace("ClusterTrafficMirror", "ClusterTrafficMirrors"),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_leaves_the_last_good_version_in_force(bed: Node, agent: Agent, text: str) -> None:
    """And Degraded; the others work on; what is mended is Programmed again."""
    write_edited(agent, 5)
    agent.programmed("edited")
    draft = agent.manifests / "d-edited.yaml"
    draft.write_bytes(text.encode(errors="surrogateescape"))
    row = agent.wait(lambda status: {"Degraded"} == {r["state"] for r in status["mirrors"] if r["name"] == "edited"})
    (broken,) = (r for r in row["mirrors"] if r["name"] == "edited")
    assert broken["reason"] == "SourceUnreadable"
    assert "d-edited.yaml:" in broken["message"]
    assert agent.mirror("kept")["state"] == "Programmed"
    with Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=4, ports=2, size=64, count=100) as load:
            load.finish()
        copies.settle()
    found = datagrams(copies.frames, VXLAN)
    assert {item.port for item in found if item.vni == EDITED} == {5}
    assert len(numbers(found, vni=EDITED)) == 50
    assert len(numbers(found, vni=KEPT)) == 100
    write_edited(agent, 4)
    agent.programmed("edited")


def test_a_file_in_the_middle_of_being_written(bed: Node, agent: Agent) -> None:
    """Byte by byte, as slow editors do: never a gap of the mirror that the file held."""
    write_edited(agent, 5)
    agent.programmed("edited")
    path = agent.manifests / "d-edited.yaml"
    with Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=5, size=64, seconds=30, rate=2000), path.open("w") as file:
            copies.wait(100)
            for start in range(0, len(GOOD), 12):
                file.write(GOOD[start : start + 12])
                file.flush()
                time.sleep(0.06)
        copies.settle()
    found = datagrams(copies.frames, VXLAN)
    assert numbers(found, vni=EDITED) == numbers(found, vni=KEPT)
    agent.programmed("edited")


@pytest.mark.parametrize("how", ["truncated", "moved away"])
def test_a_file_that_is_away_for_a_moment_is_no_order_to_stop(bed: Node, agent: Agent, how: str) -> None:
    """As editors write: they empty the file and fill it, or move it away and make another."""
    write_edited(agent, 5)
    agent.programmed("edited")
    path = agent.manifests / "d-edited.yaml"
    with Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=5, size=64, seconds=30, rate=2000):
            copies.wait(100)
            for _ in range(12):
                if how == "truncated":
                    path.write_text("")
                else:
                    path.rename(path.with_suffix(".yaml~"))
                time.sleep(0.03)
                path.write_text(GOOD)
                time.sleep(0.25)
        copies.settle()
    found = datagrams(copies.frames, VXLAN)
    assert numbers(found, vni=EDITED) == numbers(found, vni=KEPT)


def test_a_deleted_file_ends_its_mirror(bed: Node, agent: Agent) -> None:
    write_edited(agent, 5)
    agent.programmed()
    agent.remove("d-edited.yaml")
    agent.wait(lambda status: [row["name"] for row in status["mirrors"]] == ["kept"])
    with Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=5, size=64, count=100) as load:
            load.finish()
        copies.settle()
    found = datagrams(copies.frames, VXLAN)
    assert (len(numbers(found, vni=KEPT)), len(numbers(found, vni=EDITED))) == (100, 0)


def test_a_directory_that_cannot_be_read_ends_nothing(bed: Node, agent: Agent) -> None:
    """An unmounted or renamed directory is no order to stop."""
    away = agent.directory / "away"
    agent.manifests.rename(away)
    status = agent.wait(lambda status: {row["state"] for row in status["mirrors"]} == {"Degraded"})
    assert "cannot be read" in status["mirrors"][0]["message"]
    with Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=5, size=64, count=100) as load:
            load.finish()
        copies.settle()
    assert_each_once(numbers(datagrams(copies.frames, VXLAN)), 100, "copies")
    away.rename(agent.manifests)
    agent.programmed()


@pytest.mark.parametrize("file", ["a-target.yaml", "c-kept.yaml"])
@pytest.mark.parametrize("how", ["not YAML", "bad value", "cut"])
def test_a_file_that_is_broken_when_the_agent_starts(bed: Node, agent: Agent, file: str, how: str) -> None:
    """What the kernel mirrors already stays, whatever file is broken in whatever way; Degraded says so."""
    agent.stop()
    text = (agent.manifests / file).read_text()
    good = {"a-target.yaml": ("vni: 7", "vni: 16777216"), "c-kept.yaml": ("filter: udp", "filter: upd")}
    broken = {"not YAML": "{[", "bad value": text.replace(*good[file]), "cut": text[: len(text) // 2]}[how]
    assert broken != text
    agent.write_text(broken, file)
    with Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=5, size=64, count=4000, rate=2000) as load:
            agent.start()
            load.finish()
        copies.settle()
    assert_each_once(numbers(datagrams(copies.frames, VXLAN)), 4000, "copies")
    status = agent.status()
    assert [row["state"] for row in status["mirrors"]] == ["Degraded"], status["mirrors"]
    agent.write_text(text, file)
    agent.programmed()


def test_two_hundred_edits_leave_no_descriptor_and_no_memory(bed: Node, agent: Agent) -> None:
    """Takes 25 s. Filters, targets and interfaces change, three files at a time; the agent sees every version."""
    agent.stop()
    agent.arguments = ("--verbose",)
    agent.start()
    assert agent.process is not None
    process = Path(f"/proc/{agent.process.pid}")

    def edit(number: int) -> None:
        spec = {"snapLength": 100 + number, "interfaces": ["pod0"] if number % 3 else ["pod0", "peer0"]}
        agent.write(edited(number + 1, **spec), file="d-edited.yaml")
        document = target("edited", encapsulation={"vxlan": {"vni": EDITED}}, outer={"ttl": 1 + number})
        agent.write(document, file="b-target.yaml")
        agent.write(mirror("third", ["peer0"], ["edited"], filter=f"port {number + 1}"), file="e-third.yaml")
        time.sleep(0.27)

    def resident() -> int:
        return next(int(line.split()[1]) for line in (process / "status").read_text().splitlines() if "VmRSS" in line)

    for number in range(20):  # caches fill
        edit(number)
    descriptors, memory = len(os.listdir(process / "fd")), resident()
    seen = agent.log.read_text().count("SetHook")
    for number in range(20, 90):
        edit(number)
    agent.programmed()
    assert agent.log.read_text().count("SetHook") - seen > 100
    assert len(os.listdir(process / "fd")) == descriptors
    assert resident() - memory < 4096  # KiB
    assert len(programs()) == 5
    assert len([path for path in pinned() if "/links/" in path]) <= 6
