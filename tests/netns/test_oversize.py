"""What does not fit the underlay: fragmented in the outer IPv4, into as many as it takes, or dropped and counted."""

from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

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
    outer_of,
    programme,
    settled,
)
from tests.packets import payload
from tests.receivers import decode, kernel_vxlan
from tests.segments import send_offloaded
from tests.streams import udp
from tests.topology import Node, node
from tests.wire import Capture, send

Bed = tuple[Node, Agent, int]
ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
TUNNELS = {("vxlan", 4242): 50, ("gre", 5): 42, ("gre", None): 38}
"""Bytes of the outer headers, with their Ethernet."""
TARGETS = [
    target(),
    target("key", encapsulation={"gre": {"key": 5}}),
    target("bare", encapsulation={"gre": {}}),
]
ALL = [{"name": "ana"}, {"name": "key"}, {"name": "bare"}]
LIMIT = 16_000


@pytest.fixture(scope="module", params=[1500, 1400, 9000], ids="uplink-{}".format)
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """Pods with links of 65,535 bytes; the uplink's MTU is the parameter."""
    directory = tmp_path_factory.mktemp("agent")
    with node(mtu=65535, uplink_mtu=request.param) as made, agent_at(directory) as agent:
        yield made, agent, request.param


def frames_of(length: int) -> list[bytes]:
    """IP, VLAN, and what is no IP, all of `length` bytes."""
    heads = [ETHER / IP(id=1) / UDP(), ETHER / IP(id=2) / TCP(), ETHER / Dot1Q(vlan=3) / IP(id=3) / ICMP()]
    heads += [Ether(src=ETHER.src, dst="ff:ff:ff:ff:ff:ff", type=0x88B5), ETHER / Dot1Q(vlan=3, type=0x88B5)]
    return [bytes(head / Raw(payload(length - len(head)))) for head in heads]


