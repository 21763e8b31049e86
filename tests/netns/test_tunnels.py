"""Every tunnel over IPv4 and over IPv6: copies exact, and what their headers say of them.

One run of the corpus goes through sixteen tunnels at once; tests/netns/test_exact.py has VXLAN and plain GRE over IPv4.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from sniffer.pcap import frames as frames_of
from tests.agent import Agent, target
from tests.mirrored import (
    agent_at,
    check_counts,
    check_padding,
    copies,
    difference,
    drained,
    mirror_of,
    of_key,
    programme,
    settled,
)
from tests.packets import CORPUS, payload
from tests.receivers import Received, decode, kernel_takes, kernel_vxlan
from tests.receiving import Recv
from tests.segments import checksums_good, cut, layers, send_offloaded, unsummed
from tests.topology import Node, node, run, set_sysctl, wait_until
from tests.tunnels import (
    ANALYZER_SIX,
    LONGEST,
    NODE_SIX,
    SEQUENCED,
    TUNNELS,
    Tunnel,
    check,
    check_tunnel,
    mirrors,
    options,
)
from tests.wire import Capture, send

FRAMES = [case.frame for case in CORPUS]


@pytest.fixture(scope="module")
def here() -> Iterator[Node]:
    with node(mtu=16_000) as made:
        for device, netns, address in (("up0", None, NODE_SIX), ("eth0", "ana", ANALYZER_SIX)):
            set_sysctl(f"net.ipv6.conf.{device}.disable_ipv6", 0, netns)
            for own in (address, address.replace("fd00:9", "fe80")):  # neighbours are asked for by a link-local address
                run("ip", "address", "add", f"{own}/64", "dev", device, "nodad", netns=netns)
        yield made


@pytest.fixture(scope="module")
def agent(here: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with agent_at(tmp_path_factory.mktemp("agent")) as running:
        yield running


def test_ingress_of_the_corpus(agent: Agent) -> None:
    """C1 to C15, C20 to C22, C27, C31, C33: each through each tunnel."""
    names = mirrors(agent)
    with Capture("eth0", "ana") as analyzer:
        send(FRAMES)
        outer = copies(analyzer)
    check(agent, names, FRAMES, outer, 1)


def test_egress_of_the_corpus(agent: Agent) -> None:
    names = mirrors(agent, direction="Egress")
    with Capture("eth0", "ana") as analyzer:
        send(FRAMES, "pod0", netns=None)
        outer = copies(analyzer)
    check(agent, names, FRAMES, outer, 2)


HEAD = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
OVER_IPV4 = IP(src="10.1.0.2", dst="10.1.0.3", id=9)
OVER_IPV6 = IPv6(src="fd00:1::2", dst="fd00:1::3")


@pytest.mark.parametrize(("size", "rest"), [(1200, 7), (1200, 0), (1448, 7)])
def test_super_packets(here: Node, agent: Agent, size: int, rest: int) -> None:
    """C16: segments as they would be on the wire where they fit, else TCP cut anew; each with headers of its own.

    All of them together are fewer than the relay's ring takes at once.
    """
    names = mirrors(agent, "peer0", "Egress")
    frames = [bytes(HEAD / ip / TCP(seq=1, flags="PA") / payload(size * 5 + rest)) for ip in (OVER_IPV4, OVER_IPV6)]
    with Capture("eth0", "ana") as analyzer:
        send_offloaded((frame, size) for frame in frames)
        outer = copies(analyzer)
    check_padding(outer)
    received = decode(outer)
    for (name, mirror), row in zip(names.items(), settled(agent, *names.values()), strict=True):
        tunnel = TUNNELS[name]
        got = of_key(received, tunnel.kind, tunnel.key)
        fits = 14 + 40 + size + tunnel.headers - 14 <= 1500
        if fits:
            wanted = [piece for frame in frames for piece in cut(frame, size)]
            assert difference(wanted, (item.frame for item in got)) == ([], []), name
        assert {item.fragments for item in got} == {1}, name
        assert all(map(checksums_good, (item.frame for item in got))), name
        for frame, version in zip(frames, (b"\x08\x00", b"\x86\xdd"), strict=True):
            mine = sorted((i.frame for i in got if i.frame[12:14] == version), key=sequence_of)
            assert b"".join(octets[layers(octets).payload :] for octets in mine) == frame[layers(frame).payload :], name
        check_counts(row, frames, tunnel.outer_of(outer))
        check_outer_of_segments(tunnel, got, mirror)


def sequence_of(frame: bytes) -> int:
    at = layers(frame)
    assert at
    return int.from_bytes(frame[at.transport + 4 : at.transport + 8])


def check_outer_of_segments(tunnel: Tunnel, got: Sequence[Received], mirror: str) -> None:
    check_tunnel(tunnel, got, mirror, 2)
    if "gre.sequence_number" in got[0].words and got[0].words["gre.sequence_number"] != "-":
        assert len({item.words["gre.sequence_number"] for item in got}) == len(got)
    if tunnel.outer.get("udpChecksum"):
        assert {item.words["udp.checksum.status"] for item in got} == {"1"}


def borders(tunnel: Tunnel) -> list[int]:
    """Lengths of frames that one, two, three or ten fragments just take, and of the longest."""
    head, part = (54, 1448) if tunnel.six else (34, 1480)
    return [1514 - tunnel.headers, *(part * n + head - tunnel.headers for n in (2, 3, 10)), 9014, LONGEST - 1]


def test_as_many_fragments_as_it_takes(agent: Agent) -> None:
    """C16: around every border, up to the longest; the checksum is that of the whole."""
    names = mirrors(agent, names=["geneve6", "geneve6-sum", "erspan6-3", "erspan3", "vxlan-sum", "gre6"])
    lengths = sorted({at + n for name in names for at in borders(TUNNELS[name]) for n in (-1, 0, 1)})
    sent = [
        bytes(head / Raw(payload(length - len(head))))
        for length in lengths
        for head in (HEAD / OVER_IPV4 / UDP(dport=9), Ether(src=HEAD.src, dst=HEAD.dst, type=0x88B5))
    ]
    with Capture("eth0", "ana") as analyzer:
        send(sent, pause=0.001)
        outer = copies(analyzer)
    check(agent, names, sent, outer, 1)
    received = decode(outer)
    for tunnel in (TUNNELS[name] for name in names):
        head, part = (54, 1448) if tunnel.six else (34, 1480)
        for item in of_key(received, tunnel.kind, tunnel.key):
            load = len(item.frame) + tunnel.headers - head
            assert item.fragments == (1 if load + head <= 1514 else -(-load // part)), (tunnel, len(item.frame))


@pytest.mark.parametrize(("name", "longest"), [("geneve6", LONGEST), ("geneve", 15_964), ("vxlan6", 15_976)])
def test_what_is_too_long_with_its_headers(agent: Agent, name: str, longest: int) -> None:
    """C16: counted where it is known, and not lost behind the relay."""
    names = mirrors(agent, names=[name])
    fits, long = (bytes(HEAD / OVER_IPV4 / UDP(dport=9) / Raw(payload(longest + n - 42))) for n in (0, 1))
    with Capture("eth0", "ana") as analyzer:
        send([fits, long])
        received = decode(copies(analyzer))
    assert [item.frame for item in received] == [fits]
    (row,) = settled(agent, *names.values())
    assert (row["sent"]["packets"], row["dropped"]["too_big"], sum(row["lost"].values())) == (1, 1, 0)


CUT = 96
LONG = [
    bytes(HEAD / OVER_IPV4 / UDP(dport=9) / payload(500)),  # in place
    bytes(HEAD / Dot1Q(vlan=77, prio=5) / OVER_IPV6 / TCP() / payload(1400)),  # in place once it is cut
    bytes(HEAD / ARP(psrc="10.1.0.2", pdst="10.1.0.3") / payload(300)),  # by the relay
    bytes(HEAD / Dot1Q(vlan=5) / Dot1Q(vlan=6) / OVER_IPV4 / payload(900)),
    bytes(HEAD / OVER_IPV4 / UDP(dport=4789) / bytes.fromhex("0800000000000100") / HEAD / OVER_IPV4 / payload(700)),
]
SHORT = [bytes(HEAD / OVER_IPV4 / UDP(dport=9)), bytes(HEAD / ARP())]


@pytest.mark.parametrize(("direction", "device", "netns"), [("Ingress", "eth0", "pod"), ("Egress", "pod0", None)])
def test_what_was_cut_says_so(agent: Agent, direction: str, device: str, netns: str | None) -> None:
    """The length before the cut, on the fast path and behind the relay."""
    tunnels = [name for name, tunnel in TUNNELS.items() if tunnel.kind in {"geneve", "erspan"}]
    names = mirrors(agent, direction=direction, names=tunnels, snapLength=CUT)
    with Capture("eth0", "ana") as analyzer:
        send(LONG + SHORT, device, netns)
        outer = copies(analyzer)
    received = decode(outer)
    for name in names:
        tunnel = TUNNELS[name]
        got = of_key(received, tunnel.kind, tunnel.key)
        assert difference((frame[:CUT] for frame in LONG + SHORT), (item.frame for item in got)) == ([], []), name
        if tunnel.kind == "geneve":
            said = sorted((item.frame, options(item)[4]) for item in got)
            assert said == sorted((frame[:CUT], len(frame)) for frame in LONG + SHORT), name
        else:
            said = sorted((item.frame, item.words["erspan.truncated"]) for item in got)
            assert said == sorted((frame[:CUT], str(int(len(frame) > CUT))) for frame in LONG + SHORT), name


def test_what_does_not_fit_is_cut_and_says_so(agent: Agent) -> None:
    """`oversize: Truncate`: one full outer packet; GENEVE tells the length before, ERSPAN that it was cut."""
    documents = [mirror_of(name) for name in TUNNELS]
    targets = [TUNNELS[name].target(name) for name in TUNNELS]
    for one in targets:
        one["spec"]["oversize"] = "Truncate"
    names = programme(agent, *targets, *documents)
    sent = [bytes(HEAD / OVER_IPV4 / UDP(dport=9) / payload(3000)), bytes(HEAD / ARP() / payload(2000)), SHORT[0]]
    with Capture("eth0", "ana") as analyzer:
        send(sent)
        outer = copies(analyzer)
    received = decode(outer)
    assert max(map(len, outer)) == 1514
    for name, tunnel in TUNNELS.items():
        got = of_key(received, tunnel.kind, tunnel.key)
        room = 1514 - tunnel.headers
        assert difference((frame[:room] for frame in sent), (item.frame for item in got)) == ([], []), name
        assert len(tunnel.outer_of(outer)) == len(sent), name
        lengths = {frame[:room]: len(frame) for frame in sent}
        for item in got:
            length = lengths[item.frame]
            if tunnel.kind == "geneve":
                assert options(item)[4] == length, name
            elif tunnel.kind == "erspan":
                assert item.words["erspan.truncated"] == str(int(length > room)), name
    assert all(row["sent"]["packets"] == len(sent) for row in settled(agent, *names))


def test_a_super_packet_that_is_cut_says_how_long_it_was(here: Node, agent: Agent) -> None:
    names = mirrors(agent, "peer0", "Egress", names=["geneve", "geneve6", "erspan2"], snapLength=CUT)
    frame = bytes(HEAD / OVER_IPV4 / TCP(seq=1) / payload(30_000))
    with Capture("eth0", "ana") as analyzer:
        send_offloaded([(frame, 1400)])
        received = decode(copies(analyzer))
    assert len(received) == len(names)
    assert {unsummed(item.frame) for item in received} == {unsummed(frame[:CUT])}
    assert {options(item)[4] for item in received if item.kind == "geneve"} == {len(frame)}


def test_never_in_fragments(agent: Agent) -> None:
    """What does not fit is dropped and counted; what fits says that it may not be cut."""
    kinds = [("vxlan", False), ("geneve", True)]
    targets = [
        target(
            name, ANALYZER_SIX if six else "10.9.0.2", encapsulation={name: {"vni": 700}}, outer={"dontFragment": True}
        )
        for name, six in kinds
    ]
    documents = [mirror_of(name) for name, _ in kinds]
    programme(agent, *targets, *documents)
    fit, big = bytes(HEAD / OVER_IPV4 / UDP() / payload(1300)), bytes(HEAD / OVER_IPV4 / UDP() / payload(1472))
    arp = bytes(HEAD / ARP() / payload(1440))
    with Capture("eth0", "ana") as analyzer:
        send([fit, big, arp])
        outer = copies(analyzer)
    received = decode(outer)
    assert [item.frame for item in received] == [fit, fit]
    assert [item.do_not_fragment for item in received if item.kind == "vxlan"] == [True]
    for row in settled(agent, *(document["metadata"]["name"] for document in documents)):
        assert (row["dropped"]["oversize"], row["sent"]["packets"]) == (2, 1)


def test_a_copy_that_leaves_a_mirrored_uplink_is_known(agent: Agent) -> None:
    """B1, B10: of every tunnel, in fragments or whole, with the very header of its endpoint."""
    fresh = {name: mirror_of(name) for name in list(TUNNELS)[:15]}
    under = mirror_of("erspan6-3", "up0", "Egress")
    everything = [tunnel.target(name) for name, tunnel in TUNNELS.items()]
    programme(agent, *everything, *fresh.values(), under)
    before = agent.status()["skipped"]["packets"]
    with Capture("eth0", "ana") as analyzer:
        send(FRAMES)
        outer = copies(analyzer)
    (row,) = settled(agent, under["metadata"]["name"])
    own = TUNNELS["erspan6-3"].outer_of(outer)
    assert row["sent"]["packets"] == row["matched"]["packets"] == len(own), "only what is no copy"
    assert len(own) < 10
    assert agent.status()["skipped"]["packets"] - before == len(outer)


@pytest.mark.parametrize("name", ["vxlan6", "vxlan6-sum"])
def test_the_kernels_vxlan_device_over_ipv6(agent: Agent, name: str) -> None:
    """C1 to C15 by a receiver that is no dissector: strict about checksums but where it is told not to be."""
    tunnel = TUNNELS[name]
    programme(agent, tunnel.target(name), mirror_of(name))
    wanted = [frame for frame in FRAMES if kernel_takes(frame)]
    with kernel_vxlan(tunnel.key or 0, local=ANALYZER_SIX, zero_checksums="sum" not in name) as device:
        send(FRAMES)
        assert difference(wanted, drained(device)) == ([], [])


def test_timestamps_of_erspan_type_three(here: Node, agent: Agent) -> None:
    """In units of 100 ns, as granularity 1 says it (draft-foschiano-erspan-03)."""
    mirrors(agent, names=["erspan3"])
    sample = FRAMES[:1]
    with Capture("eth0", "ana") as analyzer:
        began = time.monotonic_ns()
        send(sample)
        time.sleep(0.5)
        send(sample)
        ended = time.monotonic_ns()
        found = decode(copies(analyzer))
    first, second = (item.number_of("erspan.timestamp") for item in found)
    assert 500_000_000 <= ((second - first) % (1 << 32)) * 100 <= ended - began
    assert {item.number_of("erspan.gra") for item in found} == {1}


def test_numbers_go_on_when_the_route_changes(here: Node, agent: Agent) -> None:
    """The analyzer sees the same stream: the next number follows, though the endpoint's record is another."""
    names = mirrors(agent, names=["erspan2"])
    sample = FRAMES[:20]

    def numbers() -> list[int]:
        with Capture("eth0", "ana") as analyzer:
            send(sample)
            return sorted(item.number_of("gre.sequence_number") for item in decode(copies(analyzer)))

    first = numbers()
    run("ip", "route", "add", "10.9.0.2/32", "dev", "up0", "mtu", 1400)
    try:
        agent.wait(lambda now: now["mirrors"][0]["targets"][0]["endpoints"][0]["mtu"] == 1400)
        second = numbers()
    finally:
        run("ip", "route", "delete", "10.9.0.2/32", "dev", "up0")
    assert names
    assert first + second == list(range(first[0], first[0] + 40))


