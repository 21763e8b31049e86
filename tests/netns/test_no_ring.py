"""A kernel that has no `xdp.frags` programs (before 5.18): the relay works without its ring."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sniffer.abi.limits import FLIGHT_LIMIT
from sniffer.kernel import bpf, programs
from sniffer.kernel.pins import PROGRAMS, RING, Pins
from sniffer.kernel.programs import OBJECT_VARIABLE
from tests.agent import Agent, Status, mirror, sniffer, target
from tests.mirrored import agent_at, difference
from tests.packets import CORPUS
from tests.receivers import inner_frames
from tests.ringless import ringless_object
from tests.topology import node, run
from tests.wire import Capture, send

FLIGHT_OVER_S = 0.1  # bpf/flight.h


@pytest.fixture
def ringless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the object is one whose ring is refused."""
    monkeypatch.setenv(OBJECT_VARIABLE, str(ringless_object(tmp_path)))


@pytest.fixture
def agent(ringless: None, tmp_path: Path) -> Iterator[Agent]:
    with node(), agent_at(tmp_path / "agent") as found:
        yield found


@pytest.mark.usefixtures("ringless")
def test_the_others_are_loaded_and_taken_over(tmp_path: Path) -> None:
    pins = Pins(Path("/sys/fs/bpf/ringless"))
    pins.create()
    first = programs.load(pins)
    assert set(first) == set(PROGRAMS) - {RING}
    ids = programs.pinned_ids(pins)
    assert set(ids) == set(first)
    assert all(number > 0 for number in ids.values())
    assert programs.load(pins).keys() == first.keys()
    assert programs.pinned_ids(pins) == ids
    pins.remove()


def no_memory(row: Status) -> int:
    return int(row["dropped"]["no_memory"] + row["lost"]["no_memory"])


def test_the_corpus_arrives_whole(agent: Agent) -> None:
    agent.write(target(), mirror(direction="Ingress"))
    agent.programmed()
    (receiver,) = json.loads(run("ip", "-j", "-d", "link", "show", "sniffer-rx"))
    assert "xdp" not in receiver
    frames = [case.frame for case in CORPUS]
    for _ in range(5):
        before = agent.mirror()
        with Capture("eth0", "ana") as analyzer:
            send(frames, pause=0.002)
            outer = analyzer.settle()
        missing, more = difference(frames, inner_frames(outer))
        lost = no_memory(agent.mirror()) - no_memory(before)
        assert (len(missing), more) == (min(lost, len(missing)), [])
        if not lost:  # whoever else is busy on this machine shares its backlog
            break
    assert missing == []
    assert sniffer("plan", "--manifests", agent.manifests, "--pin-root", agent.pin_root).returncode == 0


@pytest.mark.usefixtures("ringless")
def test_the_doctor_says_so() -> None:
    rows = json.loads(sniffer("doctor", "--json", check=False).stdout)
    (row,) = (row for row in rows if row["check"] == "programs")
    assert row["result"] == "warn"
    assert "4 of 5" in row["text"]


def fly(agent: Agent, frames: int) -> None:
    """Has every CPU believe that so many frames of the slow path are in the relay, and the last moved just now."""
    flights = bpf.open_pinned(Pins(agent.pin_root).maps / "flights")
    flights.update(bytes(4), struct.pack("=QQ", frames, bpf.monotonic_ns()) * bpf.possible_cpus())
    flights.close()


def test_what_is_in_the_relay_at_once_is_bounded(agent: Agent) -> None:
    """A relay that is full drops copies, counted, and recovers by itself."""
    agent.write(target(), mirror(direction="Ingress"))
    agent.programmed()
    (arp,) = (case.frame for case in CORPUS if case.name == "arp-request")
    with Capture("eth0", "ana") as analyzer:
        fly(agent, FLIGHT_LIMIT - 1)
        send([arp])  # the last one that fits
        assert [frame[-len(arp) :] for frame in analyzer.wait(1)] == [arp]
        for _ in range(20):
            before, began = agent.mirror(), time.monotonic()
            fly(agent, FLIGHT_LIMIT)
            send([arp] * 3)
            after, in_time = agent.mirror(), time.monotonic() - began < FLIGHT_OVER_S
            if in_time:  # else what was on its way may be given up already
                break
        assert in_time
        assert after["matched"]["packets"] - before["matched"]["packets"] == 3
        assert after["sent"]["packets"] == before["sent"]["packets"]
        assert after["dropped"]["no_memory"] - before["dropped"]["no_memory"] == 3
        time.sleep(FLIGHT_OVER_S)  # none has landed: what was thought to be on its way is lost
        arrived = len(analyzer.settle())
        send([arp])
        assert len(analyzer.wait(arrived + 1)) == arrived + 1
