"""The agent dies, comes back, meets another; interfaces come and go. Production never notices."""

import fcntl
import json
import os
import random
import shutil
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sniffer.abi.limits import ABI
from sniffer.kernel.pins import Lock, Maps, Pins
from tests.agent import Agent, mirror, sniffer, target
from tests.inventory import ROOT, assert_gone, attached, pinned, programs
from tests.numbered import VXLAN, assert_each_once, datagrams, numbers
from tests.ringless import with_digest
from tests.topology import Node, node, run, wait_until
from tests.traffic import Background
from tests.wire import Capture

LEASE_S = 3
MECHANISMS = ("tcx", "clsact")


@pytest.fixture(scope="module")
def bed() -> Iterator[Node]:
    with node() as made:
        yield made


@pytest.fixture
def lease() -> float:
    """Long enough for a busy machine; `short_lease` where its end is the point."""
    return 60.0


short_lease = pytest.mark.parametrize("lease", [LEASE_S])


@pytest.fixture(params=MECHANISMS)
def agent(bed: Node, tmp_path: Path, lease: float, request: pytest.FixtureRequest) -> Iterator[Agent]:
    one = Agent(tmp_path, ROOT, "--lease", lease, "--attachment", request.param)
    one.write(target(), mirror(direction="Ingress", filter="udp"))
    one.start()
    one.programmed()
    yield one
    one.stop()
    one.cleanup()


only_tcx = pytest.mark.parametrize("agent", ["tcx"], indirect=True)


def row_of_the_dead(agent: Agent) -> dict[str, object]:
    status = agent.status()
    assert (status["agent"]["state"], status["agent"]["pid"]) == ("absent", None)
    (row,) = status["mirrors"]
    return dict(row)


@short_lease
def test_killed_under_load_it_mirrors_until_the_lease_and_no_frame_longer(bed: Node, agent: Agent) -> None:
    """A1: production loses nothing; after the lease nothing is copied and nothing counted. Takes 7 s."""
    with Capture("eth0", bed.analyzer) as copies, Capture("eth0", bed.peer) as production:
        with Background(dst=bed.peer_address, port=9, size=64, count=24_000, rate=4000) as load:
            copies.wait(1000)
            agent.kill()
            killed = time.monotonic()
            row = row_of_the_dead(agent)
            assert row["state"] == "Programmed"
            assert 0 < row["lease_s"] <= LEASE_S
            sent = load.finish().packets
        copies.settle()
        production.settle()
    assert_each_once(numbers(datagrams(production.frames)), sent, "production")
    copied = datagrams(copies.frames, VXLAN)
    assert_each_once(numbers(copied), len(copied), "copies up to the end of the lease")
    lived = copied[-1].when - killed
    assert LEASE_S / 2 < lived <= LEASE_S + 0.1
    row = row_of_the_dead(agent)
    assert (row["state"], row["reason"], row["lease_s"]) == ("Suspended", "LeaseEnded", 0)
    assert row["matched"]["packets"] == row["sent"]["packets"] == len(copied)
    assert sniffer("status", "--pin-root", agent.pin_root).returncode == 1
    agent.start()
    agent.programmed()
    assert agent.mirror()["matched"]["packets"] == len(copied)


@pytest.mark.parametrize(("agent", "how"), [("tcx", "kill"), ("tcx", "stop"), ("clsact", "kill")], indirect=["agent"])
def test_a_new_agent_takes_over_without_gap_or_duplicate(bed: Node, agent: Agent, how: str) -> None:
    """D17, E1: nothing is loaded, attached or allocated again."""
    before, hooks = pinned(), attached()
    with Capture("eth0", bed.analyzer) as copies, Capture("eth0", bed.peer) as production:
        with Background(dst=bed.peer_address, port=9, size=64, count=12_000, rate=4000) as load:
            copies.wait(500)
            getattr(agent, how)()
            agent.start()
            agent.programmed()
            sent = load.finish().packets
        copies.settle()
        production.settle()
    assert_each_once(numbers(datagrams(production.frames)), sent, "production")
    assert_each_once(numbers(datagrams(copies.frames, VXLAN)), sent, "copies")
    assert (pinned(), attached()) == (before, hooks)
    row = agent.mirror()
    assert (row["matched"]["packets"], row["sent"]["packets"]) == (sent, sent)


