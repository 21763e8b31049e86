"""A snap length cuts the copy, and only the copy: the analyzer gets the first so many bytes of the frame.

Twelve mirrors of different lengths see the same traffic. What is not promised is the transport checksum of a frame that
left its sender without one.
"""

from collections.abc import Iterator, Sequence

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from tests.agent import Agent, Document, target
from tests.mirrored import (
    agent_at,
    check_identity,
    check_padding,
    copies,
    difference,
    ip_length,
    mirror_of,
    outer_of,
    programme,
    settled,
)
from tests.packets import CORPUS, payload
from tests.receivers import Received, decode
from tests.segments import send_offloaded, unsummed
from tests.streams import content, tcp, udp
from tests.topology import Node, node
from tests.wire import Capture, send

FRAMES = [case.frame for case in CORPUS]
LENGTHS = [14, 15, 18, 20, 33, 34, 54, 60, 64, 96, 128, 1500]
ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
Bed = tuple[Node, Agent]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with node(ipv6=True) as made, agent_at(tmp_path_factory.mktemp("agent")) as agent:
        yield made, agent


def gre(key: int, **spec: object) -> Document:
    return target(f"g{key}", encapsulation={"gre": {"key": key}}, **spec)


def vxlan(vni: int, **spec: object) -> Document:
    return target(f"v{vni}", encapsulation={"vxlan": {"vni": vni}}, **spec)


def mirror_lengths(agent: Agent, kind: str, **spec: object) -> list[str]:
    """A mirror per length, in their order; VNI or key is the length."""
    made = gre if kind == "gre" else vxlan
    mirrors = [mirror_of(f"{kind[0]}{length}", snapLength=length, **spec) for length in LENGTHS]
    return programme(agent, *(made(length) for length in LENGTHS), *mirrors)


def check(agent: Agent, names: Sequence[str], kind: str, frames: Sequence[bytes], outer: Sequence[bytes]) -> None:
    """Counters of every mirror: what it sent is what it cut, one outer packet each unless it does not fit."""
    for length, row in zip(LENGTHS, settled(agent, *names), strict=True):
        check_identity(row)
        assert row["matched"] == {"packets": len(frames), "bytes": sum(map(len, frames))}
        assert row["sent"] == {"packets": len(frames), "bytes": sum(min(len(frame), length) for frame in frames)}
        mine = outer_of(outer, kind, length)
        assert row["wire"] == {"packets": len(mine), "bytes": sum(map(ip_length, mine))}
        assert not any(row["lost"].values())
    check_padding(outer, partial=True)


def by_length(outer: Sequence[bytes]) -> dict[int, list[Received]]:
    found: dict[int, list[Received]] = {length: [] for length in LENGTHS}
    for item in decode(outer):
        found[item.key or 0].append(item)
    return found


@pytest.mark.parametrize("kind", ["vxlan", "gre"])
@pytest.mark.parametrize(("direction", "netns", "device"), [("Ingress", "pod", "eth0"), ("Egress", None, "pod0")])
def test_corpus_is_cut(bed: Bed, kind: str, direction: str, netns: str | None, device: str) -> None:
    """C4, C6, C12, C14: frames of every kind, tags included in the length; shorter ones stay whole."""
    _, agent = bed
    names = mirror_lengths(agent, kind, direction=direction)
    with Capture("eth0", "ana") as analyzer:
        send(FRAMES, device, netns=netns)
        outer = copies(analyzer)
    check_padding(outer)
    for length, got in by_length(outer).items():
        assert difference((frame[:length] for frame in FRAMES), (item.frame for item in got)) == ([], []), length
    check(agent, names, kind, FRAMES, outer)


@pytest.mark.parametrize("kind", ["vxlan", "gre"])
def test_super_packets_of_sockets(bed: Bed, kind: str) -> None:
    """C16, C17, C23: one super-packet is one cut frame, TCP and UDP, IPv4 and IPv6."""
    here, agent = bed
    sent = content(1 << 20)
    names = mirror_lengths(agent, kind)
    with Capture("pod0") as hook, Capture("eth0", "ana") as analyzer:
        assert tcp(sent, here.peer_address) == sent
        assert tcp(sent, "fd00:1::1e") == sent
        udp(payload(30_000), here.peer_address, 1000, 3)
        udp(payload(30_000), "fd00:1::1e", 1452, 3)
        outer = copies(analyzer)
    frames = hook.octets()
    assert max(map(len, frames)) > 60_000
    for length, got in by_length(outer).items():
        check_cut(frames, got, length)
    check(agent, names, kind, frames, outer)


def check_cut(frames: Sequence[bytes], got: Sequence[Received], length: int) -> None:
    """Every frame once."""
    wanted = [unsummed(frame[:length]) for frame in frames]
    assert difference(wanted, (unsummed(item.frame) for item in got)) == ([], []), length


@pytest.mark.parametrize("tag", [b"", bytes.fromhex("81000007"), bytes.fromhex("88a800098100e007")])
def test_super_packets_of_a_guest(bed: Bed, tag: bytes) -> None:
    """C23, C32: checksum to be filled in, tags beside and inside."""
    _, agent = bed
    heads = [IP(id=1) / TCP(), IP(id=2) / UDP(), IPv6() / TCP(), IPv6() / UDP()]
    plain = [bytes(ETHER / head / payload(length)) for head in heads for length in (1, 40, 1300, 9000)]
    frames = [frame[:12] + tag + frame[12:] for frame in plain]
    names = mirror_lengths(agent, "vxlan")
    with Capture("pod0") as hook, Capture("eth0", "ana") as analyzer:
        send_offloaded((frame, 1200 if len(frame) > 1500 else 0) for frame in frames)
        outer = copies(analyzer)
    assert len(hook.frames) == len(frames)
    for length, got in by_length(outer).items():
        check_cut(hook.octets(), got, length)
    check(agent, names, "vxlan", frames, outer)


def test_targets_limit(bed: Bed) -> None:
    """G20: a target's maxSnapLength caps every mirror that uses it, whole frames too; the smaller length counts."""
    _, agent = bed
    targets = [vxlan(1, limits={"maxSnapLength": 64}), gre(2, limits={"maxSnapLength": 200})]
    wanted = {0: (64, 200), 30: (30, 30), 100: (64, 100), 1000: (64, 200)}
    tagged = [bytes(ETHER / Dot1Q(vlan=4) / IP() / UDP() / payload(n)) for n in range(0, 1400, 31)]
    for length, (first, second) in wanted.items():
        document = mirror_of("v1", snapLength=length, targetRefs=[{"name": "v1"}, {"name": "g2"}])
        (name,) = programme(agent, *targets, document)
        with Capture("eth0", "ana") as analyzer:
            send(FRAMES + tagged)
            outer = copies(analyzer)
        received = decode(outer)
        for kind, cap in (("vxlan", first), ("gre", second)):
            got = [item.frame for item in received if item.kind == kind]
            assert difference((frame[:cap] for frame in FRAMES + tagged), got) == ([], [])
        (row,) = settled(agent, name)
        check_identity(row)
        sizes = [min(len(frame), cap) for frame in FRAMES + tagged for cap in (first, second)]
        assert row["sent"] == {"packets": len(sizes), "bytes": sum(sizes)}
