"""`sniffer capture`: every frame of an interface as it was, and nothing left of it however it ends."""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from sniffer import cli
from sniffer.kernel import tcx
from sniffer.pcap import frames as read
from tests import inventory
from tests.agent import SNIFFER, Agent, mirror, target
from tests.mirrored import agent_at
from tests.packets import CORPUS
from tests.topology import Node, node, run, wait_until
from tests.traffic import Background, goodput
from tests.wire import Capture as Wire
from tests.wire import send, write_pcap

FRAMES = [case.frame for case in CORPUS]
PROGRAMS = 2
"""Of a capture: one for each direction."""


@dataclass(frozen=True, slots=True)
class Packet:
    """What tshark reads of a packet block."""

    octets: bytes
    length: int
    when_s: float
    way: int


@pytest.fixture(scope="module")
def bed() -> Iterator[Node]:
    if not tcx.has_tcx():
        pytest.fail("this kernel has no TCX")
    with node() as made:
        yield made


class Running:
    """`sniffer capture -i pod0` into a file, attached."""

    def __init__(self, file: Path, *options: object, gone: int = 0, **streams: object) -> None:
        """gone: programs of others that it takes away."""
        self.file, self._gone = file, gone
        before = inventory.attached()
        words = [str(SNIFFER), "capture", "-i", "pod0", "--json", *map(str, options)]
        opened = {"stdin": subprocess.DEVNULL, "stdout": file.open("wb"), "stderr": subprocess.PIPE} | streams
        self.process = subprocess.Popen(words, **opened)  # type: ignore[call-overload]
        wait_until(self._attached_since(before), 20, every=0.1, what="attached")

    def _attached_since(self, before: set[tuple[str, str, int]]) -> Callable[[], bool]:
        def attached() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            now = inventory.attached()
            return len(now - before) == PROGRAMS and len(before - now) == self._gone

        return attached

    def end(self, number: int | None = signal.SIGINT, timeout: float = 20) -> dict[str, object]:
        """Its summary; `number`: of the signal, None where it ends by itself."""
        if number is not None:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=timeout)
        assert self.process.returncode in {0, 1}, said
        return json.loads(said.splitlines()[-1])


@pytest.fixture(autouse=True)
def nothing_stays(bed: Node) -> Iterator[None]:
    before = inventory.surfaces(qdiscs=False)  # an empty clsact may remain
    yield
    wait_until(lambda: inventory.surfaces(qdiscs=False) == before, 5, every=0.1, what="nothing of a capture is left")


def packets(file: Path) -> list[Packet]:
    """Facts by tshark, bytes by libpcap."""
    fields = ("frame.len", "frame.time_epoch", "frame.packet_flags_direction")
    words = [word for field in fields for word in ("-e", field)]
    rows = [line.split("\t") for line in run("tshark", "-r", file, "-T", "fields", *words).splitlines()]
    return [
        Packet(frame.octets, int(length), float(when), int(way, 0))
        for frame, (length, when, way) in zip(read(file), rows, strict=True)
    ]


def of_way(found: Sequence[Packet], way: int) -> list[bytes]:
    return [packet.octets for packet in found if packet.way == way]


def test_every_frame_as_it_was(bed: Node, tmp_path: Path) -> None:
    """Both directions, tags put back where they were on the wire, order and times kept."""
    began = time.time()
    capture = Running(tmp_path / "all.pcapng")
    with Wire("pod0", None, outgoing=True) as wire:
        send(FRAMES)
        send(FRAMES[:40], "pod0", netns=None)
        wire.settle()
    summary = capture.end()
    found = packets(capture.file)
    assert of_way(found, 1) == [frame.octets for frame in wire.frames if not frame.outgoing] == FRAMES
    assert of_way(found, 2) == [frame.octets for frame in wire.frames if frame.outgoing] == FRAMES[:40]
    times = [packet.when_s for packet in found]
    assert times == sorted(times)
    assert began < times[0] < times[-1] < time.time()
    assert (summary["frames"], summary["lost"]) == (len(FRAMES) + 40, 0)
    facts = run("capinfos", "-M", capture.file)
    assert "Number of interfaces in file: 1" in facts
    assert "Number of stat entries = 1" in facts


def test_super_packets_as_they_are(bed: Node, tmp_path: Path) -> None:
    """One that the sender left to hardware is one frame, longer than any wire would carry."""
    capture = Running(tmp_path / "super.pcapng", "--snap-length", 200)
    goodput(seconds=1)
    summary = capture.end()
    found = list(read(capture.file))
    assert max(frame.wire_length for frame in found) > 20_000
    assert all(len(frame.octets) == min(frame.wire_length, 200) for frame in found)
    assert len(found) == summary["frames"]


