"""Super-packets reach the analyzer as segments that the wire can carry: no outer fragment, right checksums, and a
stream that is rebuilt from them to the byte.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Ether

from sniffer.abi.limits import Outcome
from sniffer.kernel.look import look_at
from tests.agent import Agent, Document, mirror, target
from tests.mirrored import (
    agent_at,
    check_counts,
    check_padding,
    copies,
    difference,
    mirror_of,
    of_key,
    programme,
    settled,
)
from tests.packets import payload
from tests.receivers import Received, decode
from tests.segments import checksums_good, cut, layers, rebuild, send_described, send_offloaded, unsummed
from tests.streams import content, tcp, udp
from tests.topology import Node, node, offloads, run, set_sysctl
from tests.wire import Capture

MEGABYTE = 1 << 20
GRE = target("gre", encapsulation={"gre": {"key": 5}})
HEADERS = {("vxlan", 4242): 50, ("gre", 5): 42}
"""Bytes of the outer headers with their Ethernet, by tunnel."""


WIRE, NARROW, NARROWER, WIDE = 1500, 1400, 1280, 1600


@pytest.fixture(scope="module", params=[WIRE])
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Agent]]:
    """Pods of 1500 bytes; the parameter is the uplink's MTU."""
    directory = tmp_path_factory.mktemp("agent")
    with node(uplink_mtu=request.param, ipv6=True) as made, agent_at(directory) as agent:
        yield made, agent


