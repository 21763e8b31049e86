"""Several mirrors on an interface, several targets of a mirror, several endpoints of a target; and every packet in the
books: matched = sent + dropped, and what was written to the wire is what arrived.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from random import Random

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from tests.agent import Agent, Document, mirror, target
from tests.mirrored import (
    agent_at,
    check_counts,
    check_identity,
    copies,
    difference,
    ip_length,
    mirror_of,
    of_key,
    outer_of,
    programme,
    settled,
)
from tests.packets import CORPUS, generate, payload
from tests.receivers import Received, decode
from tests.segments import send_offloaded
from tests.streams import content, tcp
from tests.topology import Node, add_analyzer, node, remove, run, wait_until
from tests.wire import Capture, send

Bed = tuple[Node, Agent]
FRAMES = [case.frame for case in CORPUS]
SMALL = [frame for frame in FRAMES if len(frame) < 1400]
ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with node(ipv6=True) as made, agent_at(tmp_path_factory.mktemp("agent")) as agent:
        yield made, agent


def vxlan(vni: int, **spec: object) -> Document:
    return target(f"v{vni}", encapsulation={"vxlan": {"vni": vni}}, **spec)


def test_sixteen_mirrors_on_a_hook_and_no_more(bed: Bed) -> None:
    """A11: by name; the seventeenth is Degraded and says why; each of the sixteen has every frame."""
    _, agent = bed
    names = [f"of17-{number:02}" for number in range(17)]
    mirrors = [mirror(name, targets=[f"v{n}"], direction="Ingress") for n, name in enumerate(names)]
    agent.write(*(vxlan(n) for n in range(17)), *mirrors)
    agent.wait(lambda status: len(status["mirrors"]) == 17)
    last = agent.mirror(names[-1])
    assert (last["state"], last["reason"]) == ("Degraded", "HookFull")
    assert "pod0 ingress" in last["message"]
    with Capture("eth0", "ana") as analyzer:
        send(FRAMES)
        outer = copies(analyzer)
    received = decode(outer)
    for vni, row in enumerate(settled(agent, *names)):
        got = [item.frame for item in of_key(received, "vxlan", vni)]
        sent = FRAMES if vni < 16 else []
        assert difference(sent, got) == ([], [])
        check_counts(row, sent, outer_of(outer, "vxlan", vni))


def test_four_targets_of_a_mirror(bed: Bed) -> None:
    """Each target has every frame; matched counts a frame once per target."""
    _, agent = bed
    document = mirror_of("v0", targetRefs=[{"name": f"v{n}"} for n in range(4)])
    (name,) = programme(agent, *(vxlan(n) for n in range(4)), document)
    with Capture("eth0", "ana") as analyzer:
        send(FRAMES)
        outer = copies(analyzer)
    received = decode(outer)
    for vni in range(4):
        assert difference(FRAMES, (item.frame for item in of_key(received, "vxlan", vni))) == ([], [])
    check_counts(*settled(agent, name), FRAMES * 4, outer)


def test_at_most_sixteen_copies_of_a_packet(bed: Bed) -> None:
    """A11: the mirrors that come last on the hook drop what is too much, and count it."""
    _, agent = bed
    refs = [{"name": f"v{n}"} for n in range(4)]
    mirrors = [mirror_of("v0", targetRefs=refs) for _ in range(6)]
    names = sorted(programme(agent, *(vxlan(n) for n in range(4)), *mirrors))
    sample = SMALL[:40]
    with Capture("eth0", "ana") as analyzer:
        send(sample)
        outer = copies(analyzer)
    assert len(decode(outer)) == 16 * len(sample)
    total = Counter()
    for place, row in enumerate(settled(agent, *names)):
        check_identity(row)
        assert row["matched"]["packets"] == 4 * len(sample)
        assert row["dropped"]["copy_limit"] == (4 * len(sample) if place >= 4 else 0), row["name"]
        total.update({"packets": row["wire"]["packets"], "bytes": row["wire"]["bytes"]})
    assert total == {"packets": len(outer), "bytes": sum(map(ip_length, outer))}


def flows(count: int, seed: int = 4) -> list[list[bytes]]:
    """Frames of `count` flows of many kinds, three each way."""
    rng, found = Random(seed), []
    for number in range(count):
        one, other = (f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}" for _ in range(2))
        ports = rng.randrange(1024, 65536), rng.choice([53, 80, 443, rng.randrange(65536)])
        layer = (TCP, UDP)[number % 2]
        six = number % 3 == 0
        ends = (f"fd00::{one.replace('.', ':')}", f"fd00::{other.replace('.', ':')}") if six else (one, other)
        tag = [Dot1Q(vlan=rng.randrange(1, 4095))] if number % 5 == 0 else []
        found.append([])
        for back, length in zip((False, True) * 3, rng.sample(range(100), 6), strict=True):
            (source, sink), (sport, dport) = (ends[::-1], ports[::-1]) if back else (ends, ports)
            ether = Ether(src=ETHER.dst, dst=ETHER.src) if back else ETHER
            head = (IPv6 if six else IP)(src=source, dst=sink) / layer(sport=sport, dport=dport)
            for each in tag:
                ether = ether / each
            found[-1].append(bytes(ether / head / payload(length)))
    return found


def test_a_flow_has_one_source_port_both_ways(bed: Bed) -> None:
    """One queue of the analyzer gets both directions; flows are spread over many ports."""
    _, agent = bed
    made = flows(300)
    programme(agent, vxlan(1), mirror_of("v1"))
    with Capture("eth0", "ana") as analyzer:
        send(frame for flow in made for frame in flow)
        port_of = {item.frame: item.source_port for item in decode(copies(analyzer))}
    ports = [{port_of[frame] for frame in flow} for flow in made]
    assert {len(each) for each in ports} == {1}
    assert len(set.union(*ports)) > 280  # 300 of 16,384: three coincide, in the mean


def test_slow_and_fast_copies_of_a_flow_share_a_port(bed: Bed) -> None:
    """Full frames are fragmented behind the relay, short ones wrapped in place: still one flow."""
    _, agent = bed
    made = [
        [bytes(ETHER / IP(src=f"10.0.0.{n}") / UDP(sport=n) / payload(size)) for size in (9, 1472)] for n in range(99)
    ]
    programme(agent, vxlan(1), mirror_of("v1"))
    with Capture("eth0", "ana") as analyzer:
        send(frame for flow in made for frame in flow)
        port_of = {item.frame: item.source_port for item in decode(copies(analyzer))}
    assert all(len({port_of[frame] for frame in flow}) == 1 for flow in made)


def test_fragments_of_a_packet_share_a_port(bed: Bed) -> None:
    """C10: later fragments have no ports to go by, so the first does not go by its own."""
    _, agent = bed
    chosen = [case.frame for case in CORPUS if case.name in {"fragment-first", "fragment-middle", "fragment-last"}]
    programme(agent, vxlan(1), mirror_of("v1"))
    with Capture("eth0", "ana") as analyzer:
        send(chosen)
        assert len({item.source_port for item in decode(copies(analyzer))}) == 1


@pytest.mark.parametrize("count", [2, 3, 8])
def test_each_flow_goes_to_one_endpoint(bed: Bed, count: int) -> None:
    """Both directions of a flow to the same one of a target's endpoints, every endpoint its share, none twice."""
    _, agent = bed
    others = range(1, count)
    for number in others:
        add_analyzer(f"ana{number}", f"up{number}", number)
    try:
        addresses = [f"10.9.{number}.2" for number in range(count)]
        (name,) = programme(agent, target("many", addresses), mirror_of("many"))
        (row,) = settled(agent, name)
        assert [end["address"] for end in row["targets"][0]["endpoints"]] == addresses
        made = flows(400)
        captures = [Capture("eth0", "ana"), *(Capture("eth0", f"ana{number}") for number in others)]
        send(frame for flow in made for frame in flow)
        outers = [copies(capture) for capture in captures]
        check_endpoints(made, [decode(outer) for outer in outers])
        check_counts(*settled(agent, name), list(chain(*made)), list(chain(*outers)))
    finally:
        remove([f"up{number}" for number in others], [f"ana{number}" for number in others])


