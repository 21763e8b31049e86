"""The live capture on every kernel that we support: by links where there are any, else by filters with a watchdog."""

import json
import signal
import subprocess
from pathlib import Path

from sniffer.kernel.tcx import has_tcx
from sniffer.pcap import frames
from tests import inventory
from tests.agent import SNIFFER
from tests.packets import CORPUS
from tests.topology import node, run, wait_until
from tests.wire import send

FRAMES = [case.frame for case in CORPUS]
PATIENCE_S = 240.0


def test_every_frame_and_nothing_left(tmp_path: Path) -> None:
    """The corpus as it was; then kill -9, and the hooks are empty."""
    file = tmp_path / "all.pcapng"
    with node():
        for number in (signal.SIGINT, signal.SIGKILL):
            with file.open("wb") as output:
                line = [SNIFFER, "capture", "-i", "pod0", "--json"]
                capture = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE)
                wait_until(lambda: attached() == 2, PATIENCE_S, every=0.5, what="attached")
                assert (len(run("pgrep", "-P", capture.pid, check=False).split()) == 0) is has_tcx()
                send(FRAMES)
                capture.send_signal(number)
                _, said = capture.communicate(timeout=PATIENCE_S)
            wait_until(lambda: attached() == 0, PATIENCE_S, every=0.5, what="nothing is attached")
            if number == signal.SIGINT:
                assert json.loads(said)["lost"] == 0, said
                assert [frame.octets for frame in frames(file)] == FRAMES


def attached() -> int:
    """Programs on devices; without TCX only tc is asked."""
    if has_tcx():
        return len(inventory.attached())
    listed = (run("tc", "filter", "show", "dev", "pod0", way) for way in ("ingress", "egress"))
    return sum("sniffer-capture" in text for text in listed)
