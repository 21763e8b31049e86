"""The arithmetic behind the bench's table, on figures whose answers are plain."""

import pytest

from bench.lanes import Row
from bench.rows import FOUNDATION, HOSTS, ORDINARY, OURS, SUPER, TWENTY
from bench.table import Aim, added, aims, as_json, as_markdown, best, noise
from sniffer import pcap
from tests.packets import CORPUS

NANOSECONDS = {
    "none": 600,
    "empty": 620,
    "floor": 800,
    "rival": 1000,
    "vxlan": 940,
    "gre": 970,
    "ordinary": 680,
    "twenty": 830,
}
RUNS = {name: {64: [value + 9.0, value, value + 3.0], 1400: [value + 100.0] * 3} for name, value in NANOSECONDS.items()}
ROWS = [Row(name, name) for name in NANOSECONDS]
GOODPUT = {"bare": [10e9, 12e9, 11e9], "vxlan": [10.9e9, 10.8e9, 1e9]}


def test_the_best_run_counts_and_others_are_noise() -> None:
    assert best(RUNS, "vxlan", 64) == 940
    assert added(RUNS, "vxlan", 64) == 340
    assert added(RUNS, "vxlan", 64, "empty") == 320
    assert noise(RUNS, 64) == 3


def test_aims() -> None:
    found = {aim.name: aim for aim in aims(RUNS, GOODPUT)}
    assert found["vxlan / rival, 64 B"].value == pytest.approx(0.85)
    assert found["vxlan / rival, 64 B"].reached
    assert found["gre / rival, 1400 B"].value == pytest.approx(0.925)
    assert not found["gre / rival, 1400 B"].reached
    assert found["ordinary - empty, 64 B, ns"].reached
    assert not found["twenty - empty, 64 B, ns"].reached
    assert found["TCP goodput, mirrored / bare"].value == pytest.approx(10.8 / 11)
    assert found["TCP goodput, mirrored / bare"].reached
    assert not Aim("x", 0.5, least=0.97).reached


def test_the_table_and_the_file_have_every_row() -> None:
    text, content = as_markdown(ROWS, RUNS, GOODPUT, "queue"), as_json(ROWS, RUNS, GOODPUT, "queue")
    assert all(f"| {row.label} |" in text for row in ROWS)
    assert "| gre / rival, 64 B | 0.925 | <= 0.9 | NO |" in text
    assert [row["name"] for row in content["rows"]] == list(NANOSECONDS)  # type: ignore[attr-defined]


def test_super_packets() -> None:
    supers = {"none": [5000.0, 5400.0], "rival": [9000.0, 9100.0], "vxlan": [8000.0]}
    text, content = as_markdown(ROWS, RUNS, {}, "queue", supers), as_json(ROWS, RUNS, {}, "queue", supers)
    assert "| vxlan | 8000 | +3000 | +300 | 0.75 |" in text
    assert content["udp_super_packets"]["best_ns"] == {"none": 5000, "rival": 9000, "vxlan": 8000}  # type: ignore[index]
    assert "UDP GSO" not in as_markdown(ROWS, RUNS, {}, "queue")
    assert set(SUPER) <= {row.name for row in FOUNDATION + OURS}


def test_rows_are_unique_and_their_filters_run_to_the_end() -> None:
    """A filter that gave up at the first instruction would cost nothing and say nothing."""
    names = [row.name for row in FOUNDATION + OURS]
    assert len(set(names)) == len(names)
    frame = next(case.frame for case in CORPUS if case.name == "udp-odd")
    frame = frame[:34] + bytes.fromhex("9c40270f") + frame[38:]  # 40000 to 9999, as the bench sends
    for text, least in ((ORDINARY, 8), (HOSTS, 8), (TWENTY, 40)):
        assert not pcap.matches(pcap.compile(text), frame)
        assert executed(text, frame) >= least, text


def executed(text: str, frame: bytes) -> int:
    """How many instructions a filter runs on a frame: of jumps and plain loads only, which is all that these have."""
    program, accumulator, index, at, count = pcap.compile(text), 0, 0, 0, 0
    while program[at].code != 0x06:
        step, count, at = program[at], count + 1, at + 1
        sizes = {0x20: 4, 0x28: 2, 0x30: 1, 0x40: 4, 0x48: 2, 0x50: 1}
        if step.code in sizes:
            place = step.k + (index if step.code & 0xE0 == 0x40 else 0)
            accumulator = int.from_bytes(frame[place : place + sizes[step.code]])
        elif step.code == 0xB1:
            index = (frame[step.k] & 15) * 4
        elif step.code == 0x54:
            accumulator &= step.k
        else:
            tests = {0x15: accumulator == step.k, 0x25: accumulator > step.k, 0x35: accumulator >= step.k}
            taken = bool(accumulator & step.k) if step.code == 0x45 else tests[step.code]
            at += step.jt if taken else step.jf
    return count + 1