def check_endpoints(made: Sequence[Sequence[bytes]], received: Sequence[Sequence[Received]]) -> None:
    places: dict[bytes, list[int]] = defaultdict(list)
    for place, items in enumerate(received):
        for item in items:
            places[item.frame].append(place)
    assert {len(each) for each in places.values()} == {1}
    ends = [{places[frame][0] for frame in flow} for flow in made]
    assert {len(each) for each in ends} == {1}
    share = Counter(place for each in ends for place in each)
    mean = len(made) / len(received)
    assert len(share) == len(received)
    assert all(mean / 1.7 < number < mean * 1.7 for number in share.values()), share


def test_an_endpoint_that_does_not_answer_is_a_counted_drop(bed: Bed) -> None:
    """A3: the flows of the other endpoint go on, those of this one are no_neighbour; nobody answers for 10.9.0.77."""
    _, agent = bed
    made = flows(60)
    agent.write(target("half", ["10.9.0.2", "10.9.0.77"]), document := mirror_of("half"))
    name = document["metadata"]["name"]

    def known() -> bool:
        rows = [row for row in agent.status()["mirrors"] if row["name"] == name]
        states = [end["state"] for row in rows for each in row["targets"] for end in each["endpoints"]]
        return states == ["reachable", "unreachable"]

    wait_until(known, 10)
    with Capture("eth0", "ana") as analyzer:
        send(frame for flow in made for frame in flow)
        outer = copies(analyzer)
    got = {item.frame for item in decode(outer)}
    assert all(len(got & set(flow)) in {0, len(flow)} for flow in made)
    sent = list(chain(*made))
    check_counts(*settled(agent, name), sent, outer, no_neighbour=len(sent) - len(outer))
    assert 100 < len(outer) < 260
    assert agent.mirror(name)["reason"] == "EndpointUnreachable"


