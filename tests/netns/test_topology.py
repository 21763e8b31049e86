"""The test bed itself: what is sent arrives, byte for byte, and nothing else does."""

import socket
from collections import Counter

import pytest

from tests.packets import BARE, CORPUS, CUT_TAG, PEER_MAC, generate, reaches_hooks
from tests.topology import Shape, node, run
from tests.wire import Capture, send, socket_in


def echo(sender: str | None, receiver: str, address: str, family: int = socket.AF_INET) -> bytes:
    """Sends a datagram to port 7 of `address` and what comes back."""
    with socket_in(receiver, family, socket.SOCK_DGRAM) as there, socket_in(sender, family, socket.SOCK_DGRAM) as here:
        there.bind((address, 7))
        here.sendto(b"ping", (address, 7))
        for side in (there, here):
            side.settimeout(2)
        request, origin = there.recvfrom(100)
        there.sendto(request + b" pong", origin)
        return here.recv(100)


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("shape", ["bridge", "routed"])
def test_everyone_is_reached_and_nothing_is_left(shape: Shape, ipv6: bool) -> None:
    before = run("ip", "-o", "link"), run("ip", "netns")
    with node(shape, ipv6=ipv6) as bed:
        assert echo(bed.pod, bed.peer, bed.peer_address) == b"ping pong"
        assert echo(bed.peer, bed.pod, bed.pod_address) == b"ping pong"
        assert echo(None, bed.analyzer, bed.analyzer_address) == b"ping pong"
        if ipv6:
            assert echo(bed.pod, bed.peer, "fd00:1::1e", socket.AF_INET6) == b"ping pong"
    assert (run("ip", "-o", "link"), run("ip", "netns")) == before


def test_corpus_crosses_the_bridge_untouched_and_unanswered() -> None:
    """A bridge drops frames whose source is no station; the node's end of the pod's link sees every one."""
    with (
        node() as bed,
        Capture(bed.pod_device) as hook,
        Capture("eth0", bed.peer) as peer,
        Capture("eth0", bed.pod) as answers,
    ):
        frames = [case.frame for case in CORPUS]
        send(frames)
        assert hook.wait(len(frames)) == frames
        assert peer.settle() == [frame for frame in frames if not frame[6] & 1 and frame[6:12] != bytes(6)]
        assert answers.octets() == []


def test_generated_frames_reach_the_hook_but_for_cut_tags() -> None:
    with node() as bed, Capture(bed.pod_device) as hook:
        frames = [*generate(11, 20_000), CUT_TAG.frame, BARE.frame]
        send(frames)
        hook.settle()
        expected = Counter(frame for frame in frames if reaches_hooks(frame) or frame == BARE.frame)
        assert Counter(hook.octets()) == expected


def test_a_forged_source_does_not_turn_the_bridge_round() -> None:
    forged = bytes.fromhex(PEER_MAC.replace(":", "")) * 2 + CORPUS[0].frame[12:]
    with node() as bed, Capture("eth0", bed.peer) as peer:
        send([forged, CORPUS[0].frame])
        assert peer.wait(2) == [forged, CORPUS[0].frame]


def test_nothing_speaks_unasked() -> None:
    with node() as bed, Capture(bed.pod_device, outgoing=True) as quiet:
        assert quiet.settle(quiet=1.0) == []
