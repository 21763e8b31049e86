"""The machine that the demo plays on: namespaces, the traffic, the witnesses, tshark, and a saboteur.

peer (client) ── peer0 ┐
                       ├ bridge of the node;  the node ── up0 ── eth0 of ana (analyzer)
pod (server) ──── pod0 ┘
                    └ what is mirrored
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from xml.etree import ElementTree as ET

from tests.topology import Node, node, offloads, run, start, wait_until
from tests.wire import Capture, socket_in, write_pcap

ROOT = Path(__file__).resolve().parent.parent
INNER = {"vxlan": 62, "gre": 54}
"""Where the ethertype of the inner frame lies in an outer one: Ethernet, IPv4, then UDP and VXLAN, or GRE with key."""


@contextlib.contextmanager
def stage() -> Iterator[Node]:
    """The topology, with checksums filled in by the senders, and an analyzer that takes what comes."""
    with node("bridge") as this, contextlib.ExitStack() as stack:
        # Virtual links fill in no checksum and cut no super-packet. Left to them, the frame that the pod sees and the
        # one on a real wire would differ, with or without a mirror; here every frame is what a wire would carry.
        for netns, device in ((this.pod, "eth0"), (this.peer, "eth0"), (None, "pod0"), (None, "peer0")):
            offloads(device, on=False, netns=netns)
        for netns in (this.pod, this.peer):
            run("ip", "neighbour", "flush", "dev", "eth0", "nud", "permanent", netns=netns)
        # Someone listens, so that the analyzer's kernel does not answer copies with ICMP.
        vxlan = stack.enter_context(socket_in(this.analyzer, socket.AF_INET, socket.SOCK_DGRAM))
        vxlan.bind((this.analyzer_address, 4789))
        stack.enter_context(socket_in(this.analyzer, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE))
        stack.enter_context(_server(this))
        yield this


@contextlib.contextmanager
def _server(this: Node) -> Iterator[None]:
    words = (sys.executable, "-m", "demo.traffic", "serve")
    with start(*words, netns=this.pod, stdout=subprocess.PIPE, stderr=None, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n", "the server of the demo did not start"
            yield
        finally:
            process.terminate()


class Client:
    """The client's rounds of requests, between `with` and its end; `result` afterwards: {asked, answered} by kind."""

    def __init__(self, this: Node) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": None, "cwd": ROOT}
        self._process = start(sys.executable, "-m", "demo.traffic", "ask", netns=this.peer, **pipes)
        self.result: dict[str, dict[str, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            out, _err = self._process.communicate(timeout=60)  # its standard input ends
            self.result = json.loads(out)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise


@dataclass(frozen=True, slots=True)
class Witnesses:
    """Two captures that lose nothing: inside the pod, and what arrives at the analyzer."""

    pod: Capture
    analyzer: Capture

    def settle(self) -> None:
        """Waits until nothing is on its way."""
        self.pod.settle(0.3)
        self.analyzer.settle(0.3)


@contextlib.contextmanager
def witnesses(this: Node) -> Iterator[Witnesses]:
    """Captures until the end of `with`. They check no checksum and share nothing with the agent."""
    with Capture("eth0", this.analyzer) as analyzer, Capture("eth0", this.pod, outgoing=True) as pod:
        yield Witnesses(pod, analyzer)


@dataclass(frozen=True, slots=True)
class Line:
    """One frame as tshark sums it up; addresses and protocol are those of the innermost packet."""

    number: int
    source: str
    destination: str
    protocol: str
    words: str


def tell(frames: Iterable[bytes], netns: str | None = None) -> list[Line]:
    """What tshark says of frames, one line each, in order; `number` from 0."""
    columns = '"number","%m","source","%s","destination","%d","protocol","%p","words","%i"'
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "frames.pcap")
        write_pcap(path, frames)
        enter = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
        options = ("-n", "-T", "psml", "-d", "udp.port==4789,vxlan", "-o", f"gui.column.format:{columns}")
        line = [*enter, "tshark", "-r", str(path), *options]
        environment = os.environ | {"HOME": directory, "LC_ALL": "C.UTF-8"}
        done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
    rows = ([section.text or "" for section in packet] for packet in ET.fromstring(done.stdout).iter("packet"))
    return [Line(int(number) - 1, *words) for number, *words in rows]


def in_force(manifests: Path, sniffer: Path) -> None:
    """Waits until `sniffer plan` finds nothing left to do: the kernel's maps are what the manifests say."""
    line = [str(sniffer), "plan", "--manifests", str(manifests)]
    wait_until(lambda: subprocess.run(line, capture_output=True, check=False).returncode == 0, 60, what=" ".join(line))


def sabotage(this: Node, kind: str) -> None:
    """Loses every copy of one kind behind the agent's back: a classic BPF filter on the uplink that drops."""
    tunnels = {"udp port 4789": INNER["vxlan"], "ip proto 47": INNER["gre"]}
    copies = " or ".join(_copy_of(kind, tunnel, ethertype) for tunnel, ethertype in tunnels.items())
    program = run("tcpdump", "-y", "EN10MB", "-s", "262144", "-ddd", copies)
    # What libpcap accepts (returns its snap length), TC shall drop: 2 is TC_ACT_SHOT.
    bytecode = re.sub(r"^6 0 0 262144$", "6 0 0 2", program, flags=re.MULTILINE).strip().replace("\n", ",")
    run("tc", "qdisc", "replace", "dev", this.uplink, "clsact")
    words = ("protocol", "all", "prio", "100", "bpf", "direct-action", "bytecode", bytecode)
    run("tc", "filter", "add", "dev", this.uplink, "egress", *words)


def _copy_of(kind: str, tunnel: str, ethertype: int) -> str:
    """A filter of outer frames; of a copy in fragments it finds the first, and the rest is lost with it."""
    if kind == "ARP":
        return f"({tunnel} and ether[{ethertype}:2] = 0x0806)"
    protocol = {"ICMP": 1, "HTTP": 6, "DNS": 17}[kind]
    return f"({tunnel} and ether[{ethertype}:2] = 0x0800 and ether[{ethertype + 11}] = {protocol})"


def status(sniffer: Path) -> dict[str, Any]:
    """`sniffer status --json`."""
    done = subprocess.run([str(sniffer), "status", "--json"], capture_output=True, text=True, check=False)
    rows: dict[str, Any] = json.loads(done.stdout)
    return rows