def test_an_endpoint_without_a_route_is_a_counted_drop(bed: Bed) -> None:
    """A6, A7."""
    _, agent = bed
    agent.write(target("far", "172.31.255.1"), document := mirror_of("far"))
    agent.wait(lambda status: any(row["name"] == document["metadata"]["name"] for row in status["mirrors"]))
    send(FRAMES)
    check_counts(*settled(agent, document["metadata"]["name"]), FRAMES, [], no_route=len(FRAMES))


def test_the_relay_down_is_a_counted_drop(bed: Bed) -> None:
    """Of what goes through it; the rest is wrapped and sent before it gets there. The agent would put it up again, so
    it is stopped meanwhile."""
    _, agent = bed
    (name,) = programme(agent, vxlan(1), mirror_of("v1"))
    process = agent.process
    assert process is not None
    run("kill", "-STOP", process.pid)
    run("ip", "link", "set", "sniffer-tx", "down")
    try:
        with Capture("eth0", "ana") as analyzer:
            send(SMALL)
            outer = copies(analyzer)
    finally:
        run("ip", "link", "set", "sniffer-tx", "up")
        run("kill", "-CONT", process.pid)
    got = {item.frame for item in decode(outer)}
    left = [frame for frame in SMALL if frame not in got]
    assert len([frame for frame in left if frame[12:14] == b"\x08\x06"]) > 1
    check_counts(*settled(agent, name), SMALL, outer, relay_down=len(left))


def test_everything_at_once_adds_up(bed: Bed) -> None:
    """Six mirrors of all sorts over mixed traffic: each matched, dropped and wrote what it should, to the packet."""
    here, agent = bed
    mirrors = {
        "all": mirror_of("v1", direction="Both"),
        "tcp": mirror_of("v2", direction="Both", filter="tcp"),
        "cut": mirror_of("v3", direction="Both", snapLength=64),
        "drop": mirror_of("v4", direction="Both"),
        "rules": mirror_of("v5", direction="Both", rules=[{"action": "Skip", "filter": "udp"}, {"action": "Mirror"}]),
        "none": mirror_of("v6", direction="Both", filter="tcp port 1 and ip[8] == 7"),
    }
    targets = [vxlan(number, oversize="Drop" if number == 4 else "Segment") for number in range(1, 7)]
    names = programme(agent, *targets, *mirrors.values())
    frames = [frame for frame in generate(8, 1500) if frame[12:14] not in {b"\x81\x00", b"\x88\xa8"}]
    with Capture("pod0", outgoing=True) as hook, Capture("eth0", "ana") as analyzer:
        send(frames)
        send_offloaded((bytes(ETHER / IP() / UDP() / payload(9000)), 1400) for _ in range(20))
        assert tcp(content(1 << 20), here.peer_address) == content(1 << 20)
        assert tcp(content(1 << 20), here.pod_address, "peer", "pod") == content(1 << 20)
        outer = copies(analyzer)
    seen, received = hook.octets(), decode(outer)
    rows = dict(zip(mirrors, settled(agent, *names), strict=True))
    for vni, (kind, row) in enumerate(rows.items(), 1):
        check_identity(row)
        mine = outer_of(outer, "vxlan", vni)
        assert row["wire"] == {"packets": len(mine), "bytes": sum(map(ip_length, mine))}, kind
        assert not any(row["lost"].values()), kind
    assert rows["all"]["matched"] == {"packets": len(seen), "bytes": sum(map(len, seen))}
    assert rows["cut"]["sent"]["bytes"] == sum(min(len(frame), 64) for frame in seen)
    assert len(of_key(received, "vxlan", 3)) == len(seen)
    assert rows["none"]["matched"]["packets"] == 0
    assert (
        rows["drop"]["dropped"]["oversize"] == rows["drop"]["matched"]["packets"] - rows["drop"]["sent"]["packets"] > 0
    )
    assert 0 < rows["tcp"]["matched"]["packets"] < rows["rules"]["matched"]["packets"] < len(seen)
