"""B7: an analyzer that unwraps copies and sends them on to where they are mirrored. The mirror is stopped in seconds,
tried again, and mirrors on once the loop is mended."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sniffer.plan.storm import JOINT_S
from tests.agent import Agent, mirror, target
from tests.mirrored import agent_at, check_identity
from tests.topology import Node, node, run, up
from tests.traffic import Background, blast

BACK = "back0"


@pytest.fixture
def looped(tmp_path: Path) -> Iterator[tuple[Node, Agent]]:
    """The analyzer bridges what it unwraps to a second wire, which ends on the node and is mirrored."""
    with node() as made, agent_at(tmp_path) as agent:
        run("ip", "link", "add", BACK, "type", "veth", "peer", "name", "out0", "netns", made.analyzer)
        here = made.analyzer
        words = f"id 4242 dstport 4789 local {made.analyzer_address} dev {made.inside} nolearning"
        run("ip", "link", "add", "vx0", "type", "vxlan", *words.split(), netns=here)
        run("ip", "link", "add", "br0", "type", "bridge", netns=here)
        for device in ("vx0", "out0"):
            run("ip", "link", "set", device, "master", "br0", netns=here)
        for device in ("vx0", "br0", "out0"):
            up(device, here)
        up(BACK)
        yield made, agent


def test_a_loop_through_the_analyzer(looped: tuple[Node, Agent]) -> None:
    here, agent = looped
    agent.write(target(), mirror("all", ["pod0", BACK], direction="Ingress"))
    agent.programmed()
    load = {"dst": here.peer_address, "port": 9, "size": 100, "rate": 100.0, "seconds": 60}
    with Background("pod", **load):
        began = time.monotonic()
        agent.wait(lambda s: s["mirrors"][0]["reason"] == "Storm", 12)
        assert time.monotonic() - began < 10
        row = agent.mirror("all")
        assert row["state"] == "Suspended"
        assert "send on what the analyzer unwraps" in row["message"]
        assert "all: storm: " in agent.log.read_text()
        time.sleep(0.3)
        before = agent.mirror("all")
        time.sleep(1)
        after = agent.mirror("all")
        check_identity(after)
        assert after["sent"] == before["sent"]
        assert 20 <= after["dropped"]["storm"] - before["dropped"]["storm"] <= 400
        run("ip", "link", "set", "out0", "down", netns=here.analyzer)
        agent.wait(lambda s: s["mirrors"][0]["state"] == "Programmed", 15)
        settled = agent.mirror("all")["sent"]["packets"]
        agent.wait(lambda s: s["mirrors"][0]["sent"]["packets"] > settled, 5)
    check_identity(agent.mirror("all"))


def test_a_loop_of_whole_copies(looped: tuple[Node, Agent]) -> None:
    """What comes back has our header, and gets another one each time: no frame is like the one before."""
    here, agent = looped
    run("tc", "qdisc", "add", "dev", here.inside, "clsact", netns=here.analyzer)
    every = f"filter add dev {here.inside} ingress protocol all prio 1 u32 match u32 0 0"
    run("tc", *every.split(), "action", "mirred", "egress", "mirror", "dev", "out0", netns=here.analyzer)
    run("ip", "link", "set", "vx0", "down", netns=here.analyzer)
    agent.write(target(), mirror("all", ["pod0", BACK], direction="Ingress"))
    agent.programmed()
    with Background("pod", dst=here.peer_address, port=9, size=100, rate=50.0, seconds=60):
        agent.wait(lambda s: s["mirrors"][0]["reason"] == "Storm", 15)
    check_identity(agent.mirror("all"))


def test_a_flood_of_one_frame_is_no_storm(looped: tuple[Node, Agent]) -> None:
    """It looks like a loop, but goes on while its copies are held back."""
    here, agent = looped
    run("ip", "link", "set", "out0", "down", netns=here.analyzer)
    agent.write(target(), mirror("all", ["pod0"], direction="Ingress"))
    agent.programmed()
    frame = "020000000a0b020000000a0c0800" + "00" * 50
    blast("raw", dev="eth0", hex=frame, rate=20_000.0, seconds=4)
    row = agent.mirror("all")
    check_identity(row)
    assert (row["state"], row["reason"]) == ("Programmed", None)
    # Alone, and, if a multiple of ten seconds falls in between, with whoever else is in doubt.
    assert 0 < row["dropped"]["storm"] < 20_000 * (JOINT_S + 0.5)
    assert "storm" not in agent.log.read_text()