def test_an_upgrade_replaces_the_programs_without_gap_or_duplicate(
    bed: Node, agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D18: another object, the same maps; of the former programs nothing is left."""
    before = pinned()
    former = Path(__file__).parents[2] / "sniffer/kernel/sniffer.bpf.o"
    other = with_digest(tmp_path / "sniffer.bpf.o", former.read_bytes() + b"\0")
    with Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=9, size=64, count=12_000, rate=3000) as load:
            copies.wait(500)
            agent.stop()
            monkeypatch.setenv("SNIFFER_OBJECT", str(other))
            agent.start()
            agent.wait(lambda _: len(programs()) == 5)
            sent = load.finish().packets
        copies.settle()
    assert_each_once(numbers(datagrams(copies.frames, VXLAN)), sent, "copies")
    after = pinned()
    assert {path: row for path, row in after.items() if row[0] != "prog"} == {
        path: row for path, row in before.items() if row[0] != "prog"
    }
    assert_gone({path: row for path, row in before.items() if row[0] == "prog"})


def test_an_upgrade_to_another_abi_leaves_no_program_of_the_former(bed: Node, agent: Agent) -> None:
    """E5, E9: its maps are of no use, its programs are replaced: no copy comes twice, none is lost with TCX links."""
    before = pinned()
    with Capture("eth0", bed.analyzer) as copies, Capture("eth0", bed.peer) as production:
        with Background(dst=bed.peer_address, port=9, size=64, count=12_000, rate=3000) as load:
            copies.wait(500)
            agent.kill()
            (agent.pin_root / f"abi-{ABI}").rename(agent.pin_root / f"abi-{ABI + 1}")
            agent.start()
            agent.programmed()
            sent = load.finish().packets
        copies.settle()
        production.settle()
    assert_each_once(numbers(datagrams(production.frames)), sent, "production")
    got = numbers(datagrams(copies.frames, VXLAN))
    if "tcx" in agent.arguments:
        assert_each_once(got, sent, "copies")
    lost = set(range(sent)) - set(got)
    assert got == sorted(set(got)), "twice, or out of order"
    assert len(lost) < 300, f"a filter is replaced in milliseconds: {len(lost)} copies are missing"
    assert [home.name for home in agent.pin_root.iterdir()] == [f"abi-{ABI}"]
    assert [place[:2] for place in attached()].count(("pod0", "ingress")) == 1
    assert_gone(before)


def test_sigterm_ends_it_within_a_second_and_leaves_everything(bed: Node, agent: Agent) -> None:
    """E7."""
    before, hooks = pinned(), attached()
    took = []
    for attempt in range(3):  # a busy machine may be slow once
        if attempt:
            agent.start()
        started = time.monotonic()
        assert agent.stop() == 0
        took.append(time.monotonic() - started)
        assert (pinned(), attached()) == (before, hooks)
    assert min(took) < 1
    assert row_of_the_dead(agent)["state"] == "Programmed"


@only_tcx
def test_sigterm_in_the_middle_of_its_start(bed: Node, agent: Agent) -> None:
    agent.stop()
    for pause in (0.0, 0.1, 0.2, 0.3, 0.4):
        agent.spawn()
        time.sleep(pause)
        assert agent.stop(2) in {0, -signal.SIGTERM}
    agent.start()
    agent.programmed()


@only_tcx
def test_fifty_kills_leave_nothing_behind(bed: Node, agent: Agent) -> None:
    """E2: at any moment of its life. Takes 25 s."""
    before, hooks = pinned(), attached()
    chance = random.Random(4)
    with Capture("eth0", bed.analyzer) as copies, Capture("eth0", bed.peer) as production:
        with Background(dst=bed.peer_address, port=9, size=64, seconds=120, rate=500):
            for _ in range(50):
                agent.kill()
                agent.spawn()
                time.sleep(chance.uniform(0.1, 0.7))
        agent.kill()
        agent.start()
        agent.programmed()
        copies.settle()
        production.settle()
    assert (pinned(), attached()) == (before, hooks)
    sent = numbers(datagrams(production.frames))
    assert_each_once(sent, len(sent), "production")
    assert_each_once(numbers(datagrams(copies.frames, VXLAN)), len(sent), "copies")


def test_killed_while_it_edits_it_converges(bed: Node, agent: Agent) -> None:
    """E1: whatever it was doing, the next one ends where one that was left alone does. Takes 8 s."""
    chance = random.Random(5)
    versions = [
        (target(), mirror(filter=f"udp port {n}"), mirror("b", ["peer0", "pod0"], snapLength=100 + n))
        for n in range(10)
    ]
    with Capture("eth0", bed.peer) as production:
        with Background(dst=bed.peer_address, port=9, size=64, seconds=120, rate=500):
            for documents in versions:
                agent.write(*documents)
                time.sleep(chance.uniform(0.15, 0.35))
                agent.kill()
                agent.spawn()
                time.sleep(chance.uniform(0.3, 0.6))
        production.settle()
    sent = numbers(datagrams(production.frames))
    assert_each_once(sent, len(sent), "production")
    agent.kill()
    agent.start()
    agent.programmed("all", "b")
    agent.stop()
    assert sniffer_plan(agent) == []
    links = sorted(path for path in pinned() if "/links/" in path)
    assert len(links) == (6 if "tcx" in agent.arguments else 0)
    agent.write(target(), mirror(direction="Ingress", filter="udp"))
    agent.start()
    agent.wait(lambda status: len(status["mirrors"]) == 1)
    agent.stop()
    assert sniffer_plan(agent) == []


def sniffer_plan(agent: Agent) -> list[dict[str, object]]:
    """What an agent would do now, but for renewing leases and its own name."""
    where = ("--manifests", agent.manifests, "--pin-root", agent.pin_root, *agent.arguments[2:])
    plan = json.loads(sniffer("plan", "--json", *where).stdout)
    return [op for op in plan if op["op"] != "SetLease"]


ONE_OP = """
import os, signal
from sniffer.kernel import apply
whole = apply.Kernel._apply
left = 1
def one(self, op):
    global left
    whole(self, op)
    again = type(op).__name__ in ("SetLease", "SetPath", "Grace") or type(op).__name__ == "PutName" and op.key.kind == 0
    left -= not again  # every agent begins with its own name, and words come before what they belong to
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
apply.Kernel._apply = one
"""


@pytest.fixture
def one_op_lives(agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Starts agents that kill themselves after one operation, until one has nothing to do; how many died."""
    directory = tmp_path / "one-op"
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(ONE_OP)

    def live() -> int:
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", str(directory), prepend=os.pathsep)
            for life in range(60):
                agent.log.unlink()
                agent.spawn()
                if not dies(agent):
                    agent.kill()
                    return life
        raise AssertionError(f"still not done: {agent.log.read_text()}")

    return live


def test_killed_after_every_single_step(bed: Node, agent: Agent, one_op_lives: Callable[[], int]) -> None:
    """E1: from a clean machine to a programmed mirror. Production never notices; no frame is copied twice."""
    agent.stop()
    agent.cleanup()
    with Capture("eth0", bed.peer) as production, Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=9, size=64, seconds=120, rate=300):
            assert one_op_lives() > 10
            copies.wait(len(copies.frames) + 100)
        production.settle()
        copies.settle()
    sent = numbers(datagrams(production.frames))
    assert_each_once(sent, len(sent), "production")
    found = numbers(datagrams(copies.frames, VXLAN))
    assert len(found) > 100
    assert len(set(found)) == len(found)
    agent.start()
    agent.programmed()
    agent.stop()
    assert sniffer_plan(agent) == []