def uplinks(*mtus: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bed", mtus, indirect=True)


class Both:
    """What went over a hook, whole, and what the analyzer got, of a mirror with two targets."""

    def __init__(self, agent: Agent, document: Document, *targets: Document) -> None:
        self.agent = agent
        (self.name,) = programme(agent, *(targets or (target(), GRE)), document)

    def __enter__(self) -> Self:
        self._hook, self._analyzer = Capture("pod0"), Capture("eth0", "ana")
        return self

    def __exit__(self, *_: object) -> None:
        self.outer = copies(self._analyzer)
        self.hook = self._hook.stop()
        self.received = decode(self.outer)

    def check(self, mtu: int = 1500, fragments: bool = True, tunnels: int = 2) -> None:
        """Counters are exact, the wire's MTU kept, checksums good; a super-packet needs no fragment."""
        (row,) = settled(self.agent, self.name)
        check_counts(row, self.hook * tunnels, self.outer)
        check_padding(self.outer)
        assert max(map(len, self.outer)) <= mtu + 14
        # A host that has just got IPv6 joins groups now and then (MLD): neither TCP nor UDP.
        summed = [item.frame for item in self.received if layers(item.frame)]
        assert summed
        assert all(map(checksums_good, summed))
        whole = {unsummed(frame) for frame in self.hook if len(frame) <= 1518}
        assert fragments or all(item.fragments == 1 or unsummed(item.frame) in whole for item in self.received)

    def by_tunnel(self) -> dict[tuple[str, int], list[Received]]:
        return {tunnel: of_key(self.received, *tunnel) for tunnel in HEADERS}


def test_32_megabytes_at_line_rate(bed: tuple[Node, Agent]) -> None:
    """C16, C26, A15, A16: the stream that tshark decodes is the stream, and it crossed the hook as super-packets."""
    here, agent = bed
    sent = content(32 * MEGABYTE)
    with Both(agent, mirror_of("ana"), target()) as seen:
        assert tcp(sent, here.peer_address) == sent
    assert max(map(len, seen.hook)) > 60_000
    assert list(rebuild(item.frame for item in seen.received).values()) == [sent]
    seen.check(fragments=False, tunnels=1)


def test_both_directions_through_both_tunnels(bed: tuple[Node, Agent]) -> None:
    """Acknowledgements too; both streams of a connection rebuild, through VXLAN and GRE."""
    here, agent = bed
    sent = content(4 * MEGABYTE, 2)
    programme(agent, target(), GRE, document := mirror("both", targets=["ana", "gre"]))
    with Capture("pod0", outgoing=True) as hook, Capture("eth0", "ana") as analyzer:
        assert tcp(sent, here.peer_address) == sent
        assert tcp(sent[::-1], here.pod_address, "peer", "pod") == sent[::-1]
        outer = copies(analyzer)
    received = decode(outer)
    for tunnel in HEADERS:
        streams = rebuild(item.frame for item in of_key(received, *tunnel))
        assert sorted(map(len, streams.values())) == [0, 0, len(sent), len(sent)]
        assert {stream for stream in streams.values() if stream} == {sent, sent[::-1]}
    (row,) = settled(agent, document["metadata"]["name"])
    check_counts(row, hook.octets() * 2, outer)


@uplinks(WIRE, NARROW, NARROWER)
def test_recut_to_the_uplink(bed: tuple[Node, Agent]) -> None:
    """A8, H11: an uplink as wide as the pod's link, and narrower ones."""
    here, agent = bed
    sent = content(3 * MEGABYTE)
    with Both(agent, mirror_of("ana", targetRefs=[{"name": "ana"}, {"name": "gre"}])) as seen:
        assert tcp(sent, here.peer_address) == sent
    seen.check(link_mtu(here.uplink), fragments=False)
    for received in seen.by_tunnel().values():
        assert list(rebuild(item.frame for item in received).values()) == [sent]


@uplinks(WIDE)
def test_exact_segments_where_the_uplink_is_wide(bed: tuple[Node, Agent]) -> None:
    """C16, C23: super-packets of a stack and of a guest become the very segments that would be on the wire."""
    here, agent = bed
    sent = content(2 * MEGABYTE)
    with Both(agent, mirror_of("ana", targetRefs=[{"name": "ana"}, {"name": "gre"}])) as seen:
        assert tcp(sent, here.peer_address) == sent
        udp(payload(60_000), here.peer_address, 1472, 3)
        udp(payload(40_001), "fd00:1::1e", 1452, 3)
        send_offloaded((frame, full(frame)) for frame in super_packets())
    seen.check(WIDE, fragments=False)
    wanted = [segment for frame in seen.hook for segment in cut(frame, full(frame))]
    for received in seen.by_tunnel().values():
        assert difference(wanted, (item.frame for item in received)) == ([], [])
        assert all(item.fragments == 1 for item in received)


def link_mtu(device: str) -> int:
    return int(Path(f"/sys/class/net/{device}/mtu").read_text())


def full(frame: bytes, mtu: int = 1500) -> int:
    """Payload of the segments that fill a link."""
    at = layers(frame)
    assert at is not None
    return mtu - (at.payload - at.network)


def super_packets() -> list[bytes]:
    """Of two segments, many, and with a short last one; numbers that overflow on the way."""
    ether = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
    heads = [
        IP(src="10.1.0.2", dst="10.1.0.3", id=65530) / TCP(seq=2**32 - 5000, flags="FPA"),
        IPv6(src="fd00:1::2", dst="fd00:1::3") / TCP(seq=1, flags="PAC"),
        IP(src="10.1.0.2", dst="10.1.0.3", id=1) / UDP(dport=9),
        IPv6(src="fd00:1::2", dst="fd00:1::3") / UDP(dport=9),
    ]
    found = []
    for head in heads:
        one = full(bytes(ether / head))
        found += [bytes(ether / head / payload(length)) for length in (one * 2, one * 40, one * 3 + 7)]
    return found


def test_what_a_guest_sends_is_counted_exactly(bed: tuple[Node, Agent]) -> None:
    """C16, C17: on the egress of an interface a guest's super-packet has not yet said how many segments it has."""
    _, agent = bed
    document = mirror_of("ana", direction="Egress", targetRefs=[{"name": "ana"}, {"name": "gre"}])
    with Both(agent, document) as seen:
        frames = super_packets()
        send_offloaded(((frame, full(frame)) for frame in frames), "pod0", netns=None)
    seen.hook = frames
    (row,) = settled(agent, seen.name)
    check_counts(row, frames * 2, seen.outer)
    for received in seen.by_tunnel().values():
        datagrams = list(filter(is_udp, frames))
        wanted = [segment for frame in datagrams for segment in cut(frame, full(frame))]
        got = [item.frame for item in received if is_udp(item.frame)]
        assert difference(wanted, got) == ([], [])
        assert all(checksums_good(item.frame) for item in received)


@pytest.mark.parametrize("policy", [{"oversize": "Segment"}, {"oversize": "Drop"}, {"outer": {"dontFragment": True}}])
def test_super_packets_with_extension_headers(bed: tuple[Node, Agent], policy: Document) -> None:
    """C11, C16: where each segment fits, each arrives, whatever is to become of those that do not; and none that never
    was is told as lost."""
    _, agent = bed
    head = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b") / IPv6(src="fd00:1::2", dst="fd00:1::3")
    tcp_head = bytes(head / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / TCP(seq=7, flags="A"))
    udp_head = bytes(head / IPv6ExtHdrHopByHop() / UDP(dport=9))
    sizes = (600, 1000)
    with Both(agent, mirror_of("ana", direction="Egress"), target(**policy)) as seen:
        for start, size in ((tcp_head, sizes[0]), (udp_head, sizes[1])):
            load = payload(size * 4 + 9)
            send_described(
                "pod0", start[:18] + (len(start) - 54 + len(load)).to_bytes(2) + start[20:] + load, len(start), size
            )
    (row,) = settled(agent, seen.name)
    assert row["sent"]["packets"] == row["matched"]["packets"] == 2, row
    assert not any(row["lost"].values()), row
    of = [[item.frame for item in seen.received if item.frame[20] == kind] for kind in (60, 0)]
    for frames, start, size in zip(of, (tcp_head, udp_head), sizes, strict=True):
        assert [len(frame) - len(start) for frame in frames] == [size] * 4 + [9]
        assert b"".join(frame[len(start) :] for frame in frames) == payload(size * 4 + 9)


@pytest.mark.parametrize(("size", "fragments"), [(1400, 1), (1422, 1), (1423, 2), (1472, 2), (100, 1), (1, 1)])
def test_datagrams_of_udp_segment(bed: tuple[Node, Agent], size: int, fragments: int) -> None:
    """C17: the datagrams are the sender's, never re-cut; what does not fit is fragmented in the outer packet."""
    here, agent = bed
    sent = payload(min(size * 60, 60_000) + 5) if size > 1 else payload(60)
    with Both(agent, mirror_of("ana"), target()) as seen:
        udp(sent, here.peer_address, size, 4)
        udp(sent[: size * 5], "fd00:1::1e", min(size, 1452), 4)
    assert len(seen.hook) == 8
    four, six = seen.hook[:4], seen.hook[4:]
    wanted = [segment for frame in four for segment in cut(frame, size)]
    wanted += [segment for frame in six for segment in cut(frame, min(size, 1452))]
    assert difference(wanted, (item.frame for item in seen.received)) == ([], [])
    seen.check(tunnels=1)
    assert {item.fragments for item in seen.received if len(item.frame) == 42 + size} == {fragments}
    slow = relayed(agent)
    assert slow == 0 if size <= 1402 else slow > 10, "wrapped in place wherever it fits, the longer header of IPv6 too"


def relayed(agent: Agent) -> int:
    """Frames that took the slow path, of the mirrors in force."""
    return sum(tallies[Outcome.RELAYED].packets for tallies in look_at(agent.pin_root).counters.values())


@uplinks(WIRE, WIDE)
def test_tagged_super_packets(bed: tuple[Node, Agent]) -> None:
    """C4, C6, C32: a tag beside the packet, a second one inside, and GSO."""
    here, agent = bed
    tags = {"one": bytes.fromhex("81000007"), "two": bytes.fromhex("88a800098100e007")}
    frames = [frame[:12] + tag + frame[12:] for tag in tags.values() for frame in super_packets()]
    with Both(agent, mirror_of("ana", targetRefs=[{"name": "ana"}, {"name": "gre"}])) as seen:
        send_offloaded((frame, full(frame)) for frame in frames)
    assert len(seen.hook) == len(frames)
    mtu = link_mtu(here.uplink)
    (row,) = settled(agent, seen.name)
    check_counts(row, frames * 2, seen.outer)
    assert max(map(len, seen.outer)) <= mtu + 14
    for received in seen.by_tunnel().values():
        got = [item.frame for item in received]
        assert all(map(checksums_good, got))
        if mtu == WIDE:
            assert difference((part for frame in frames for part in cut(frame, full(frame))), got) == ([], [])
        assert loads(got) == loads(frames)
        streams = [item for item in received if item.frame[12:14] == b"\x81\x00" and not is_udp(item.frame)]
        assert {item.fragments for item in streams} == {1}


def loads(frames: Iterable[bytes]) -> dict[tuple[bytes, bool], int]:
    """Bytes of payload by header up to the IP header, and whether it is UDP."""
    sums: dict[tuple[bytes, bool], int] = {}
    for frame in frames:
        at = layers(frame)
        assert at is not None
        key = (frame[: at.network], at.protocol == 17)
        sums[key] = sums.get(key, 0) + at.end - at.payload
    return sums


def test_ip6_stream(bed: tuple[Node, Agent]) -> None:
    """C16 over IPv6."""
    _, agent = bed
    sent = content(4 * MEGABYTE)
    with Both(agent, mirror_of("ana", filter="ip6", targetRefs=[{"name": "ana"}, {"name": "gre"}])) as seen:
        assert tcp(sent, "fd00:1::1e") == sent
    assert max(map(len, seen.hook)) > 20_000
    for received in seen.by_tunnel().values():
        assert list(rebuild(item.frame for item in received).values()) == [sent]
    seen.hook = [frame for frame in seen.hook if frame[12:14] == b"\x86\xdd"]
    seen.check(fragments=False)


def test_super_packets_of_an_overlay(bed: tuple[Node, Agent]) -> None:
    """C22: what is encapsulated already and super at that cannot be wrapped in place."""
    here, agent = bed
    pod, peer = here.pod_address, here.peer_address
    ends = {"pod": (pod, peer, "10.8.0.1"), "peer": (peer, pod, "10.8.0.2")}
    for netns, (local, remote, address) in ends.items():
        words = f"link add over0 mtu 1400 type vxlan local {local} remote {remote} id 3 dstport 4790 udpcsum"
        run("ip", *words.split(), netns=netns)
        set_sysctl("net.ipv6.conf.over0.disable_ipv6", 1, netns)
        run("ip", "address", "add", f"{address}/24", "dev", "over0", netns=netns)
        run("ip", "link", "set", "over0", "addrgenmode", "none", "up", netns=netns)
    try:
        sent = content(2 * MEGABYTE)
        with Both(agent, mirror_of("ana"), target()) as seen:
            assert tcp(sent, "10.8.0.2") == sent
        assert max(map(len, seen.hook)) > 20_000
        (row,) = settled(agent, seen.name)
        check_counts(row, seen.hook, seen.outer)
        overlay = [item.frame for item in seen.received]
        assert all(map(checksums_good, overlay))
        inner = [frame[50:] for frame in overlay]
        assert list(rebuild(inner).values()) == [sent]
        assert all(checksums_good(frame) for frame in inner if layers(frame))
    finally:
        for netns in ends:
            run("ip", "link", "delete", "over0", netns=netns)


@pytest.mark.parametrize("kind", ["rx-gro", "rx-gro-list"])
def test_what_receive_offload_has_joined(bed: tuple[Node, Agent], kind: str) -> None:
    """C16, C18, C19: frames that GRO has made one, by size or by a list of fragments, are the frames that came."""
    here, agent = bed
    sent = content(2 * MEGABYTE)
    offloads("eth0", on=False, netns="pod")
    run("ethtool", "-K", "pod0", "gro", "on", "rx-gro-list", "on" if kind == "rx-gro-list" else "off")
    try:
        both = Both(agent, mirror_of("ana", targetRefs=[{"name": "ana"}, {"name": "gre"}]))
        with both as seen, Capture("eth0", "pod", outgoing=True) as pod:
            assert tcp(sent, here.peer_address) == sent
            udp(payload(60_000), here.peer_address, 1400, 20)
    finally:
        offloads("eth0", on=True, netns="pod")
        run("ethtool", "-K", "pod0", "gro", "off", "rx-gro-list", "off")
    left = [frame.octets for frame in pod.frames if frame.outgoing and is_udp(frame.octets)]
    (row,) = settled(agent, seen.name)
    check_counts(row, seen.hook * 2, seen.outer)
    assert max(map(len, seen.hook)) > 2900
    # Without a list datagrams stay as they came.
    assert (max(len(frame) for frame in seen.hook if is_udp(frame)) > 2900) == (kind == "rx-gro-list")
    for received in seen.by_tunnel().values():
        frames = [item.frame for item in received]
        assert list(rebuild(frames).values()) == [sent]
        assert all(map(checksums_good, frames))
        assert difference(left, filter(is_udp, frames)) == ([], [])


def is_udp(frame: bytes) -> bool:
    at = layers(frame)
    return at is not None and at.protocol == 17