def pieces(length: int, header: int, mtu: int) -> int:
    """Outer fragments of a frame: each carries a multiple of 8 bytes behind its IP header, but for the last."""
    load = length + header - 14 - 20
    return 1 if load + 20 <= mtu else -(-load // ((mtu - 20) & ~7))


LENGTHS = [1400, 1450, 1451, 1458, 1459, 1462, 1463, 1472, 1473, 1514, 2900, 2979, 8986, 8987, 9014, 15_999, LIMIT]


def test_fragmented_into_as_many_as_it_takes(bed: Bed) -> None:
    """C16, A8: around every border, through each tunnel; a jumbo frame of 9014 is seven fragments at 1500."""
    _, agent, mtu = bed
    assert pieces(9014, 50, 1500) == 7
    frames = [frame for length in LENGTHS for frame in frames_of(length)]
    (name,) = programme(agent, *TARGETS, mirror_of("ana", targetRefs=ALL))
    with Capture("eth0", "ana") as analyzer:
        send(frames)
        outer = copies(analyzer)
    received = decode(outer)
    for tunnel, header in TUNNELS.items():
        got = of_key(received, *tunnel)
        assert difference(frames, (item.frame for item in got)) == ([], [])
        assert {(len(item.frame), item.fragments) for item in got} == {
            (length, pieces(length, header, mtu)) for length in LENGTHS
        }
        mine = outer_of(outer, *tunnel)
        assert len(mine) == sum(pieces(len(frame), header, mtu) for frame in frames)
        slow = {frame for frame in frames if len(frame) > mtu}
        assert [item.frame for item in got if item.frame in slow] == [frame for frame in frames if frame in slow]
    assert max(map(len, outer)) <= mtu + 14
    check_padding(outer)
    check_counts(*settled(agent, name), frames * 3, outer)


def test_the_kernel_reassembles_what_we_cut(bed: Bed) -> None:
    """C16: by the kernel's own vxlan device."""
    _, agent, _ = bed
    frames = [frame for length in LENGTHS for frame in frames_of(length)]
    programme(agent, target(), mirror_of("ana"))
    with kernel_vxlan() as device:
        send(frames)
        got = drained(device)
    assert difference(frames, got) == ([], [])


def test_drop_is_counted(bed: Bed) -> None:
    """A8: `oversize: Drop`; what fits is not touched by it."""
    _, agent, mtu = bed
    frames = [frame for length in LENGTHS for frame in frames_of(length)]
    fits = [frame for frame in frames if pieces(len(frame), 50, mtu) == 1]
    (name,) = programme(agent, target(oversize="Drop"), mirror_of("ana"))
    with Capture("eth0", "ana") as analyzer:
        send(frames)
        outer = copies(analyzer)
    assert difference(fits, (item.frame for item in decode(outer))) == ([], [])
    check_counts(*settled(agent, name), frames, outer, oversize=len(frames) - len(fits))


def test_drop_of_super_packets(bed: Bed) -> None:
    """A8: super-packets whose segments do not fit are dropped whole, those whose segments do are not."""
    here, agent, mtu = bed
    frames = [
        (bytes(ETHER / IP(id=1) / head / payload(14_000)), size)
        for head, size in ((TCP(), 1340), (TCP(), 1460), (UDP(), 1340), (UDP(), 1472))
    ]
    small = [frame for frame, size in frames if size + 54 + 36 <= mtu]
    (name,) = programme(agent, target(oversize="Drop"), mirror_of("ana"))
    with Capture("eth0", "ana") as analyzer:
        send_offloaded(frames)
        udp(payload(30_000), here.peer_address, 1472)
        outer = copies(analyzer)
    (row,) = settled(agent, name)
    fitting = len(small) + (mtu == 9000)
    assert (row["matched"]["packets"], row["sent"]["packets"]) == (5, fitting)
    assert row["dropped"] == dict.fromkeys(row["dropped"], 0) | {"oversize": 5 - fitting}
    assert row["wire"]["packets"] == len(outer)
    assert {item.fragments for item in decode(outer)} <= {1}


def test_too_big(bed: Bed) -> None:
    """C16: the kernel wraps frames up to 16,000 bytes; longer ones that are no super-packets are counted.

    A tag that lies beside a packet adds four bytes to that."""
    _, agent, _ = bed
    big = [frame for length in (LIMIT + 5, 16_500, 40_000, 65_535) for frame in frames_of(length)]
    small = frames_of(1400)
    (name,) = programme(agent, target(), mirror_of("ana"))
    with Capture("eth0", "ana") as analyzer, Capture("eth0", "peer") as peer:
        for frame in big:
            send([frame, small[0]])
        outer = copies(analyzer)
        assert drained(peer) == [frame for one in big for frame in (one, small[0])]
    assert difference([small[0]] * len(big), (item.frame for item in decode(outer))) == ([], [])
    check_counts(*settled(agent, name), [*big, *[small[0]] * len(big)], outer, too_big=len(big))


def test_big_frames_cut_to_the_snap_length(bed: Bed) -> None:
    """C16: a frame that is too big as a whole is not when it is cut."""
    _, agent, mtu = bed
    frames = [frame for length in (LIMIT + 5, 40_000, 65_000) for frame in frames_of(length)]
    (name,) = programme(agent, target(), mirror_of("ana", snapLength=2000))
    with Capture("eth0", "ana") as analyzer:
        send(frames)
        outer = copies(analyzer)
    got = decode(outer)
    assert difference((frame[:2000] for frame in frames), (item.frame for item in got)) == ([], [])
    assert {item.fragments for item in got} == {pieces(2000, 50, mtu)}
    check_counts(*settled(agent, name), frames, outer)


def test_truncate(bed: Bed) -> None:
    """A8, C16: `oversize: Truncate` cuts to what fits one outer packet, frames of 65,535 bytes too; and says so."""
    _, agent, mtu = bed
    frames = [frame for length in (*LENGTHS, LIMIT + 5, 40_000, 65_535) for frame in frames_of(length)]
    targets = [{**one, "spec": one["spec"] | {"oversize": "Truncate"}} for one in TARGETS]
    (name,) = programme(agent, *targets, mirror_of("ana", targetRefs=ALL))
    with Capture("eth0", "ana") as analyzer:
        send(frames)
        outer = copies(analyzer)
    received = decode(outer)
    sizes = []
    for tunnel, header in TUNNELS.items():
        room = mtu - header + 14
        got = of_key(received, *tunnel)
        assert difference((frame[:room] for frame in frames), (item.frame for item in got)) == ([], [])
        assert {item.fragments for item in got} == {1}
        sizes += [(len(frame), min(len(frame), room)) for frame in frames]
    (row,) = settled(agent, name)
    check_counts(row, frames * 3, outer)
    assert row["sent"] == {"packets": len(sizes), "bytes": sum(sent for _, sent in sizes)}
    cuts = [whole - sent for whole, sent in sizes if sent < whole]
    assert row["truncated"] == {"packets": len(cuts), "bytes": sum(cuts)}


def test_truncated_segments(bed: Bed) -> None:
    """Of a super-packet each segment is cut by itself; with a snap length it is one frame, cut to what fits."""
    here, agent, mtu = bed
    room = mtu - 50 + 14
    one, other = mirror_of("ana"), mirror_of("key", snapLength=20_000)
    also = target("key", encapsulation={"gre": {"key": 5}}, oversize="Truncate")
    names = programme(agent, target(oversize="Truncate"), also, one, other)
    sent = payload(30_000)
    with Capture("eth0", "ana") as analyzer:
        udp(sent, here.peer_address, 1472)
        outer = copies(analyzer)
    received = decode(outer)
    parts = [sent[at : at + 1472] for at in range(0, 30_000, 1472)]
    got = [item.frame[42:] for item in of_key(received, "vxlan", 4242)]
    assert difference((part[: room - 42] for part in parts), got) == ([], [])
    (single,) = of_key(received, "gre", 5)
    assert single.frame[42:] == sent[: mtu - 42 + 14 - 42]
    assert {item.fragments for item in received} == {1}
    row, cut = settled(agent, *names)
    cuts = [len(part) + 42 - room for part in parts if len(part) + 42 > room]
    assert row["truncated"] == {"packets": len(cuts), "bytes": sum(cuts)}
    assert cut["truncated"] == {"packets": 1, "bytes": 20_000 - (mtu - 42 + 14)}
    for counted in (row, cut):
        assert not any(counted["dropped"].values())
        assert not any(counted["lost"].values())