def test_killed_after_every_single_step_of_an_edit(bed: Node, agent: Agent, one_op_lives: Callable[[], int]) -> None:
    """E1, A2: each frame is copied once, by the one version or the other, whoever dies in between. Takes 8 s."""
    agent.stop()
    agent.write(
        target(encapsulation={"vxlan": {"vni": 99}}),
        mirror(direction="Ingress", filter="udp or tcp"),
        mirror("second", ["peer0"], direction="Ingress"),
    )
    with Capture("eth0", bed.peer) as production, Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=9, size=64, seconds=120, rate=500):
            copies.wait(50)
            assert one_op_lives() > 8
            copies.wait(len(copies.frames) + 100)
        production.settle()
        copies.settle()
    found = datagrams(copies.frames, VXLAN)
    assert_each_once(numbers(found), len(numbers(datagrams(production.frames))), "copies")
    vnis = [item.vni for item in found]
    assert vnis == sorted(vnis, key=[4242, 99].index)
    assert set(vnis) == {4242, 99}


def dies(agent: Agent) -> bool:
    """Whether the agent kills itself; False when it has nothing to do but renew its lease, half a second apart."""
    process = agent.process
    assert process is not None
    end = time.monotonic() + 60
    while process.poll() is None:
        if time.monotonic() > end:
            return False
        if "ready" in agent.log.read_text():
            return False
        time.sleep(0.02)
    assert process.returncode == -signal.SIGKILL, agent.log.read_text()
    agent.process = None
    return True