def test_filter_snap_length_and_count(bed: Node, tmp_path: Path) -> None:
    """What tcpdump would keep, so many bytes of each, so many frames; then it ends by itself."""
    options = ("--filter", "vlan or udp", "--snap-length", 60, "--count", 7)
    capture = Running(tmp_path / "few.pcapng", *options)
    send(FRAMES)
    assert capture.end(None)["ended"] == "7 frames"
    write_pcap(tmp_path / "sent.pcap", FRAMES)
    run("tcpdump", "-r", tmp_path / "sent.pcap", "-w", tmp_path / "wanted.pcap", "vlan or udp")
    wanted = [frame.octets for frame in read(tmp_path / "wanted.pcap")][:7]
    found = packets(capture.file)
    assert [packet.octets for packet in found] == [octets[:60] for octets in wanted]
    assert [packet.length for packet in found] == [len(octets) for octets in wanted]


def test_a_reader_too_slow_is_told(bed: Node, tmp_path: Path) -> None:
    """What finds no room is counted: in the summary, the exit status and the file."""
    reading, writing = os.pipe()
    capture = Running(tmp_path / "none", stdout=writing)
    os.close(writing)
    with Background("pod", dst="10.1.0.30", port=9, size=1400, rate=20_000, seconds=60):
        time.sleep(1.5)
    capture.process.send_signal(signal.SIGINT)
    with os.fdopen(reading, "rb") as pipe, capture.file.open("wb") as file:
        while block := pipe.read(1 << 16):
            file.write(block)
    summary = capture.end(None)
    assert capture.process.returncode == 1
    assert summary["lost"] > 1000  # type: ignore[operator]
    assert len(list(read(capture.file))) == summary["frames"]
    assert counts(capture.file) == (summary["frames"] + summary["lost"], summary["lost"])  # type: ignore[operator]


def counts(file: Path) -> tuple[int, int]:
    """isb_ifrecv and isb_ifdrop of the last block, as the draft lays them out: capinfos does not show them."""
    content = file.read_bytes()
    (length,) = struct.unpack("<I", content[-4:])
    block = content[-length:]
    assert struct.unpack_from("<I", block) == (5,)
    found, at = {}, 20
    while True:
        code, size = struct.unpack_from("<HH", block, at)
        if not code:
            return found[4], found[5]
        if size == 8:
            found[code] = int.from_bytes(block[at + 4 : at + 12], "little")
        at += 4 + (size + 3 & ~3)


@pytest.mark.parametrize("how", ["killed", "no reader", "input ended", "silence", "time"])
def test_it_ends_with_whoever_wanted_it(bed: Node, tmp_path: Path, how: str) -> None:
    """Within seconds, links and programs included (`nothing_stays`)."""
    options = {"silence": ("--keepalive", 1), "input ended": ("--keepalive", 60), "time": ("--duration", 0.5)}
    reading, writing = os.pipe()
    capture = Running(tmp_path / "none", *options.get(how, ()), stdin=subprocess.PIPE, stdout=writing)
    os.close(writing)
    began = time.monotonic()
    if how == "killed":
        capture.process.kill()
    elif how == "no reader":
        os.close(reading)
    elif how == "input ended":
        assert capture.process.stdin
        capture.process.stdin.close()
        capture.process.stdin = None
    capture.process.wait(10)
    assert time.monotonic() - began < 5
    wait_until(lambda: not inventory.attached(), 2, every=0.1, what="nothing is attached")
    assert capture.process.returncode == (-signal.SIGKILL if how == "killed" else 0)
    with contextlib.suppress(OSError):
        os.close(reading)


