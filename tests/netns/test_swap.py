"""Nothing that a program can reach is rewritten: filters, targets and lists change all the time under full load.

Frames carry a marker (a UDP port, or the last bytes of the address that an ARP request asks for). In every version of
the resources marker 1000+k goes to VNI 5000+k with DSCP k, but which mirror and which target does it, and at which
place of the list, changes with every version. A decision by a mixture of two versions, a copy through a tunnel that
was meant for another, a header half written: each would be a marker under the wrong VNI or DSCP.
"""

import ctypes
import json
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sniffer import pcap
from sniffer.kernel import programs
from sniffer.kernel.pins import Pins
from sniffer.model.resources import ClusterTrafficMirror, MirrorTarget
from sniffer.node import Node
from sniffer.plan.compile import Sources
from tests.agent import mirror, sniffer, target
from tests.topology import command, node, start, wait_until
from tests.traffic import Background, blast_command
from tests.wire import _PACKET_IGNORE_OUTGOING, _PACKET_STATISTICS, _SOL_PACKET, socket_in

SECONDS = 20.0
SLOTS = 13
MARKERS = range(2, 34)
"""Those of the mirrors that change; 0 and 1 are of two that do not."""
ROOT = Path("/sys/fs/bpf/sniffer")
SO_ATTACH_FILTER = 26


class Tally:
    """Counts the frames of a device that a filter accepts, in the kernel: none is lost, few are read."""

    def __init__(self, device: str, filter: str, incoming: bool) -> None:
        program = b"".join(struct.pack("=HBBI", i.code, i.jt, i.jf, i.k) for i in pcap.compile(filter))
        self._program = ctypes.create_string_buffer(program, len(program))
        self._socket = socket_in(None, socket.AF_PACKET, socket.SOCK_RAW)
        filter_at = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(self._program))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_at)
        if incoming:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._socket.bind((device, 3))  # ETH_P_ALL
        self._count = 0

    def count(self) -> int:
        accepted, _ = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._count += accepted  # the kernel starts anew
        return self._count

    def some(self) -> Iterator[str]:
        """The first frames that it accepted."""
        self._socket.setblocking(False)
        for _ in range(4):
            try:
                yield self._socket.recv(160).hex()
            except BlockingIOError:
                return

    def close(self) -> None:
        self._socket.close()


VNI, DSCP, UDP_PORT, ARP_ADDRESS = "(ether[46:4] >> 8)", "(ether[15] >> 2)", "ether[86:2]", "ether[90:2]"
COPIES = "ip src host 10.9.0.1 and ip[6:2] & 0x1fff = 0"
"""Outer packets, or their first fragments: the others say nothing of themselves."""
CHANGING = f"{VNI} >= {5000 + MARKERS[0]} and {VNI} <= {5000 + MARKERS[-1]} and {DSCP} = {VNI} - 5000"
RIGHT_UDP = f"{CHANGING} and ether[62:2] = 0x0800 and {UDP_PORT} + 4000 = {VNI}"
RIGHT_ARP = f"{CHANGING} and ether[62:2] = 0x0806 and {ARP_ADDRESS} + 4000 = {VNI}"
KEPT = tuple(f"{VNI} = {6000 + n} and {DSCP} = 0 and {UDP_PORT} = {1000 + n}" for n in range(2))
WRONG = f"{COPIES} and not ({RIGHT_UDP}) and not ({RIGHT_ARP}) and not ({KEPT[0]}) and not ({KEPT[1]})"
UNCHANGED = ("udp dst port 1000 and len < 200", "udp dst port 1001 and len > 1000")


def _pair(name: str, vni: int, dscp: int, filter: str) -> tuple[MirrorTarget, ClusterTrafficMirror]:
    to = target(f"t-{name}", encapsulation={"vxlan": {"vni": vni}}, outer={"dscp": dscp})
    what = mirror(f"m-{name}", targets=[f"t-{name}"], direction="Ingress", filter=filter)
    return MirrorTarget.model_validate(to), ClusterTrafficMirror.model_validate(what)


def _sources(markers: Sequence[int]) -> Sources:
    """One version: slot by slot the marker that it mirrors."""
    pairs = [
        _pair(str(slot), 5000 + k, k, f"udp dst port {1000 + k} or arp[26:2] = {1000 + k}")
        for slot, k in enumerate(markers)
    ]
    pairs += [_pair(f"z{n}", 6000 + n, 0, UNCHANGED[n]) for n in range(2)]
    return Sources(tuple(to for to, _ in pairs), tuple(what for _, what in pairs))


