"""`sniffer cleanup` leaves the node as it was, whatever state it finds."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent import Agent, mirror, sniffer, target
from tests.inventory import ROOT, assert_gone, attached, bpftool, devices, pinned, surfaces
from tests.topology import Node, node, run
from tests.traffic import Background
from tests.wire import Capture


@pytest.fixture
def bed() -> Iterator[Node]:
    with node() as made:
        yield made


@pytest.fixture(params=["tcx", "clsact"])
def agent(bed: Node, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Agent]:
    one = Agent(tmp_path, ROOT, "--attachment", request.param)
    one.write(target(), mirror(interfaces=["pod0", "peer0", "up0"]))
    yield one
    one.stop()
    sniffer("cleanup")


def without_clsact(lines: list[str]) -> list[str]:
    """An empty clsact of the fallback path may remain."""
    return [line for line in lines if not line.startswith("qdisc clsact ffff: dev")]


def test_everything_is_as_before(bed: Node, agent: Agent) -> None:
    """E8: tc, ip, bpftool and the bpffs; and a second time is fine."""
    before = surfaces()
    agent.start()
    agent.programmed()
    held = pinned()
    assert len(held) > 15
    assert surfaces() != before
    agent.stop()
    done = sniffer("cleanup", "--json")
    assert done.returncode == 0
    removed = json.loads(done.stdout)["removed"]
    assert "relay" in removed
    assert len([line for line in removed if line.startswith("tap on")]) == 8
    assert without_clsact(surfaces()) == before
    if "tcx" in agent.arguments:
        assert surfaces() == before
    assert_gone(held)
    again = sniffer("cleanup")
    assert (again.returncode, again.stdout, again.stderr) == (0, "nothing of sniffer is here\n", "")


def test_under_traffic_production_notices_nothing(bed: Node, agent: Agent) -> None:
    agent.start()
    agent.programmed()
    agent.stop()
    with Capture("eth0", bed.peer) as production:
        with Background(dst=bed.peer_address, port=9, size=64, count=6000, rate=3000) as load:
            time.sleep(0.3)
            agent.cleanup()
            sent = load.finish().packets
        production.settle()
    assert len([frame for frame in production.frames if frame.octets[23] == 17]) == sent


def test_a_running_agent_is_left_alone(bed: Node, agent: Agent) -> None:
    agent.start()
    status = agent.programmed()
    held, hooks = pinned(), attached()
    done = sniffer("cleanup", check=False)
    assert done.returncode == 3
    assert f"(pid {status['agent']['pid']})" in done.stderr
    assert (pinned(), attached()) == (held, hooks)


def test_after_a_kill(bed: Node, agent: Agent) -> None:
    before = surfaces()
    agent.start()
    agent.programmed()
    held = pinned()
    agent.kill()
    agent.cleanup()
    assert without_clsact(surfaces()) == before
    assert_gone(held)


def no_map(name: str) -> Callable[[], None]:
    return (ROOT / "abi-2" / name).unlink


def no_relay() -> None:
    run("ip", "link", "delete", "sniffer-tx")


def no_programs() -> None:
    shutil.rmtree(ROOT / "abi-2/programs")


def no_links() -> None:
    for path in (ROOT / "abi-2/links").iterdir():
        path.unlink()


def no_pins() -> None:
    shutil.rmtree(ROOT)


def no_interface() -> None:
    run("ip", "link", "delete", "peer0")


def renamed_interface() -> None:
    run("ip", "link", "set", "peer0", "name", "other0")


def create_map(path: Path) -> None:
    words = "type array key 4 value 4 entries 1 name theirs"
    run("bpftool", "map", "create", path, *words.split())


def foreign_pin() -> None:
    create_map(ROOT / "abi-2/links/strange")


BREAKING = [
    no_map("hooks"),
    no_map("names"),
    no_map("filters"),
    *(no_relay, no_programs, no_links, no_pins, no_interface, renamed_interface, foreign_pin),
]
NAMES = ["no hooks", "no names", "no filters", *(one.__name__.replace("_", " ") for one in BREAKING[3:])]


ON_CLSACT = {"no hooks", "no filters", "no relay", "no pins", "no interface"}
CASES = [(kind, name) for kind in ("tcx", "clsact") for name in NAMES if kind == "tcx" or name in ON_CLSACT]


@pytest.mark.parametrize(("agent", "name"), CASES, ids=map(" ".join, CASES), indirect=["agent"])
def test_whatever_is_half_broken(bed: Node, agent: Agent, name: str) -> None:
    """E1, E3: an agent comes back and leaves no second program on any hook; cleanup leaves nothing at all."""
    breaking = BREAKING[NAMES.index(name)]
    before = surfaces()
    agent.start()
    agent.programmed()
    held = pinned()
    agent.kill()
    breaking()
    agent.start()
    agent.programmed()
    places = [row[:2] for row in attached()]
    assert len(places) == len(set(places))
    held = {**{f"former {path}": row for path, row in held.items()}, **pinned()}
    agent.kill()
    if breaking not in {no_interface, renamed_interface, foreign_pin}:
        breaking()
    done = sniffer("cleanup", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert attached() == set()
    if breaking is no_interface:
        assert not ROOT.exists()
        assert not {"sniffer-tx", "sniffer-rx"} & set(devices())
    else:
        assert [line.replace("other0", "peer0") for line in without_clsact(surfaces())] == before
    assert_gone(held)


def test_others_pins_beside_ours_stay(bed: Node, agent: Agent) -> None:
    """The root may be the bpffs itself."""
    theirs = Path("/sys/fs/bpf/theirs")
    create_map(theirs)
    done = sniffer("cleanup", "--pin-root", "/sys/fs/bpf")
    assert done.returncode == 0
    assert theirs.exists()
    here = ROOT / "theirs"
    agent.start()
    create_map(here)
    agent.stop()
    agent.cleanup()
    assert here.exists()
    assert [path.name for path in ROOT.iterdir()] == ["theirs"]
    here.unlink()
    theirs.unlink()


def test_a_directory_that_is_no_bpffs_is_left_alone(bed: Node, tmp_path: Path) -> None:
    """Nothing in it is ours, whatever it is called."""
    (tmp_path / "abi-2").mkdir()
    (tmp_path / "abi-2" / "file").touch()
    done = sniffer("cleanup", "--pin-root", tmp_path, check=False)
    assert done.returncode == 3
    assert "not on a bpffs" in done.stderr
    assert os.listdir(tmp_path / "abi-2") == ["file"]


def test_witnesses_see_a_leak(bed: Node) -> None:
    """A map that is pinned is listed, and an object that lives is not gone."""
    path = Path("/sys/fs/bpf/leak")
    create_map(path)
    held = pinned(Path("/sys/fs/bpf"))
    assert held["leak"][1] in {row["id"] for row in bpftool("map", "show")}
    with pytest.raises(AssertionError, match="left"):
        assert_gone(held, 0.3)
    path.unlink()
    assert_gone(held)