def test_recv_takes_what_the_agent_sends(agent: Agent, tmp_path: Path) -> None:
    """The other end, of our own making: every frame of every tunnel, none counted as lost."""
    names = mirrors(agent)
    file = tmp_path / "copies.pcapng"
    with Recv("--vxlan", 4789, "--geneve", 6081, "--gre", "--erspan", "-i", "eth0", "-w", file) as recv:
        send(FRAMES, pause=0.001)
        wait_until(recv.is_idle, 10)
        row = recv.stop()
    assert difference(FRAMES * len(names), (frame.octets for frame in frames_of(file))) == ([], [])
    numbered = [tunnel["sequence"] for tunnel in row["tunnels"] if tunnel["kind"] in {"gre", "erspan"}]
    assert sum(sequence["received"] for sequence in numbered if sequence) == len(SEQUENCED) * len(FRAMES)
    assert not any(sequence["lost"] for sequence in numbered if sequence)


def test_geneve_says_how_much_was_sampled(agent: Agent) -> None:
    """On both paths: the counter's word has it."""
    mirrors(agent, names=["geneve", "geneve6"], sampling={"oneIn": 2, "per": "Packet"})
    with Capture("eth0", "ana") as analyzer:
        send(FRAMES)
        received = decode(copies(analyzer))
    assert 30 < len(received) < 2 * len(FRAMES)
    assert {options(item)[5] for item in received} == {2}