def test_an_interface_that_goes_away(bed: Node, tmp_path: Path) -> None:
    run("ip", "link", "add", "gone0", "type", "veth", "peer", "gone1")
    words = [SNIFFER, "capture", "-i", "gone0", "--json"]
    with (tmp_path / "gone.pcapng").open("wb") as file:
        capture = subprocess.Popen(words, stdout=file, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        wait_until(lambda: len(inventory.attached()) == PROGRAMS, 20, every=0.1)
        run("ip", "link", "del", "gone0")
        _, said = capture.communicate(timeout=5)
    assert json.loads(said)["ended"] == "the interface is gone"


def test_the_agent_is_not_disturbed(bed: Node, tmp_path: Path) -> None:
    """Ours runs behind the tap, whoever came first: nothing is ahead, nothing is bypassed, copies are as before."""
    with agent_at(tmp_path / "agent") as agent:
        before = Running(tmp_path / "before.pcapng")
        agent.write(target(), mirror())
        agent.wait(lambda status: [hook["state"] for hook in status["hooks"]] == ["attached", "attached"])
        after = Running(tmp_path / "after.pcapng")
        status = agent.status()
        assert [hook["ahead"] for hook in status["hooks"]] == [[], []]
        assert {hook["state"] for hook in status["hooks"]} == {"attached"}
        for direction in tcx.Direction:
            chain = tcx.query_tcx(inventory.ifindex("pod0"), direction)
            assert len(chain) == 3
            assert chain[0] in {row[1] for row in inventory.programs().values()}
        send(FRAMES)
        for capture in (before, after):
            capture.end()
            assert of_way(packets(capture.file), 1) == FRAMES
        matched = agent.wait(lambda status: status if status["mirrors"][0]["matched"]["packets"] >= len(FRAMES) else {})
        assert matched["mirrors"][0]["matched"]["packets"] == len(FRAMES)
        _end(agent)


def _end(agent: Agent) -> None:
    agent.stop()
    run(SNIFFER, "cleanup")


CLSACT = ("--attachment", "clsact")


def test_clsact_sees_the_same(bed: Node, tmp_path: Path) -> None:
    """H5: as kernels without TCX have it, beside an agent that has it too: nothing is ahead of the tap in its words."""
    with agent_at(tmp_path / "agent", *CLSACT) as agent:
        agent.write(target(), mirror())
        agent.wait(lambda status: [hook["state"] for hook in status["hooks"]] == ["attached", "attached"])
        capture = Running(tmp_path / "all.pcapng", *CLSACT)
        send(FRAMES)
        status = agent.wait(lambda told: told if told["mirrors"][0]["matched"]["packets"] >= len(FRAMES) else {})
        assert [(hook["state"], hook["ahead"]) for hook in status["hooks"]] == [("attached", [])] * 2
        assert status["mirrors"][0]["matched"]["packets"] == len(FRAMES)
        capture.end()
        assert of_way(packets(capture.file), 1) == FRAMES
        _end(agent)


@pytest.mark.parametrize("victim", ["capture", "watchdog"])
def test_the_watchdog_and_its_master(bed: Node, tmp_path: Path, victim: str) -> None:
    """Whichever is killed, the other takes the filters away (`nothing_stays`)."""
    capture = Running(tmp_path / "none", *CLSACT)
    watchdog = int(run("pgrep", "-P", capture.process.pid))
    os.kill(capture.process.pid if victim == "capture" else watchdog, signal.SIGKILL)
    if victim == "watchdog":
        assert capture.end(None, 5)["ended"] == "its watchdog is dead"
    capture.process.wait(10)
    wait_until(lambda: not inventory.attached(), 3, every=0.1, what="nothing is attached")
    wait_until(lambda: not Path(f"/proc/{watchdog}/cmdline").is_file() or not cmdline(watchdog), 3)


def cmdline(pid: int) -> bytes:
    """Of a process; of a dead one that nobody has waited for there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.mark.parametrize("who", ["capture", "cleanup"])
def test_what_two_dead_ones_leave_is_swept(bed: Node, tmp_path: Path, who: str) -> None:
    """A container that is killed takes both: the filters stay, until somebody of ours comes by; the living are left."""
    living = Running(tmp_path / "living.pcapng", *CLSACT)
    dead = Running(tmp_path / "dead.pcapng", *CLSACT)
    watchdog = int(run("pgrep", "-P", dead.process.pid))
    for pid in (dead.process.pid, watchdog):  # stopped first: neither sees the other's end
        os.kill(pid, signal.SIGSTOP)
    for pid in (watchdog, dead.process.pid):
        os.kill(pid, signal.SIGKILL)
    dead.process.wait(5)
    assert len(inventory.attached()) == 2 * PROGRAMS
    if who == "capture":
        Running(tmp_path / "next.pcapng", *CLSACT, gone=PROGRAMS).end()
    else:
        assert "dead capture on ifindex" in run(SNIFFER, "cleanup")
    assert len(inventory.attached()) == PROGRAMS
    send(FRAMES[:5])
    assert living.end()["frames"] == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "given neither of POD and --interface"),
        (("-i", "nosuch"), 'given "nosuch", allowed an Ethernet interface of this node: '),
        (
            ("-i", "pod0", "--filter", "tcp prot 80"),
            '--filter: given "tcp prot 80", allowed a filter that compiles: "prot" is no word',
        ),
        (("-i", "pod0", "--snap-length", "13"), "--snap-length: given 13, allowed 14 to 262144"),
        (("-i", "pod0", "--count", "0"), "--count: given 0"),
        (("-i", "pod0", "--duration", "nan"), "--duration: given nan"),
    ],
)
def test_wrong_words(
    bed: Node, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sniffer", "capture", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    told = capfd.readouterr()
    assert said in told.err
    assert not told.out
