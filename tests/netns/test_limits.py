"""How much of what matches is copied: rates, of mirrors and of targets, over ten seconds and on all CPUs; and samples.

matched = sent + every drop, in all of them.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.agent import Agent, Document, Status, target
from tests.flows import chosen
from tests.mirrored import agent_at, check_identity, copies, difference, mirror_of, of_key, programme, settled
from tests.packets import payload
from tests.receivers import decode
from tests.topology import Node, node
from tests.traffic import Background
from tests.wire import Capture, send

SECONDS = 10
BULK = 200  # bytes of a datagram's payload
FRAME = BULK + 42
AWAY = ("02:00:00:00:00:0a", "02:00:00:00:00:0b")
Bed = tuple[Node, Agent]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with node(ipv6=True) as made, agent_at(tmp_path_factory.mktemp("agent")) as agent:
        yield made, agent


def row_of(agent: Agent, name: str) -> Status:
    (row,) = settled(agent, name)
    check_identity(row)
    return row


def in_force(agent: Agent, name: str, **wanted: object) -> None:
    """Waits until an edit has come to the programs."""
    agent.wait(lambda status: any(r["name"] == name and r | wanted == r for r in status["mirrors"]))


# ---- rates ----

PACKETS = {10: 1, 100: 2, 1000: 20, 10_000: 200, 100_000: 2000}
"""Packets a second, and what may pass at once where nobody says."""
SURELY = 10_000
"""What any machine offers more than while all of these mirrors look at each frame; what is above has its own test."""
KILOBITS = {(1000, 64): 20_000, (8000, 0): 524_280, (40_000, 0): 800_000}
"""(kilobits a second, snap length): bits that may pass at once where nobody says."""


def test_rates_hold(bed: Bed) -> None:
    """Never more than rate x time + burst, at least 0.98 of rate x time; from two CPUs at once."""
    here, agent = bed
    by_packets = {rate: mirror_of("ana", rateLimit={"packetsPerSecond": rate}) for rate in PACKETS}
    by_bits = {
        (rate, snap): mirror_of("ana", snapLength=snap, rateLimit={"kilobitsPerSecond": rate})
        for rate, snap in KILOBITS
    }
    either = [
        mirror_of("ana", rateLimit={"packetsPerSecond": 300, "kilobitsPerSecond": 40_000, "burstKilobits": 2000}),
        mirror_of("ana", rateLimit={"packetsPerSecond": 50_000, "kilobitsPerSecond": 1000, "burstKilobits": 30}),
    ]
    limited = target("slow", encapsulation={"gre": {}}, rateLimit={"packetsPerSecond": 2000, "burstPackets": 100})
    shared = [mirror_of("slow"), mirror_of("slow")]
    mirrors = [*by_packets.values(), *by_bits.values(), *either, *shared]
    names = programme(agent, target("ana"), limited, *mirrors)
    load = {"dst": here.peer_address, "size": BULK, "seconds": SECONDS, "rate": 0.65 * max(PACKETS), "burst": 8}
    began = time.monotonic()
    with Background("pod", 0, True, port=9001, **load) as one, Background("pod", 1, True, port=9002, **load) as other:
        offered = one.finish().packets + other.finish().packets
    took = time.monotonic() - began
    rows = dict(zip(names, settled(agent, *names), strict=True))
    for row in rows.values():
        check_identity(row)
        assert row["matched"]["packets"] >= offered
        assert row["matched"]["packets"] == row["sent"]["packets"] + row["dropped"]["rate_limit"]
    assert offered > 1.5 * SECONDS * SURELY, f"{offered} packets in {took:.1f} s are no test of these rates"

    def sent(document: Document, unit: str = "packets") -> int:
        return int(rows[document["metadata"]["name"]]["sent"][unit])

    for rate, burst in PACKETS.items():
        if rate <= SURELY:
            assert_held(sent(by_packets[rate]), rate, burst, took)
        else:
            assert sent(by_packets[rate]) <= rate * took + burst
    for (rate, snap), burst in KILOBITS.items():
        assert_held(8 * sent(by_bits[rate, snap], "bytes"), 1000 * rate, burst, took)
    assert_held(sent(either[0]), 300, 6, took)
    assert_held(8 * sent(either[1], "bytes"), 1_000_000, 30_000, took)
    assert_held(sum(map(sent, shared)), 2000, 100, took)


def test_the_highest_rate_holds(bed: Bed) -> None:
    """The same of 100,000 packets a second, with nothing else to do."""
    here, agent = bed
    rate = max(PACKETS)
    (name,) = programme(agent, target("ana"), mirror_of("ana", rateLimit={"packetsPerSecond": rate}, filter="udp"))
    load = {"dst": here.peer_address, "size": 18, "seconds": SECONDS, "rate": 0.7 * rate, "burst": 8}
    began = time.monotonic()
    with Background("pod", 0, True, port=9001, **load) as one, Background("pod", 1, True, port=9002, **load) as other:
        offered = one.finish().packets + other.finish().packets
    took = time.monotonic() - began
    row = row_of(agent, name)
    assert row["matched"]["packets"] == offered > 1.25 * SECONDS * rate, f"{offered} packets in {took:.1f} s"
    assert row["matched"]["packets"] == row["sent"]["packets"] + row["dropped"]["rate_limit"]
    assert_held(row["sent"]["packets"], rate, PACKETS[rate], took)


def assert_held(sent: int, rate: int, burst: int, took: float) -> None:
    assert rate * SECONDS * 0.98 <= sent <= rate * took + burst, (sent, rate, burst, took)


def test_what_is_used_up_stays_so_through_edits(bed: Bed) -> None:
    _, agent = bed
    document = mirror_of("ana", rateLimit={"packetsPerSecond": 1, "burstPackets": 100})
    name = document["metadata"]["name"]
    frames = [bytes(Ether() / IP() / UDP() / payload(60))] * 150
    began = time.monotonic()
    programme(agent, target("ana"), document)
    send(frames)
    assert 100 <= row_of(agent, name)["sent"]["packets"] <= 100 + time.monotonic() - began
    document["spec"] |= {"snapLength": 64, "filter": "udp"}
    programme(agent, target("ana", outer={"ttl": 9}), document)
    in_force(agent, name, snap_length=64)
    before = row_of(agent, name)["sent"]["packets"]
    send(frames)
    after = row_of(agent, name)["sent"]["packets"]
    assert after - before <= 1 + time.monotonic() - began
    assert 100 <= after <= 100 + time.monotonic() - began
    document["spec"]["rateLimit"]["burstPackets"] = 101
    programme(agent, target("ana"), document)
    limit = {"packets_per_second": 1, "burst_packets": 101, "kilobits_per_second": None, "burst_kilobits": None}
    in_force(agent, name, rate_limit=limit)
    send(frames)
    assert 101 <= row_of(agent, name)["sent"]["packets"] - after <= 102 + time.monotonic() - began


def test_frames_longer_than_the_burst(bed: Bed) -> None:
    """One passes when nothing is used up, and makes the others wait until it is made up for."""
    _, agent = bed
    document = mirror_of("ana", rateLimit={"kilobitsPerSecond": 1, "burstKilobits": 1})
    (name,) = programme(agent, target("ana"), document)
    send([bytes(Ether() / IP() / UDP() / payload(1000))] * 5)
    row = row_of(agent, name)
    assert (row["sent"]["packets"], row["dropped"]["rate_limit"]) == (1, 4)


def test_one_frame_counts_once_to_all_targets(bed: Bed) -> None:
    """G3: every target of a mirror gets the same frames; a target's own limit is its own, whoever mirrors to it."""
    _, agent = bed
    slow = target("slow", encapsulation={"gre": {}}, rateLimit={"packetsPerSecond": 1, "burstPackets": 3})
    names = [{"name": "ana"}, {"name": "also"}, {"name": "slow"}]
    limit = {"packetsPerSecond": 1, "burstPackets": 10}
    document = mirror_of("ana", targetRefs=names, rateLimit=limit)
    also = target("also", encapsulation={"vxlan": {"vni": 7}})
    (name,) = programme(agent, target("ana"), also, slow, document)
    frames = [bytes(Ether() / IP(id=n) / UDP() / payload(60)) for n in range(20)]
    with Capture("eth0", "ana") as analyzer:
        send(frames)
        received = decode(copies(analyzer))
    got = {kind: [item.frame for item in of_key(received, *kind)] for kind in (("vxlan", 4242), ("vxlan", 7))}
    assert got["vxlan", 4242] == got["vxlan", 7] == frames[:10]
    row = row_of(agent, name)
    assert row["matched"]["packets"] == 60
    assert (row["sent"]["packets"], row["dropped"]["rate_limit"]) == (23, 37)


