"""`make demo` as people run it: it passes, and it fails when it should. Half a minute each."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.inventory import ROOT, devices
from tests.topology import run, wait_until

CHECKOUT = Path(__file__).parents[2]
GARBLE = CHECKOUT / "build/tests/bpf/garble.bpf.o"
DEMO = (sys.executable, "-m", "demo")
KINDS = {"HTTP", "DNS", "ICMP", "ARP"}


def test_every_frame_arrives_and_edits_take_hold() -> None:
    before = devices()
    done = subprocess.run([*DEMO, "--json"], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=200)
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
    assert "\x1b[" not in done.stderr  # no terminal, no colours
    assert devices() == before
    assert not ROOT.exists() or not any(ROOT.iterdir())
    assert run("ip", "netns", "list") == ""


def test_a_bad_wire_is_noticed() -> None:
    """Copies of ping are lost and copies of ARP are altered, where sniffer can know of neither: the counters are
    clean, the exit status is 1 and the frames are named."""
    with subprocess.Popen(
        [*DEMO, "--json", "--sabotage", "ICMP"], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        wait_until(lambda: "clsact" in run("tc", "qdisc", "show"), 60, what="the saboteur")
        words = ("bpf", "direct-action", "object-file", GARBLE, "section", "tc")
        run("tc", "filter", "add", "dev", "up0", "egress", "prio", 1, "protocol", "all", *words)
        out, err = demo.communicate(timeout=200)
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