def _settle(swapper: Node, sources: Sources) -> None:
    def quiet() -> bool:
        plan = swapper.plan(sources, "n1")
        swapper.apply(plan)
        return not plan and swapper.wait_s is None

    wait_until(quiet, 20, every=0.1, what="plan with nothing to do")


def _arp(marker: int) -> str:
    octets = bytes.fromhex("ffffffffffff02000000000a0806000108000604000102000000000a0a010014")
    return (octets + bytes(6) + b"\x0a\x01" + struct.pack("!H", 1000 + marker) + bytes(18)).hex()


@pytest.fixture
def swapper() -> Iterator[Node]:
    with node("bridge"):
        pins = Pins(ROOT)
        pins.create()
        made = Node(pins, None, 60.0, programs.load(pins))
        try:
            yield made
        finally:
            made.close()
            sniffer("cleanup", "--pin-root", ROOT)


def _swap(swapper: Node, seconds: float) -> tuple[int, int]:
    """Versions and mirrors changed."""
    rng = Random(5)
    versions = changed = 0
    former: list[int] = [0] * SLOTS
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        markers = rng.sample(MARKERS, SLOTS)
        plan = swapper.plan(_sources(markers), "n1")
        assert plan
        swapper.apply(plan)
        versions += 1
        changed += sum(one != other for one, other in zip(markers, former, strict=True))
        former = markers
    return versions, changed


def test_no_frame_is_decided_by_a_mixture_of_versions(swapper: Node) -> None:
    """A2: and a mirror that did not change, on the same hook, loses no frame."""
    ports = {"dst": "10.1.0.30", "port": 1000, "ports": len(MARKERS) + 2, "seconds": SECONDS + 2}
    _settle(swapper, _sources(list(MARKERS[:SLOTS])))
    with ExitStack() as open_:

        def tally(device: str, filter: str, incoming: bool = False) -> Tally:
            made = Tally(device, filter, incoming)
            open_.callback(made.close)
            return made

        expected = [tally("pod0", filter, incoming=True) for filter in UNCHANGED]
        wrong = tally("up0", WRONG)
        right = {name: tally("up0", f"{COPIES} and {what}") for name, what in (("udp", RIGHT_UDP), ("arp", RIGHT_ARP))}
        kept = [tally("up0", f"{COPIES} and {what}") for what in KEPT]
        loads = [open_.enter_context(Background(size=64, **ports)), open_.enter_context(Background(size=1472, **ports))]
        for marker in (3, 4):
            line = blast_command("raw", dev="eth0", hex=_arp(marker), seconds=SECONDS + 2, rate=5000)
            noise = start(*command("pod", *line))
            open_.callback(noise.kill)
        versions, changed = _swap(swapper, SECONDS)
        sent = sum(load.finish().packets for load in loads)
        _quiet(right["udp"], *kept)
        rows = {row["name"]: row for row in _status()["mirrors"]}
        print(f"{versions} versions, {changed} mirrors changed, {sent} frames, ", end="")
        print({name: one.count() for name, one in right.items()}, [one.count() for one in kept])
        assert not wrong.count(), "\n".join(wrong.some())
        assert versions >= 100
        assert changed >= 1_000
        assert right["udp"].count() > 10_000
        assert right["arp"].count() > 1_000
        for row in rows.values():
            assert row["matched"]["packets"] == row["sent"]["packets"] + sum(row["dropped"].values()), row
        for n in range(2):
            row = rows[f"m-z{n}"]
            assert row["matched"]["packets"] == expected[n].count() > 1_000
            assert row["sent"]["packets"] == kept[n].count() + sum(row["lost"].values())
        assert sum(rows["m-z0"]["dropped"].values()) == 0
        assert kept[0].count() == expected[0].count()


def _status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sniffer("status", "--json", "--pin-root", ROOT).stdout)
    return found


def _quiet(*tallies: Tally) -> None:
    before: list[int] = []

    def still() -> bool:
        now = [one.count() for one in tallies]
        same, before[:] = now == before, now
        return same

    wait_until(still, 20, every=0.3, what="copies stop")
