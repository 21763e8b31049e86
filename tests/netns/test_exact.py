"""Every kind of frame arrives at the analyzer as it was: byte for byte, in order within each path, below the uplink's
MTU; by tshark and by the kernel's own vxlan device.

One run of the corpus is mirrored through every tunnel at once: VXLAN, GRE without and with key. On ingress and behind a
bridge a VLAN tag lies beside the packet; on the egress of what a packet socket sends it lies in it.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from sniffer.kernel.tcx import has_tcx
from tests.agent import Agent, Document, target
from tests.mirrored import (
    agent_at,
    check_counts,
    check_padding,
    copies,
    difference,
    drained,
    mirror_of,
    of_key,
    outer_of,
    programme,
    settled,
)
from tests.packets import CORPUS, generate
from tests.receivers import Received, decode, kernel_takes, kernel_vxlan
from tests.segments import with_checksums
from tests.topology import Node, node
from tests.wire import Capture, send

FRAMES = [case.frame for case in CORPUS]
TUNNELS = {
    "vxlan": ("vxlan", 4242, {"vxlan": {"vni": 4242}}),
    "bare": ("gre", None, {"gre": {}}),
    "key": ("gre", 0xFFFFFFFF, {"gre": {"key": 0xFFFFFFFF}}),
    "zero": ("gre", 0, {"gre": {"key": 0}}),
}
MECHANISMS = ["tcx", "clsact"] if has_tcx() else ["clsact"]


@dataclass(frozen=True, slots=True)
class Bed:
    node: Node
    agent: Agent
    mechanism: str


@pytest.fixture(scope="module", params=MECHANISMS)
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    words = ("--attachment", request.param)
    with node() as made, agent_at(tmp_path_factory.mktemp("agent"), *words) as agent:
        yield Bed(made, agent, request.param)


def fast(frame: bytes, tag_beside: bool) -> bool:
    """Whether a copy is wrapped in place: IP that fits the uplink's MTU together with the longest outer header."""
    place = 16 if tag_beside and frame[12:14] in {b"\x81\x00", b"\x88\xa8"} else 12
    return frame[place : place + 2] in {b"\x08\x00", b"\x86\xdd"} and len(frame) <= 1450


def check_order(sent: Sequence[bytes], got: Sequence[Received], tag_beside: bool) -> None:
    """Two frames that take the same path keep their order. (Frames that leave just at the limit of the MTU in GRE only
    are left out.)"""
    frames = [item.frame for item in got]
    for path in (True, False):
        mine = [frame for frame in sent if fast(frame, tag_beside) is path and not 1450 < len(frame) <= 1464]
        chosen = set(mine)
        assert [frame for frame in frames if frame in chosen] == mine


def mirrors(interface: str, direction: str) -> tuple[list[Document], dict[str, Document]]:
    found = {name: mirror_of(name, interface, direction) for name in TUNNELS}
    return [target(name, encapsulation=tunnel) for name, (_, _, tunnel) in TUNNELS.items()], found


def check_all(bed: Bed, found: dict[str, Document], outer: list[bytes], sent: list[bytes], tag_beside: bool) -> None:
    assert max(map(len, outer)) == 1514
    check_padding(outer)
    received = decode(outer)
    rows = settled(bed.agent, *(found[name]["metadata"]["name"] for name in TUNNELS))
    for row, (kind, key, _) in zip(rows, TUNNELS.values(), strict=True):
        got = of_key(received, kind, key)
        assert difference(sent, (item.frame for item in got)) == ([], [])
        check_order(sent, got, tag_beside)
        check_counts(row, sent, outer_of(outer, kind, key))
        assert {(item.ttl, item.dscp, item.do_not_fragment, item.udp_checksum or 0) for item in got} == {
            (64, 0, False, 0)
        }


def test_ingress_of_the_corpus(bed: Bed) -> None:
    """C1 to C15, C20 to C22, C27, C31, C33: each through each tunnel."""
    targets, found = mirrors("pod0", "Ingress")
    programme(bed.agent, *targets, *found.values())
    (hook,) = bed.agent.status()["hooks"]
    assert (hook["attachment"], hook["state"]) == (bed.mechanism, "attached")
    with Capture("eth0", "ana") as analyzer:
        send(FRAMES)
        outer = copies(analyzer)
    check_all(bed, found, outer, FRAMES, tag_beside=True)


