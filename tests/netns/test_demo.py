"""`make demo` as people run it: it passes, and it fails when it should. Half a minute each, two of them at once."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.inventory import ROOT, devices
from tests.pages import alone
from tests.topology import run, wait_until

CHECKOUT = Path(__file__).parents[2]
GARBLE = CHECKOUT / "build/tests/bpf/garble.bpf.o"
DEMO = (sys.executable, "-m", "demo")
KINDS = {"HTTP", "DNS", "ICMP", "ARP"}


@contextmanager
def typed(line: str) -> Iterator["subprocess.Popen[str]"]:
    """A line of the README, in a checkout; it makes namespaces of its own."""
    asked = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "TESTS"))}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(["bash", "-c", line], cwd=CHECKOUT, env=asked, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def shown(words: str) -> list[dict[str, list[int]]]:
    """The tables of the acts as people see them: of each kind of frame, and of all, the numbers of its row."""
    tables: list[dict[str, list[int]]] = []
    for row in re.finditer(r"^ +(HTTP|DNS|ICMP|ARP|all)((?: +\d+)+) *$", words, re.MULTILINE):
        if row[1] == "HTTP":
            tables.append({})
        tables[-1][row[1]] = [int(number) for number in row[2].split()]
    return tables


def test_every_frame_arrives_and_edits_take_hold() -> None:
    """Twice at once: to people, by `make demo` in namespaces of its own, and as JSON, in those of this test."""
    before = devices()
    with typed(alone("README.md", "make demo")) as made:
        line = alone("README.md", "scripts/isolated .venv/bin/python -m demo --json").split()
        done = subprocess.run(line[1:], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=200)
        out, err = made.communicate(timeout=200)
    assert made.returncode == 0, out + err
    for words, columns in zip(shown(out), (2, 3, 6), strict=True):
        assert words.keys() == KINDS | {"all"}
        for *numbers, dropped in words.values():
            assert (len(numbers), dropped) == (columns, 0)
            assert min(numbers[: columns - 1]) > (3 if columns < 6 else -1)
    assert re.search(r"Passed in \d+ s: \d{4,} frames arrived at the analyzer, all of them as they were", out)
    assert "sniffer status" in out
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["passed"]
    vxlan, gre, filtered = told["acts"]
    for act in told["acts"]:
        assert set(act["kinds"]) >= KINDS
        assert act["counters"]["dropped"] == act["counters"]["lost"] == 0
        assert act["counters"]["matched"] == total(act, "mirrored") > 100
        for kind in KINDS:
            assert act["kinds"][kind]["sent"] > 10, kind
            assert act["kinds"][kind]["dropped"] == 0, kind
    assert total(vxlan, "mirrored") == total(vxlan, "sent")
    assert vxlan["counters"]["wire"] > vxlan["counters"]["sent"]  # full frames, in two fragments each
    assert total(gre, "mirrored") == total(gre, "sent")
    for kind in KINDS:
        row = filtered["kinds"][kind]
        assert min(gre["kinds"][kind]["vxlan"], gre["kinds"][kind]["gre"]) > 5
        assert row["before_mirrored"] == row["before_sent"] > 5
        assert row["after_mirrored"] == (row["after_sent"] if kind == "HTTP" else 0)
        assert row["after_sent"] > 5
    # Said once by people, too: a step for each act, and what comes next.
    for words in ("1. Everything, over VXLAN", "2. From VXLAN to GRE", "3. A filter", "Passed in"):
        assert words in done.stderr
        assert words in out
    assert "\x1b[" not in done.stderr + out  # no terminal, no colours
    assert devices() == before
    assert not ROOT.exists() or not any(ROOT.iterdir())
    assert run("ip", "netns", "list") == ""


def test_a_bad_wire_is_noticed() -> None:
    """Copies of ping are lost and copies of ARP are altered, where sniffer can know of neither: the counters are
    clean, the exit status is 1 and the frames are named."""
    line = [*DEMO, "--json", "--sabotage", "ICMP"]
    with (
        typed(alone("README.md", "scripts/isolated .venv/bin/python -m demo --sabotage")) as page,
        subprocess.Popen(line, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo,
    ):
        wait_until(lambda: "clsact" in run("tc", "qdisc", "show"), 60, what="the saboteur")
        words = ("bpf", "direct-action", "object-file", GARBLE, "section", "tc")
        run("tc", "filter", "add", "dev", "up0", "egress", "prio", 1, "protocol", "all", *words)
        out, err = demo.communicate(timeout=200)
        said, _ = page.communicate(timeout=200)
    assert demo.returncode == 1, out + err
    told = json.loads(out)
    assert not told["passed"]
    vxlan, gre, _ = told["acts"]
    for act in (vxlan, gre):
        assert act["counters"]["dropped"] == act["counters"]["lost"] == 0
        assert act["kinds"]["ICMP"]["dropped"] == act["kinds"]["ICMP"]["sent"] > 10
        assert act["kinds"]["DNS"]["dropped"] == act["kinds"]["HTTP"]["dropped"] == 0
        assert any(
            words.startswith("missing at the analyzer: frame ") and "Echo (ping)" in words for words in act["problems"]
        )
    assert vxlan["kinds"]["ARP"]["dropped"] == vxlan["alien"] == vxlan["kinds"]["ARP"]["sent"] > 10
    assert any(words.startswith("altered at byte 41: frame ") and "ARP" in words for words in vxlan["problems"])
    assert "altered" in err
    assert "FAILED" in err
    *_, verdict, status = said.rstrip().splitlines()
    assert status == "1", "what `echo` says of it"
    assert re.fullmatch(r"FAILED after \d+ s: \d+ problems, each said above", verdict), said
    assert re.search(r"✗ missing at the analyzer: frame \d+ ICMP .* Echo \(ping\) request ", said)
    vxlan_shown, gre_shown, _ = shown(said)
    for words in (vxlan_shown, gre_shown):
        assert words["ICMP"][-1] == words["ICMP"][0] > 10
        assert words["DNS"][-1] == words["HTTP"][-1] == words["ARP"][-1] == 0
    assert "altered" not in said


@pytest.mark.parametrize(("words", "status"), [(("--sabotage", "TELNET"), 2), (("--what",), 2)])
def test_wrong_usage(words: tuple[str, ...], status: int) -> None:
    done = subprocess.run([*DEMO, *words], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr


def test_outside_of_namespaces_it_touches_nothing() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SNIFFER_ISOLATED"}
    done = subprocess.run(DEMO, cwd=CHECKOUT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 3
    assert "make demo" in done.stderr
    assert run("ip", "netns", "list") == ""


def total(act: dict[str, Any], column: str) -> int:
    """Sum over all kinds of frames."""
    return sum(row[column] for row in act["kinds"].values())
