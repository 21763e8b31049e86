"""What a mirrored TCP stream has left: iperf3 from the pod to its peer, everything mirrored in both directions.

The copies cross the uplink and are dropped where the analyzer receives them, so what the uplink costs is in it. The
uplink segments tunnelled super-packets in hardware, as most NICs do: on a virtual link they stay whole to its end.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.lanes import Bed, bed, mirred, rival_device
from tests.agent import Agent, mirror, target
from tests.topology import offloads, run
from tests.traffic import goodput

SECONDS = 1.5


def goodput_rows(options: argparse.Namespace) -> dict[str, list[float]]:
    """bare, rival and, unless only the foundation is asked for, vxlan -> bits per second of each repetition."""
    ways = {"bare": nothing, "rival": mirrored_by_tc, "vxlan": mirrored_by_us}
    if options.foundation:
        del ways["vxlan"]
    result: dict[str, list[float]] = {name: [] for name in ways}
    with bed([], end="analyzer") as this:
        offloads(this.node.uplink, on=True)
        for _ in range(max(3, options.repetitions // 2)):
            for name, values in result.items():
                with ways[name](this):
                    before = this.tallies()[1][0]
                    values.append(goodput(this.node.pod, this.node.peer, this.node.peer_address, SECONDS))
                    copies = this.tallies()[1][0] - before
                assert (copies > 1000) == (name != "bare"), f"{name}: {copies} copies"
    return result


@contextmanager
def nothing(_: Bed) -> Iterator[None]:
    """Nobody mirrors."""
    yield


@contextmanager
def mirrored_by_tc(this: Bed) -> Iterator[None]:
    """The rival, on both hooks of the pod's link."""
    device = this.node.pod_device
    rival_device(this)
    run("tc", "qdisc", "add", "dev", device, "clsact")
    for hook in ("ingress", "egress"):
        run("tc", *mirred(device, hook))
    try:
        yield
    finally:
        run("tc", "qdisc", "delete", "dev", device, "clsact")


@contextmanager
def mirrored_by_us(this: Bed) -> Iterator[None]:
    """An agent and one mirror, in both directions; what was attached goes when its manifest does."""
    with tempfile.TemporaryDirectory() as directory:
        agent = Agent(Path(directory))
        agent.write(target("ana", this.node.analyzer_address), mirror("victim", [this.node.pod_device]))
        with agent:
            agent.programmed()
            yield
            agent.remove()
            agent.wait(lambda status: not status["hooks"])
