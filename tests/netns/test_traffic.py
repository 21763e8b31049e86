"""The load generator sends what it says."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packets import CORPUS
from tests.topology import Node, node
from tests.traffic import Background, blast, goodput
from tests.wire import Capture


@pytest.fixture(scope="module")
def bed() -> Iterator[Node]:
    with node() as made:
        yield made


@pytest.mark.parametrize("size", [0, 8, 64, 1400, 1472])
def test_udp_count_size_and_sequence(bed: Node, size: int) -> None:
    with Capture(bed.pod_device) as capture:
        sent = blast(dst=bed.peer_address, port=9, size=size, count=1000, sport=1234)
        frames = capture.wait(1000)
    assert (sent.packets, len(frames)) == (1000, 1000)
    assert sent.cpu_ns > 0
    assert sent.wall_ns > 0
    assert {len(frame) for frame in frames} == {14 + 28 + size}
    assert {struct.unpack(">HH", frame[34:38]) for frame in frames} == {(1234, 9)}
    if size >= 8:
        assert [struct.unpack(">Q", frame[42:50])[0] for frame in frames] == list(range(1000))


def test_gso_crosses_a_veth_as_a_super_packet(bed: Node) -> None:
    """C17: UDP GSO; the node sees one frame, as a hook does."""
    with Capture(bed.pod_device) as capture:
        assert blast(dst=bed.peer_address, size=14000, gso=1400, count=10).packets == 10
        assert [len(frame) for frame in capture.wait(10)] == [14042] * 10


def test_ports_are_used_in_turn(bed: Node) -> None:
    with Capture(bed.pod_device) as capture:
        blast(dst=bed.peer_address, port=100, ports=20, count=60)
        assert [struct.unpack(">H", frame[36:38])[0] for frame in capture.wait(60)] == [*range(100, 120)] * 3


def test_raw_sends_a_frame_as_it_is(bed: Node) -> None:
    frame = next(case.frame for case in CORPUS if case.name == "qinq")
    with Capture(bed.pod_device) as capture:
        blast("raw", dev="eth0", hex=frame.hex(), count=100)
        assert capture.wait(100) == [frame] * 100


def test_rate_is_kept(bed: Node) -> None:
    sent = blast(dst=bed.peer_address, seconds=0.5, rate=10_000, burst=10)
    assert 4000 < sent.packets < 6000


def test_background_ends_with_the_block(bed: Node) -> None:
    with Background(dst=bed.peer_address, count=5000, rate=50_000, burst=8) as load:
        assert load.finish().packets == 5000
    with Background(dst=bed.peer_address, seconds=3600, rate=100) as load:
        pass
    assert load.sent is None


def test_tcp_goodput(bed: Node) -> None:
    assert goodput(seconds=1) > 1e8


def test_runs_that_compile_at_once_all_get_a_program(tmp_path: Path) -> None:
    """Each in a process namespace of its own, as the runs of `make test` are: there, numbers of processes repeat."""
    script = "import pathlib, sys, tests.traffic as t; t.BUILD = pathlib.Path(sys.argv[1]); print(t.compiled('blast'))"
    line = ["unshare", "--pid", "--fork", sys.executable, "-c", script, str(tmp_path)]
    runs = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    programs = {run.communicate(timeout=60)[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0] * 4
    (program,) = programs
    assert os.access(program, os.X_OK)
    assert [path.name for path in tmp_path.iterdir()] == [Path(program).name]