@short_lease
@only_tcx
def test_a_stopped_process_is_no_living_agent(bed: Node, agent: Agent) -> None:
    """E11: it hangs longer than the lease, copies stop; it goes on, they come back. Takes 6 s."""
    assert agent.process is not None
    load = Background(dst=bed.peer_address, port=9, size=64, seconds=60, rate=500)
    with Capture("eth0", bed.analyzer) as copies, load:
        copies.wait(100)
        os.kill(agent.process.pid, signal.SIGSTOP)
        wait_until(lambda: agent.mirror()["reason"] == "LeaseEnded", LEASE_S + 1)
        seen = len(copies.settle())
        os.kill(agent.process.pid, signal.SIGCONT)
        resumed = time.monotonic()
        assert len(copies.wait(seen + 10, 2)) >= seen + 10
        assert time.monotonic() - resumed < 1


@only_tcx
def test_a_second_agent_on_the_same_root_says_who_holds_it(bed: Node, agent: Agent, tmp_path: Path) -> None:
    """D17."""
    assert agent.process is not None
    before = pinned()
    (tmp_path / "other").mkdir()
    second = sniffer("agent", "--manifests", tmp_path / "other", "--pin-root", agent.pin_root, check=False)
    assert second.returncode == 3
    assert f"(pid {agent.process.pid})" in second.stderr
    assert str(agent.pin_root) in second.stderr
    assert "Traceback" not in second.stderr
    assert pinned() == before
    assert agent.status()["agent"] == {"state": "running", "pid": agent.process.pid, "version": "0.1.0"}


def test_a_second_agent_with_a_root_of_its_own_is_refused(bed: Node, agent: Agent, tmp_path: Path) -> None:
    """One relay per network namespace: the other one says whose it is, and changes nothing."""
    hooks = attached()
    second = Agent(tmp_path / "second", Path("/sys/fs/bpf/second"), *agent.arguments)
    second.write(target(), mirror("second"))
    words = ("--manifests", second.manifests, "--pin-root", second.pin_root, *second.arguments)
    with Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=9, size=64, count=4000, rate=2000) as load:
            done = sniffer("agent", *words, check=False)
            sent = load.finish().packets
        copies.settle()
    assert_each_once(numbers(datagrams(copies.frames, VXLAN)), sent, "copies of the first")
    assert done.returncode == 3
    assert str(agent.pin_root) in done.stderr
    assert "Traceback" not in done.stderr
    assert attached() == hooks
    cleaned = sniffer("cleanup", "--pin-root", second.pin_root, check=False)
    assert cleaned.returncode == 0, cleaned.stderr
    assert attached() == hooks
    assert not second.pin_root.exists()
    agent.programmed()


