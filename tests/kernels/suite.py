"""What must hold on every kernel that we support, in few steps: an emulated machine is slow. tests/kernels/run runs it.

The corpus through VXLAN and GRE at once, both directions, over the attachment that the kernel has, with and without the
relay's ring; super-packets; what is left when it is over.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from sniffer.abi.limits import Outcome
from sniffer.kernel.look import look_at
from sniffer.kernel.programs import OBJECT_VARIABLE
from sniffer.kernel.tcx import has_tcx
from tests.agent import Agent, mirror, sniffer, target
from tests.mirrored import check_counts, check_padding, copies, difference, of_key, outer_of, settled
from tests.packets import CORPUS, payload
from tests.receivers import decode
from tests.ringless import ringless_object
from tests.segments import cut, send_offloaded
from tests.topology import node
from tests.wire import Capture, send

PATIENCE_S = 240.0
VERSION = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
FRAMES = [case.frame for case in CORPUS]
TUNNELS = {
    "vxlan": ("vxlan", 4242, {"vxlan": {"vni": 4242}}),
    "bare": ("gre", None, {"gre": {}}),
    "key": ("gre", 7, {"gre": {"key": 7}}),
}
RINGS = ("ring", "backlog") if VERSION >= (5, 18) else ("backlog",)


@dataclass(frozen=True, slots=True)
class Bed:
    agent: Agent
    ring: bool


@pytest.fixture(scope="module", params=RINGS)
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    directory = tmp_path_factory.mktemp("agent")
    with node(), pytest.MonkeyPatch.context() as patch:
        if request.param == "backlog" and VERSION >= (5, 18):
            patch.setenv(OBJECT_VARIABLE, str(ringless_object(directory)))
        agent = Agent(directory, Path("/sys/fs/bpf/sniffer"))
        try:
            agent.start(PATIENCE_S)
            yield Bed(agent, request.param == "ring")
        finally:
            agent.stop(PATIENCE_S)
            print(agent.log.read_text())
            sniffer("cleanup")


def programme(bed: Bed, interface: str, direction: str) -> dict[str, str]:
    """One mirror for each tunnel, with names of their own: their names by tunnel."""
    names = {tunnel: f"{tunnel}-{interface}-{direction}".lower() for tunnel in TUNNELS}
    targets = [target(tunnel, encapsulation=spec) for tunnel, (_, _, spec) in TUNNELS.items()]
    mirrors = [mirror(name, [interface], [tunnel], direction=direction) for tunnel, name in names.items()]
    bed.agent.write(*targets, *mirrors)
    bed.agent.wait(
        lambda now: (
            {row["name"] for row in now["mirrors"] if (row["state"], row["reason"]) == ("Programmed", None)}
            == set(names.values())
        ),
        PATIENCE_S,
    )
    return names


def check(bed: Bed, names: dict[str, str], sent: Sequence[bytes], outer: list[bytes]) -> None:
    check_padding(outer)
    assert max(map(len, outer)) == 1514
    received = decode(outer)
    rows = settled(bed.agent, *names.values(), timeout=PATIENCE_S)
    for row, (kind, key, _) in zip(rows, TUNNELS.values(), strict=True):
        assert difference(sent, (item.frame for item in of_key(received, kind, key))) == ([], [])
        check_counts(row, sent, outer_of(outer, kind, key))


def relayed(agent: Agent) -> int:
    """Frames that took the slow path, of all mirrors ever."""
    counters = look_at(agent.pin_root).counters
    return sum(tallies[Outcome.RELAYED].packets for tallies in counters.values())


def test_the_kernel_is_the_one_asked_for() -> None:
    asked = os.environ.get("SNIFFER_KERNEL", "")
    assert VERSION > (6, 12) if asked == "newest" else asked in {"", "{}.{}".format(*VERSION)}
    assert has_tcx() == (VERSION >= (6, 6))


def test_ingress_of_the_corpus(bed: Bed) -> None:
    """C1 to C15, C20 to C22, C27, C31, C33. IP is wrapped in place whatever the kernel knows of ENCAP_L2_ETH."""
    names = programme(bed, "pod0", "Ingress")
    (hook,) = bed.agent.status()["hooks"]
    assert (hook["attachment"], hook["state"]) == ("tcx" if has_tcx() else "clsact", "attached")
    relay = look_at(bed.agent.pin_root).state.relay
    assert relay
    assert bool(relay.ring) == bed.ring
    with Capture("eth0", "ana") as analyzer:
        send(FRAMES)
        outer = copies(analyzer)
    check(bed, names, FRAMES, outer)
    slow = relayed(bed.agent)
    assert 0 < slow < len(FRAMES) * len(TUNNELS) / 2


def test_egress_of_the_corpus(bed: Bed) -> None:
    """C1 to C15: tags in the payload."""
    names = programme(bed, "pod0", "Egress")
    with Capture("eth0", "ana") as analyzer:
        send(FRAMES, "pod0", netns=None)
        outer = copies(analyzer)
    check(bed, names, FRAMES, outer)


def test_super_packets(bed: Bed) -> None:
    """C16: wrapped in place and cut by the kernel behind us, outer headers and all."""
    names = programme(bed, "peer0", "Egress")
    head = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b") / IP(src="10.1.0.2", dst="10.1.0.3", id=9)
    frame = bytes(head / TCP(seq=1, flags="PA") / payload(1200 * 40 + 7))
    with Capture("eth0", "ana") as analyzer:
        send_offloaded([(frame, 1200)])
        outer = copies(analyzer)
    check_padding(outer)
    received = decode(outer)
    for row, (kind, key, _) in zip(
        settled(bed.agent, *names.values(), timeout=PATIENCE_S), TUNNELS.values(), strict=True
    ):
        got = [item.frame for item in of_key(received, kind, key)]
        assert difference(cut(frame, 1200), got) == ([], [])
        check_counts(row, [frame], outer_of(outer, kind, key))


def test_a_plan_finds_nothing_to_do(bed: Bed) -> None:
    """What was made is what is observed: no netlink attribute reads otherwise on this kernel."""
    done = sniffer("plan", "--manifests", bed.agent.manifests, "--pin-root", bed.agent.pin_root)
    assert done.returncode == 0, done.stdout
    bed.agent.write(target("vxlan"))
    bed.agent.wait(lambda now: not now["mirrors"] and not now["hooks"], PATIENCE_S)
    with Capture("eth0", "ana") as analyzer:
        send(FRAMES[:20])
        assert copies(analyzer) == []
