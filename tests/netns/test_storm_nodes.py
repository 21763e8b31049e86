"""B7 with several nodes: each one's copies come back to all of them, and none of them can end the loop alone."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sniffer.plan.storm import JOINT_EVERY_S
from tests.agent import Agent, mirror, target
from tests.mirrored import agent_at, check_identity
from tests.topology import Node, namespace, node, run, up, wait_until
from tests.traffic import Background

BACK = "back0"
NODES = 2
WIRE = "tbf rate 20mbit burst 20kb limit 100kb"
"""Some 17,000 copies a second, and the machine has time for others."""


def back(analyzer: str, number: int, netns: str | None) -> None:
    """A wire from the analyzer's bridge back to a node."""
    run(
        *f"ip link add out{number} netns {analyzer} type veth peer name {BACK}".split(),
        *(["netns", netns] if netns else []),
    )
    run("ip", "link", "set", f"out{number}", "master", "br0", netns=analyzer)
    run("tc", "qdisc", "add", "dev", f"out{number}", "root", *WIRE.split(), netns=analyzer)
    up(f"out{number}", analyzer)
    up(BACK, netns)


@pytest.fixture
def looped(tmp_path: Path) -> Iterator[tuple[Node, list[Agent]]]:
    """The analyzer bridges what it unwraps to wires that end on every node and are mirrored there."""
    with ExitStack() as stack:
        made = stack.enter_context(node())
        here = made.analyzer
        run("ip", "link", "add", "br0", "type", "bridge", netns=here)
        run("ip", "link", "add", "vx0", "type", "vxlan", "id", 4242, "dstport", 4789, "nolearning", netns=here)
        run("ip", "link", "set", "vx0", "master", "br0", netns=here)
        up("vx0", here)
        up("br0", here)
        back(here, 0, None)
        agents = [stack.enter_context(agent_at(tmp_path / "n0"))]
        for number in range(1, NODES):
            name = f"n{number}"
            namespace(name, ipv6=False)
            stack.callback(run, "ip", "netns", "delete", name)
            run(*f"ip link add up0 netns {name} mtu 1500 type veth peer name eth{number} netns {here} mtu 1500".split())
            for device, where, last in (("up0", name, 1), (f"eth{number}", here, 2)):
                run("ip", "address", "add", f"10.9.{number}.{last}/24", "dev", device, netns=where)
                up(device, where)
            back(here, number, name)
            agent = Agent(tmp_path / name, Path(f"/sys/fs/bpf/{name}"), netns=name)
            stack.callback(agent.cleanup)
            agents.append(stack.enter_context(agent))
        yield made, agents


def test_a_loop_that_no_node_can_end_alone(looped: tuple[Node, list[Agent]]) -> None:
    here, agents = looped
    for number, agent in enumerate(agents):
        interfaces = ["pod0", BACK] if number == 0 else [BACK]
        agent.write(target(address=f"10.9.{number}.2"), mirror("all", interfaces, direction="Ingress"))
    for agent in agents:
        agent.programmed()
    # Nodes that begin on both sides of a multiple meet a minute later.
    wait_until(lambda: 4 <= time.time() % JOINT_EVERY_S < 5, JOINT_EVERY_S)
    with Background("pod", dst=here.peer_address, port=9, size=100, rate=100.0, seconds=60):
        for agent in agents:
            agent.wait(lambda status: status["mirrors"][0]["reason"] == "Storm", 30)
        time.sleep(0.3)
        before = [agent.mirror("all") for agent in agents]
        time.sleep(1)
        after = [agent.mirror("all") for agent in agents]
    for one, other in zip(before, after, strict=True):
        check_identity(other)
        assert other["sent"] == one["sent"]
        assert other["matched"]["packets"] - one["matched"]["packets"] <= 400
