"""C22: packets of an overlay, as the stack makes them: encapsulated already, the checksum still to be filled in. The
kernel neither wraps nor cuts those as it does others; nor frames whose transport header lies deep.
"""

import socket
from collections.abc import Iterator

import pytest

from tests.agent import Agent, target
from tests.mirrored import agent_at, check_counts, check_identity, copies, difference, mirror_of, programme, settled
from tests.packets import DEEP, payload
from tests.receivers import decode
from tests.segments import checksums_good, layers, rebuild
from tests.streams import content, tcp
from tests.topology import Node, node, offloads, run, set_sysctl
from tests.wire import Capture, send, socket_in

ADDRESSES = {"pod": "10.8.0.1", "peer": "10.8.0.2"}
PORT = 4790
HEADERS = 50
"""Bytes of the overlay's outer headers, with their Ethernet."""
Bed = tuple[Node, Agent]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """Pod and peer with an overlay between them that just fits their link, and so not ours on top of it."""
    with node() as made, agent_at(tmp_path_factory.mktemp("agent")) as agent:
        ends = {"pod": (made.pod_address, made.peer_address), "peer": (made.peer_address, made.pod_address)}
        for netns, (local, remote) in ends.items():
            words = f"link add over0 mtu 1450 type vxlan local {local} remote {remote} id 3 dstport {PORT} udpcsum"
            run("ip", *words.split(), netns=netns)
            set_sysctl("net.ipv6.conf.over0.disable_ipv6", 1, netns)
            run("ip", "address", "add", f"{ADDRESSES[netns]}/24", "dev", "over0", netns=netns)
            run("ip", "link", "set", "over0", "up", netns=netns)
        run("ping", "-c", 1, "-W", 2, ADDRESSES["peer"], netns="pod")
        yield made, agent


def datagrams(*sizes: int) -> None:
    with socket_in("pod", socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for size in sizes:
            sender.sendto(payload(size), (ADDRESSES["peer"], 9))


def twice_unsummed(frame: bytes) -> bytes:
    """The frame with the checksums of the overlay's UDP header and of the datagram inside blanked, for as far as it
    goes: the hook sees them before they are filled in."""
    for place in (40, HEADERS + 40):
        frame = frame[:place] + bytes(2)[: max(len(frame) - place, 0)] + frame[place + 2 :]
    return frame


@pytest.mark.parametrize("snap_length", [0, 14, 60, 128, 500])
def test_datagrams_are_fragmented_and_cut(bed: Bed, snap_length: int) -> None:
    _, agent = bed
    sizes = [0, 1, 36, 100, 600, 1371, 1372, 1373, 1400, 1422] * 3
    document = mirror_of("ana", filter=f"udp port {PORT} and udp[8 + 8 + 14 + 9] == 17", snapLength=snap_length)
    (name,) = programme(agent, target(), document)
    with Capture("pod0") as hook, Capture("eth0", "ana") as analyzer:
        datagrams(*sizes)
        outer = copies(analyzer)
    frames = [frame for frame in hook.octets() if len(frame) > HEADERS + 23 and frame[HEADERS + 23] == 17]
    assert [len(frame) for frame in frames] == [HEADERS + 42 + size for size in sizes]
    assert any(not frame.checksum_ready for frame in hook.frames)
    got = decode(outer)
    cut = snap_length or 2000
    assert difference(
        (twice_unsummed(frame[:cut]) for frame in frames), (twice_unsummed(item.frame) for item in got)
    ) == ([], [])
    assert {item.fragments for item in got} == ({1} if snap_length else {1, 2})
    assert snap_length or all(checksums_good(frame) for item in got for frame in (item.frame, item.frame[HEADERS:]))
    check_counts(*settled(agent, name), frames, outer)


def test_a_stream_without_segmentation_offload(bed: Bed) -> None:
    """Full frames of an overlay, one by one: each in two outer fragments."""
    _, agent = bed
    sent = content(1 << 20)
    for netns in ("pod", "peer"):
        offloads("over0", on=False, netns=netns)
    run("ethtool", "-K", "over0", "tx", "on", "sg", "on", netns="pod")
    try:
        programme(agent, target(), mirror_of("ana", filter=f"udp port {PORT}"))
        with Capture("pod0") as hook, Capture("eth0", "ana") as analyzer:
            assert tcp(sent, ADDRESSES["peer"]) == sent
            outer = copies(analyzer)
    finally:
        for netns in ("pod", "peer"):
            offloads("over0", on=True, netns=netns)
    got = decode(outer)
    assert {item.fragments for item in got} == {1, 2}
    assert max(len(frame) for frame in hook.octets()) == 1514
    assert list(rebuild(item.frame[HEADERS:] for item in got).values()) == [sent]
    assert all(checksums_good(item.frame) for item in got)


def test_super_packets_are_cut_by_segment(bed: Bed) -> None:
    """A super-packet of an overlay cannot be cut as one: each of its segments is."""
    _, agent = bed
    sent = content(1 << 20)
    (name,) = programme(agent, target(), mirror_of("ana", filter=f"udp port {PORT}", snapLength=HEADERS + 66))
    with Capture("pod0") as hook, Capture("eth0", "ana") as analyzer:
        assert tcp(sent, ADDRESSES["peer"]) == sent
        outer = copies(analyzer)
    assert max(map(len, hook.octets())) > 20_000
    inner = [item.frame for item in decode(outer)]
    assert {len(frame) for frame in inner} <= {HEADERS + 66, HEADERS + 42}  # ARP of the overlay
    parts = [frame[HEADERS:] for frame in inner if layers(frame[HEADERS:])]
    sequences = {frame[38:42] for frame in parts}
    assert len(sequences) > len(sent) / 1400 / 2
    (row,) = settled(agent, name)
    check_identity(row)
    assert row["sent"]["packets"] == len(hook.frames)
    assert row["wire"]["packets"] == len(outer)
    assert not any(row["lost"].values())


@pytest.mark.parametrize("snap_length", [0, 14, 100, 1000])
def test_a_deep_transport_header(bed: Bed, snap_length: int) -> None:
    """C11: fragmented and cut in front of its transport header."""
    _, agent = bed
    (name,) = programme(agent, target(), mirror_of("ana", filter="ip6", snapLength=snap_length))
    with Capture("eth0", "ana") as analyzer:
        send([DEEP.frame] * 5)
        outer = copies(analyzer)
    got = [item.frame for item in decode(outer)]
    assert got == [DEEP.frame[: snap_length or 2000]] * 5
    check_counts(*settled(agent, name), [DEEP.frame] * 5, outer)
