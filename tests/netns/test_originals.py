"""Production gets what it got before: identical frames, as many, in the same order, with and without a mirror.

Everything is sent as a guest or a stack sends it: whole frames, super-packets, checksums left to be filled in.
"""

import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from sniffer.kernel.tcx import has_tcx
from tests.agent import Agent, target
from tests.mirrored import agent_at, check_identity, mirror_of, programme, settled
from tests.packets import CORPUS, generate, payload
from tests.segments import send_offloaded
from tests.topology import Node, node, run
from tests.wire import Capture, Frame, send, socket_in

Sender = Callable[[], int]
ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
MECHANISMS = ["tcx", "clsact"] if has_tcx() else ["clsact"]


def super_packets() -> list[tuple[bytes, int]]:
    """C16, C17, C23: TCP and UDP, IPv4 and IPv6, with tail segments of every sort, and single frames whose checksum is
    still to be filled in."""
    four, six = IP(src="10.1.0.2", dst="10.1.0.3", id=7), IPv6(src="fd00:1::2", dst="fd00:1::3")
    kinds = [
        (ip / layer, size)
        for ip, room in ((four, 20), (six, 40))
        for layer, size in ((TCP(seq=1, flags="PA"), 1480 - room), (UDP(dport=9), 1492 - room))
    ]
    found = [
        (bytes(ETHER / head / payload(length)), size)
        for head, size in kinds
        for length in (size * 2, size * 3 + 1, size * 44, 60_000)
    ]
    return found + [(bytes(ETHER / head / payload(n)), 0) for head, _ in kinds for n in (1, 700, 1400)]


def senders() -> dict[str, Sender]:
    frames = [case.frame for case in CORPUS]
    damaged = list(generate(3, 2000))
    tagged = [bytes(ETHER / Dot1Q(vlan=9, prio=3) / IP() / UDP() / payload(n)) for n in range(1, 1400, 7)]
    return {
        "corpus": lambda: send(frames),
        "damaged": lambda: send(damaged),
        "vlan": lambda: send(tagged),
        "super": lambda: send_offloaded(super_packets()),
        "mixed": lambda: sum(send_offloaded([big]) + send([small]) for big in super_packets() for small in frames[:3]),
    }


@pytest.fixture(scope="module")
def bed() -> Iterator[Node]:
    with node() as made:
        yield made


@pytest.fixture(scope="module")
def bare(bed: Node) -> dict[str, list[Frame]]:
    """What the peer gets where nobody mirrors."""
    return {name: received(sender) for name, sender in senders().items()}


@pytest.fixture(scope="module", params=MECHANISMS)
def agent(
    request: pytest.FixtureRequest, bed: Node, bare: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Agent]:
    with agent_at(tmp_path_factory.mktemp("agent"), "--attachment", request.param) as made:
        yield made


def received(sender: Sender) -> list[Frame]:
    with Capture("eth0", "peer") as peer:
        sender()
        peer.settle()
    return peer.frames


def plain(frames: list[Frame]) -> list[tuple[bytes, bool]]:
    return [(frame.octets, frame.checksum_ready) for frame in frames]


@pytest.mark.parametrize("snap_length", [0, 60])
def test_receiver_gets_identical_frames(agent: Agent, bare: dict[str, list[Frame]], snap_length: int) -> None:
    """Whole and cut copies, on ingress of the sender's interface and on egress of the receiver's, four per packet."""
    assert max(len(frame.octets) for frame in bare["super"]) > 60_000
    assert {frame.checksum_ready for frame in bare["super"]} == {False}
    spec = {"snapLength": snap_length, "targetRefs": [{"name": "ana"}, {"name": "second"}]}
    mirrors = [mirror_of("ana", "pod0", "Ingress", **spec), mirror_of("ana", "peer0", "Egress", **spec)]
    second = target("second", encapsulation={"gre": {"key": 1}}, oversize="Drop")
    names = programme(agent, target(), second, *mirrors)
    for name, sender in senders().items():
        got = received(sender)
        assert len(got) == len(bare[name]) > 10, name
        assert plain(got) == plain(bare[name]), name
    total = sum(map(len, bare.values()))
    for row in settled(agent, *names):
        check_identity(row)
        assert row["matched"]["packets"] >= 2 * total
        assert row["sent"]["packets"] > row["matched"]["packets"] // 2


def test_stack_to_stack_as_it_left(agent: Agent, bed: Node) -> None:
    """TCP both ways and UDP_SEGMENT between kernels, mirrored both ways: what the pod's device sent, the peer's got."""
    programme(agent, target(), mirror_of("ana", "pod0", "Both"), mirror_of("ana", "peer0", "Both"))
    with Capture("eth0", "pod", outgoing=True) as pod, Capture("eth0", "peer", outgoing=True) as peer:
        exchange(bed, payload(1 << 20) * 4)
        pod.settle()
        peer.settle()
    for one, other in ((pod, peer), (peer, pod)):
        sent = [frame.octets for frame in one.frames if frame.outgoing]
        got = [frame.octets for frame in other.frames if not frame.outgoing]
        assert max(map(len, sent)) > 1514
        # Each CPU keeps its own order; a socket may send from both.
        assert Counter(got) == Counter(sent)


def exchange(bed: Node, content: bytes) -> None:
    """The peer sends back over TCP what it gets; then a super-packet of UDP goes each way."""
    with socket_in("peer", socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((bed.peer_address, 0))
        listener.listen()
        with socket_in("pod", socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect(listener.getsockname())
            server, _ = listener.accept()
            with server:
                echo = threading.Thread(target=_echo, args=(server,))
                echo.start()
                assert _exchanged(client, content) == content
                echo.join()
    pod, peer = bed.pod_address, bed.peer_address
    for source, here, there in (("pod", pod, peer), ("peer", peer, pod)):
        with socket_in(source, socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.setsockopt(socket.IPPROTO_UDP, 103, 1400)  # UDP_SEGMENT
            datagrams.bind((here, 0))
            for _ in range(5):
                datagrams.sendto(payload(14_000), (there, 9))


def _echo(server: socket.socket) -> None:
    while octets := server.recv(1 << 18):
        server.sendall(octets)


def _exchanged(client: socket.socket, content: bytes) -> bytes:
    back, at = bytearray(), 0
    client.setblocking(False)
    while len(back) < len(content):
        readable, writable, _ = select.select([client], [client] if at < len(content) else [], [], 10)
        assert readable or writable, "no progress within 10 s"
        if writable:
            at += client.send(content[at : at + (1 << 18)])
        if readable:
            back += client.recv(1 << 20)
    client.shutdown(socket.SHUT_WR)
    return bytes(back)


def test_refused_copies_cost_production_nothing(agent: Agent, bare: dict[str, list[Frame]]) -> None:
    """A3, A6: no neighbour; the uplink gone; the relay down: the receiver gets every frame."""
    names = programme(agent, target(), mirror_of("ana"))
    run("ip", "link", "set", "sniffer-tx", "down")
    assert plain(received(senders()["super"])) == plain(bare["super"])
    run("ip", "link", "set", "sniffer-tx", "up")
    run("ip", "link", "set", "up0", "down")
    try:
        assert plain(received(senders()["corpus"])) == plain(bare["corpus"])
    finally:
        run("ip", "link", "set", "up0", "up")
    (row,) = settled(agent, *names)
    check_identity(row)
    assert row["dropped"]["relay_down"] + row["dropped"]["no_route"] > 0
