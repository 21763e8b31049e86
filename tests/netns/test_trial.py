"""The tap tried in private: it decides as libpcap does, and leaves the machine alone."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from sniffer.abi.limits import CODE_RULE, LIST_LENGTH, Action
from sniffer.abi.records import Instruction, Program
from sniffer.errors import KernelError
from sniffer.kernel.trial import Trial
from sniffer.pcap import compile, matches
from sniffer.plan.rules import program
from tests.packets import CORPUS

FILTERS = (
    *("tcp", "udp port 53", "arp", "vlan", "vlan 5", "ip6", "len > 1000", "greater 1400", "mpls", "icmp", "not ip"),
    *("ether[0] & 1 = 1", "net 10.0.0.0/8", "tcp[tcpflags] & tcp-syn != 0", "ip[6:2] & 0x1fff != 0", "len < 60"),
)


def linked(*texts: str) -> list[Program]:
    return [program(text, None) for text in texts]


def agreed(frame: bytes, texts: Iterable[str]) -> tuple[bool, ...]:
    return tuple(matches(compile(text), frame) for text in texts)


def returning(value: int) -> Program:
    return Instruction(CODE_RULE, Action.MIRROR, 0, 0), Instruction(6, 0, 0, value)


def traces() -> str:
    lines = (["ip", "-d", "link"], ["tc", "qdisc"], ["ip", "netns"], ["find", "/sys/fs/bpf"])
    return "".join(subprocess.run(line, capture_output=True, text=True, check=True).stdout for line in lines)


def test_every_frame_of_the_corpus_is_decided_as_libpcap_does() -> None:
    assert len(FILTERS) == LIST_LENGTH
    seen = [0] * len(FILTERS)
    with Trial(linked(*FILTERS)) as trial:
        for case in CORPUS:
            decisions = trial.decide(case.frame)
            assert decisions == agreed(case.frame, FILTERS), case.name
            seen = [count + decision for count, decision in zip(seen, decisions, strict=True)]
    assert all(seen), "a filter that takes nothing proves little"


@pytest.mark.parametrize("length", [14, 15, 33, 3_700, 3_900, 9_000, 65_535, 65_549])
@pytest.mark.parametrize("kind", ["0800", "86dd", "0806", "88cc"])
def test_lengths_that_test_run_refuses_go_another_way(length: int, kind: str) -> None:
    frame = bytes.fromhex("020000000001020000000002" + kind).ljust(length, b"\x45")
    texts = ("ip", "arp", f"len = {length}", f"ether[{length - 1}] >= 0", f"ether[{length}] >= 0")
    with Trial(linked(*texts)) as trial:
        assert trial.decide(frame) == (kind == "0800", kind == "0806", True, True, False)
        assert trial.decide(frame) == agreed(frame, texts)


def test_no_program_takes_everything_and_programs_are_replaced() -> None:
    small, large = CORPUS[0].frame, bytes(9000)
    refuses, accepts = returning(0), returning(1)
    with Trial() as trial:
        assert trial.decide(small) == ()
        for programs, wanted in [([(), refuses], (True, False)), ([refuses, (), accepts], (False, True, True))]:
            trial.use(programs)
            assert trial.decide(small) == trial.decide(large) == wanted
        trial.use([refuses])
        assert trial.decide(small) == trial.decide(large) == (False,)


def test_what_no_ethernet_carries_is_an_error() -> None:
    with Trial([()]) as trial:
        for length in (0, 13, 65_550):
            with pytest.raises(KernelError, match=f"a frame of {length} bytes"):
                trial.decide(bytes(length))
        assert trial.decide(bytes(14)) == (True,)


def descriptors() -> list[str]:
    """What this process has open of BPF and of namespaces."""
    names = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return sorted(name for name in names if "bpf" in name or "net:" in name)


def test_the_machine_stays_as_it_is() -> None:
    before, namespace = traces(), Path("/proc/thread-self/ns/net").readlink()
    held = descriptors()
    with Trial([()]) as trial:
        assert trial.decide(bytes(9000)) == (True,)
        assert Path("/proc/thread-self/ns/net").readlink() == namespace
        links = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
        assert "sniffer" not in links
    assert descriptors() == held
    assert traces() == before


def test_measuring_is_no_decision() -> None:
    with Trial([(), *linked("tcp")]) as trial:
        frame = next(case.frame for case in CORPUS if matches(compile("tcp"), case.frame))
        assert 0 < trial.nanoseconds(frame) < 100_000
        assert trial.decide(bytes(60)) == (True, False)