# ---- samples ----

ONE_IN = 3


def flows(count: int) -> list[list[Packet]]:
    """Packets of many flows, by flow: both ways, tagged and not, with extension headers in one direction only."""
    made = []
    for n in range(count):
        one, other = f"10.{n % 7}.3.{n % 250 + 1}", f"10.9.{n % 11}.{n % 240 + 1}"
        ports = {"sport": 1024 + n, "dport": (80, 443, 53)[n % 3]}
        back = {"sport": ports["dport"], "dport": ports["sport"]}
        kind = (TCP, UDP)[n % 2]
        if n % 4 < 2:
            made.append(
                [
                    Ether() / IP(src=one, dst=other) / kind(**ports),
                    Ether() / IP(src=other, dst=one, options=b"\x01" * (n % 5)) / kind(**back) / Raw(payload(n % 99)),
                    Ether() / Dot1Q(vlan=5) / IP(src=other, dst=one, ttl=3) / kind(**back),
                ]
            )
            continue
        six, seven = f"fd00:{n:x}::1", f"fd01::{n:x}"
        options = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()
        made.append(
            [
                Ether() / IPv6(src=six, dst=seven) / kind(**ports),
                Ether() / IPv6(src=seven, dst=six) / kind(**back) / Raw(payload(n % 99)),
                Ether() / IPv6(src=seven, dst=six) / options / kind(**back),
            ]
        )
    return made


