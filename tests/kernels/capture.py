"""The live capture on every kernel that we support: by links where there are any, else by filters with a watchdog.
tests/kernels/run runs it.
"""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from sniffer.kernel.tcx import has_tcx
from sniffer.pcap import frames
from tests import inventory
from tests.agent import SNIFFER
from tests.kernels.suite import FRAMES, PATIENCE_S
from tests.packets import payload
from tests.segments import send_offloaded, without_transport_checksum
from tests.topology import node, run, wait_until
from tests.wire import Capture, send

SUPER = bytes(
    Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
    / IP(src="10.1.0.2", dst="10.1.0.3", id=9)
    / TCP(seq=1, flags="PA")
    / payload(1200 * 40 + 7)
)


@pytest.fixture(scope="module", autouse=True)
def bed() -> Iterator[None]:
    with node():
        yield


def programs() -> int:
    """On the hooks of pod0; without TCX only tc is asked."""
    if has_tcx():
        return len(inventory.attached())
    listed = (run("tc", "filter", "show", "dev", "pod0", way) for way in ("ingress", "egress"))
    return sum(text.count("sniffer-capture") for text in listed)


def started(file: Path) -> subprocess.Popen[str]:
    """The command, once it says that it captures: its programs are on both hooks; without links, with its watchdog."""
    with file.open("wb") as output:
        line = [str(SNIFFER), "capture", "-i", "pod0"]
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    assert process.stderr.readline() == "sniffer: capturing interface pod0\n", process.communicate()
    assert programs() == 2
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == (0 if has_tcx() else 1)
    return process


def ended(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """What it says of itself, once nothing is on the hooks any more."""
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_S)
    wait_until(lambda: programs() == 0, every=1, what="nothing is attached")
    return said


def test_what_is_sent_is_what_is_captured(tmp_path: Path) -> None:
    """The corpus both ways, tags where they were, a super-packet as the one long frame that it is, and a ping."""
    capture = started(tmp_path / "all.pcapng")
    with Capture("pod0", outgoing=True) as wire:
        send(FRAMES)
        send(FRAMES[:40], "pod0", netns=None)
        send_offloaded([(SUPER, 1200)])
        run("ping", "-c", 3, "-i", 0.2, "10.1.0.30", netns="pod")
        seen = wire.settle(1)
    said = ended(capture, signal.SIGINT)
    assert capture.returncode == 0, said
    found = [frame.octets for frame in frames(tmp_path / "all.pcapng")]
    assert found == seen
    assert found[: len(FRAMES) + 41] == [*FRAMES, *FRAMES[:40], without_transport_checksum(SUPER)]
    assert [frame[34] for frame in found[len(FRAMES) + 41 :]] == [8, 0] * 3
    assert said == f"sniffer: {len(found)} frames, {sum(map(len, found))} bytes; ended: told to\n"


def test_nothing_of_a_dead_one_is_left(tmp_path: Path) -> None:
    """Killed it can take nothing away; its links end with it, its watchdog does the rest."""
    ended(started(tmp_path / "some.pcapng"), signal.SIGKILL)