@only_tcx
def test_status_never_stumbles_over_a_busy_agent(bed: Node, agent: Agent) -> None:
    """Readers take no lock on the maps: what they find in the middle of a change is no error of theirs."""
    end = time.monotonic() + 4
    number = 0
    while time.monotonic() < end:
        number += 1
        interfaces = (["pod0"], ["pod0", "peer0"], ["peer0"])[number % 3]
        agent.write(target(outer={"ttl": 1 + number % 200}), mirror("all", interfaces, snapLength=100 + number))
        time.sleep(0.05)
        done = sniffer("status", "--json", check=False)
        assert done.returncode in {0, 1}, done.stderr
        assert done.stderr == ""
        json.loads(done.stdout)


@only_tcx
def test_an_agent_starts_while_somebody_asks_for_the_status(bed: Node, agent: Agent) -> None:
    """A reader's lock, held for microseconds, is not another agent."""
    agent.stop()
    descriptor = os.open(agent.pin_root, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    reader = threading.Timer(0.05, os.close, [descriptor])
    reader.start()
    Lock(Pins(agent.pin_root)).release()
    reader.join()


@only_tcx
def test_what_is_deleted_while_the_agent_is_dead_ends_with_the_next(bed: Node, agent: Agent) -> None:
    """F5, G21: and the log has when it began, and when it did."""
    assert "INFO ClusterTrafficMirror all mirrors pod0\n" in agent.log.read_text()
    agent.kill()
    agent.write(target())
    agent.start()
    wait_until(lambda: "pod0" not in {place[0] for place in attached()}, 5, what="the tap gone")
    assert "INFO ClusterTrafficMirror all no longer mirrors pod0\n" in agent.log.read_text()
    with Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=9, size=64, count=100) as load:
            load.finish()
        copies.settle()
    assert not datagrams(copies.frames, VXLAN)


@only_tcx
def test_altered_maps_are_mended_and_told(bed: Node, agent: Agent) -> None:
    """G15: by bpftool, as whoever is root on the node could; garbage ends no agent."""
    tables = ("mirrors", "tunnels")
    pins = Pins(agent.pin_root)
    altered = [("filters", "0x00"), *((name, "0xff") for name in (*tables, "hooks"))]
    for looks, (name, octet) in enumerate(altered, start=1):
        with Maps(pins, writable=True) as maps:
            number = next(n for n in range(1 << 20) if any(maps.record(name, n)))
            size = maps.size[name]
        key = ("key", *struct.pack("=I", number))
        run("bpftool", "map", "update", "pinned", pins.maps / name, *key, "value", *[octet] * size)
        agent.wait(lambda _, n=looks: agent.log.read_text().count("altered our maps") >= n, 5)
        agent.wait(lambda _: not sniffer_plan(agent))
    with Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=9, size=64, count=100) as load:
            load.finish()
        copies.settle()
    assert_each_once(numbers(datagrams(copies.frames, VXLAN)), 100, "copies")


@only_tcx
def test_a_reboot_loses_the_pins_and_nothing_else(bed: Node, agent: Agent) -> None:
    """E3."""
    agent.kill()
    shutil.rmtree(agent.pin_root / "abi-2")
    agent.start()
    agent.programmed()
    with Capture("eth0", bed.analyzer) as copies:
        with Background(dst=bed.peer_address, port=9, size=64, count=100) as load:
            load.finish()
        copies.settle()
    assert_each_once(numbers(datagrams(copies.frames, VXLAN)), 100, "copies")