def datagrams(count: int) -> list[list[Packet]]:
    """Datagrams in fragments, by addresses."""
    six = [
        [
            IPv6(src=f"fd00::{n:x}", dst="fd02::2")
            / IPv6ExtHdrFragment(id=n, offset=8 * at, m=at < 2, nh=17)
            / (b"x" * 64)
            for at in range(3)
        ]
        for n in range(1, count)
    ]
    four = [fragment(IP(src=f"10.4.{n}.1", dst="10.5.0.2", id=n) / UDP() / payload(2000), 600) for n in range(1, count)]
    return [[Ether() / packet for packet in packets] for packets in (*six, *four)]


def octets(groups: Iterable[Iterable[Packet]]) -> list[list[bytes]]:
    return [[bytes(packet) for packet in group] for group in groups]


def test_samples_of_flows(bed: Bed) -> None:
    """All of a flow or nothing, both ways; fragments by addresses; the same for every mirror and on every node."""
    _, agent = bed
    groups = octets([*flows(500), *datagrams(60), [[Ether(src=a, dst=b) / ARP()] for a, b in product(AWAY, AWAY)][1]])
    sampling = {"oneIn": ONE_IN}
    documents = [mirror_of("ana", sampling=sampling), mirror_of("gre", sampling=sampling, snapLength=96)]
    names = programme(agent, target("ana"), target("gre", encapsulation={"gre": {}}), *documents)
    frames = [frame for group in groups for frame in group]
    with Capture("eth0", "ana") as analyzer:
        send(frames)
        received = decode(copies(analyzer))
    wanted = [frame for frame in frames if chosen(frame, ONE_IN)]
    for group in groups:
        assert len({chosen(frame, ONE_IN) for frame in group}) == 1
    assert difference(wanted, (item.frame for item in of_key(received, "vxlan", 4242))) == ([], [])
    assert difference((f[:96] for f in wanted), (item.frame for item in received if item.kind == "gre")) == ([], [])
    for row in settled(agent, *names):
        check_identity(row)
        assert row["matched"]["packets"] == len(frames)
        assert row["dropped"]["sampled_out"] == len(frames) - len(wanted)
    assert_share([chosen(group[0], ONE_IN) for group in groups], ONE_IN)