def test_egress_of_the_corpus(bed: Bed) -> None:
    """C1 to C15: of what the node itself sends towards the pod, tags in the payload."""
    targets, found = mirrors("pod0", "Egress")
    programme(bed.agent, *targets, *found.values())
    with Capture("eth0", "ana") as analyzer:
        send(FRAMES, "pod0", netns=None)
        outer = copies(analyzer)
    check_all(bed, found, outer, FRAMES, tag_beside=False)


def test_egress_behind_a_bridge(bed: Bed) -> None:
    """C4: on the way out of a bridge port the tag lies beside the packet; what the peer gets is the measure."""
    targets, found = mirrors("peer0", "Egress")
    programme(bed.agent, *targets, *found.values())
    with Capture("eth0", "ana") as analyzer, Capture("eth0", "peer") as peer:
        send(FRAMES)
        outer = copies(analyzer)
        sent = drained(peer)
    assert len(sent) > 140
    assert any(frame[12:14] == b"\x81\x00" for frame in sent)
    check_all(bed, found, outer, sent, tag_beside=True)


@pytest.mark.parametrize(("interface", "netns"), [("Ingress", "pod"), ("Egress", None)])
def test_the_kernels_vxlan_device_agrees(bed: Bed, interface: str, netns: str | None) -> None:
    """C1 to C15 once more, by a receiver that is no dissector."""
    programme(bed.agent, target(), mirror_of("ana", "pod0", interface))
    wanted = [frame for frame in FRAMES if kernel_takes(frame)]
    with ExitStack() as stack:
        device = stack.enter_context(kernel_vxlan())
        send(FRAMES, "eth0" if netns else "pod0", netns=netns)
        assert difference(wanted, drained(device)) == ([], [])


def test_damaged_frames(bed: Bed) -> None:
    """C12, C13: what no stack sends, thousands of them."""
    mirror, frames = mirror_of("key"), list(generate(5, 4000))
    frames = [frame for frame in frames if frame[12:14] not in {b"\x81\x00", b"\x88\xa8"} or len(frame) > 19]
    programme(bed.agent, target("key", encapsulation=TUNNELS["key"][2]), mirror)
    with Capture("eth0", "ana") as analyzer:
        send(frames)
        outer = copies(analyzer)
    assert difference(frames, (item.frame for item in decode(outer))) == ([], [])
    assert max(map(len, outer)) <= 1514
    check_counts(*settled(bed.agent, mirror["metadata"]["name"]), frames, outer)


def test_outer_header_as_the_target_says(bed: Bed) -> None:
    tunnel = {"vxlan": {"vni": 2**24 - 1, "port": 8472}}
    programme(bed.agent, target("odd", encapsulation=tunnel, outer={"ttl": 3, "dscp": 46}), mirror := mirror_of("odd"))
    sample = [with_checksums(case.frame) for case in CORPUS if case.name in {"tcp-http", "udp-dns"}]
    with Capture("eth0", "ana") as analyzer:
        send(sample)
        outer = copies(analyzer)
    got = decode(outer, 8472)
    assert [item.frame for item in got] == sample
    assert {(item.key, item.ttl, item.dscp, item.flags) for item in got} == {(2**24 - 1, 3, 46, 0x0800)}
    assert all(49152 <= (item.source_port or 0) <= 65535 for item in got)
    check_counts(*settled(bed.agent, mirror["metadata"]["name"]), sample, outer)


def test_leaves_nothing(bed: Bed, tmp_path: Path) -> None:
    """A mirror that goes away leaves its hooks as they were: nothing is copied any more."""
    programme(bed.agent, target(), mirror_of("ana"))
    bed.agent.write(target())
    bed.agent.wait(lambda status: not status["mirrors"] and not status["hooks"])
    with Capture("eth0", "ana") as analyzer:
        send(FRAMES)
        assert copies(analyzer) == []
