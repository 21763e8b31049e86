"""The image's target `trace`: BCC and its compiler, no kernel headers; what it says of copies that the kernel drops."""

import json
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sniffer.kernel.namespace import private_network
from tests.agent import Agent, mirror, target
from tests.pages import alone
from tests.topology import Node, node, run
from tests.traffic import blast

COUNT = 50
CAPABILITIES = ("bpf", "perfmon", "syslog")
"""What it needs; the last for the names of the kernel's functions."""


@pytest.fixture(scope="module")
def root(trace: Path) -> Iterator[Path]:
    """The image's files, on disk: they are too many for a run's own /tmp."""
    directory = Path(tempfile.mkdtemp(prefix="trace-", dir=trace.parent))
    try:
        with tarfile.open(trace) as archive:
            [image] = json.load(archive.extractfile("manifest.json") or pytest.fail("no manifest"))
            for layer in image["Layers"]:
                file = archive.extractfile(layer)
                subprocess.run(["tar", "--extract", "--directory", directory], input=file and file.read(), check=True)
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with a mirror, in a network of its own: a cluster may be running."""
    directory = tmp_path_factory.mktemp("agent")
    with private_network():
        run("ip", "link", "set", "lo", "up")
        with node() as made, Agent(directory) as agent:
            agent.write(
                target("ana", made.analyzer_address), mirror("all", [made.pod_device], ["ana"], filter="udp port 9")
            )
            agent.programmed()
            yield made


def start(root: Path, command: str = "sniffer trace --json --seconds 60") -> "subprocess.Popen[str]":
    """A command in the image, `sniffer trace`; it is watching when this returns."""
    mounts = f"mount --rbind /sys {root}/sys && mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev"
    bounds = ",".join(["-all", *(f"+{name}" for name in CAPABILITIES)])
    words = f"setpriv --bounding-set={bounds} --inh-caps=-all env PATH=/opt/sniffer/bin {command}"
    line = ["unshare", "--mount", "bash", "-c", f"{mounts} && exec chroot {root} {words}"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = process.stderr and process.stderr.readline()
    assert said == "watching for 60 s\n", said + (process.stderr.read() if process.stderr else "")
    return process


def stopped(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """By Ctrl-C."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert not err, err
    return process.returncode, out


def ended(process: "subprocess.Popen[str]") -> tuple[int, list[dict[str, Any]]]:
    status, out = stopped(process)
    return status, json.loads(out)


def line_of(loss: dict[str, Any]) -> str:
    """As people see it."""
    reason = loss["reason"] or "this kernel gives no reason"
    return f"{loss['packets']:8} {loss['device']:16} {loss['place']:32} {reason}\n"


def send(bed: Node) -> None:
    blast(netns=bed.peer, dst=bed.pod_address, port=9, size=100, rate=1000, count=COUNT)


def test_nothing_is_dropped(root: Path, bed: Node) -> None:
    tracing = start(root)
    send(bed)
    assert ended(tracing) == (0, [])


def test_a_queue_that_takes_nothing(root: Path, bed: Node) -> None:
    """Copies leave the programs and die in the uplink's queue discipline: how many, where and why."""
    run("tc", "qdisc", "replace", "dev", bed.uplink, "root", "pfifo", "limit", 0)
    try:
        tracing = start(root)
        told = start(root, alone("docs/how-to/lost-copies.md", "sniffer trace"))
        with private_network():
            elsewhere = start(root)
        send(bed)
        status, losses = ended(tracing)
        assert stopped(told) == (1, "".join(map(line_of, losses))), "the page's own command, for people"
        assert ended(elsewhere) == (0, []), "the losses of another node, on this very kernel"
    finally:
        run("tc", "qdisc", "delete", "dev", bed.uplink, "root")
    assert status == 1
    assert sum(one["packets"] for one in losses) == COUNT
    assert {one["device"] for one in losses} == {bed.uplink}
    assert {one["reason"] for one in losses} <= {"QDISC_DROP", "QDISC_OVERLIMIT", None}
    assert not any(one["place"].startswith("[unknown]") for one in losses)