def assert_share(found: Sequence[bool], one_in: int) -> None:
    """One in so many, to five standard deviations."""
    share, count = 1 / one_in, len(found)
    assert abs(sum(found) - count * share) < 5 * (count * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("one_in", [2, 3, 10, 1000])
def test_the_hash_spreads(one_in: int) -> None:
    """Flows that differ in a port or an address only, as those of one client or one server do."""
    head = bytes(Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=5000, dport=53))
    by_port = [head[:34] + n.to_bytes(2) + head[36:] for n in range(20_000)]
    assert_share([chosen(frame, one_in) for frame in by_port], one_in)
    by_address = [head[:28] + n.to_bytes(2) + head[30:] for n in range(20_000)]
    assert_share([chosen(frame, one_in) for frame in by_address], one_in)


def test_samples_of_packets(bed: Bed) -> None:
    """By chance: frames that are all the same, too."""
    _, agent = bed
    tenth = mirror_of("ana", sampling={"oneIn": 10, "per": "Packet"})
    least = mirror_of("ana", sampling={"oneIn": 1 << 31, "per": "Packet"})
    flow = mirror_of("ana", sampling={"oneIn": 1 << 31})
    every = mirror_of("ana", sampling={"oneIn": 1, "per": "Packet"})
    names = programme(agent, target("ana"), tenth, least, flow, every)
    count = 20_000
    send([bytes(Ether() / IP() / UDP() / payload(20))] * count)
    rows = settled(agent, *names)
    for row in rows:
        check_identity(row)
        assert row["sent"]["packets"] + row["dropped"]["sampled_out"] == row["matched"]["packets"] == count
    sent = [row["sent"]["packets"] for row in rows]
    assert_share([True] * sent[0] + [False] * (count - sent[0]), 10)
    assert sent[1:] == [0, 0, count]


# ---- ends ----


def test_what_is_suspended_or_over_copies_nothing(bed: Bed) -> None:
    """Each by its own word, and only while it says so; counters stand still meanwhile."""
    _, agent = bed
    ends = datetime.now(UTC) + timedelta(seconds=4)
    until = {"expireTime": f"{ends:%Y-%m-%dT%H:%M:%SZ}"}
    rests = target("rests", encapsulation={"gre": {}}, suspend=True)
    asleep, to_nobody, over = mirror_of("ana", suspend=True), mirror_of("rests"), mirror_of("ana", **until)
    both = mirror_of("ana", targetRefs=[{"name": "ana"}, {"name": "rests"}])
    agent.write(target("ana"), rests, asleep, to_nobody, over, both)
    names = [document["metadata"]["name"] for document in (asleep, to_nobody, over, both)]
    states = {"Suspended": 2, "Programmed": 2}
    agent.wait(lambda s: Counter(r["state"] for r in s["mirrors"] if r["name"] in names) == states)
    frame = bytes(Ether() / IP() / UDP() / payload(60))
    send([frame] * 10)
    assert [row["matched"]["packets"] for row in settled(agent, *names)] == [0, 0, 10, 10]
    agent.wait(lambda s: any(r["name"] == names[2] and r["state"] == "Expired" for r in s["mirrors"]), 8)
    assert datetime.now(UTC) - ends < timedelta(seconds=2)
    send([frame] * 10)
    assert [row["matched"]["packets"] for row in settled(agent, *names)] == [0, 0, 10, 20]
    asleep["spec"]["suspend"] = False
    rests["spec"]["suspend"] = False
    agent.write(target("ana"), rests, asleep, to_nobody, over, both)
    agent.wait(lambda s: all(r["reason"] in (None, "Expired") for r in s["mirrors"] if r["name"] in names))
    in_force(agent, names[0], state="Programmed")
    send([frame] * 10)
    assert [row["matched"]["packets"] for row in settled(agent, *names)] == [10, 10, 10, 40]
