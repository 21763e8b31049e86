"""`sniffer explain`: what a filter becomes, and what the tap decides of captured frames.."""

import json
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from sniffer.pcap import compile, matches
from tests.agent import SNIFFER, mirror, sniffer, target
from tests.packets import CORPUS

UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs")
CUT_HEADER = bytes.fromhex("0200000000010200000000020800") + b"\x45\0\0\x30"
FRAMES = [*(case.frame for case in CORPUS), CUT_HEADER, CORPUS[0].frame.ljust(9000, b"\7"), bytes(65_549)]
FILTER = "len > 4000 or ether[14] = 0x45 or tcp"


def expected(text: str, frames: Sequence[bytes] = FRAMES) -> list[int]:
    return [number for number, frame in enumerate(frames) if matches(compile(text), frame)]


def capture(path: Path, frames: Sequence[bytes] = FRAMES, link_type: int = 1) -> Path:
    """A pcap, or a pcapng where the name says so."""
    blob = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, link_type)
    blob += b"".join(struct.pack("=IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames)
    plain = path.with_suffix(".pcap")
    plain.write_bytes(blob)
    if path != plain:
        subprocess.run(["editcap", "-F", "pcapng", plain, path], check=True, capture_output=True)
    return path


def explained(*words: object) -> Any:
    done = sniffer("explain", "--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(status: int, *words: object, before: Sequence[str] = ()) -> str:
    line = [*before, str(SNIFFER), "explain", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (status, ""), done
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("suffix", [".pcap", ".pcapng"])
def test_the_frames_that_the_tap_takes(tmp_path: Path, suffix: str) -> None:
    file = capture(tmp_path / f"corpus{suffix}")
    row = explained("--filter", FILTER, "--pcap", file)
    wanted = expected(FILTER)
    assert {len(FRAMES) - 3, len(FRAMES) - 2, len(FRAMES) - 1} <= set(wanted), "those that test run refuses"
    assert row["matched"] == wanted
    assert row["instructions"] == len(compile(FILTER))
    assert (row["frames"], row["cut"], row["undecided"]) == (len(FRAMES), [], [])
    assert 0 <= row["nanoseconds"] < 100_000, "what noise leaves of it"


def test_without_a_capture_only_the_program_and_its_cost() -> None:
    row = explained("--filter", "tcp port 80")
    assert (row["instructions"], row["longest_path"]) == (20, 13)
    assert "matched" not in row
    assert 0 <= row["nanoseconds"] < 100_000, "what noise leaves of it"
    assert len(row["rules"][0]["program"]) == 20


def test_the_program_is_listed_as_tcpdump_does() -> None:
    dumped = subprocess.run(
        ["tcpdump", "-y", "EN10MB", "-d", "tcp port 80"], capture_output=True, text=True, check=True
    )
    printed = sniffer("explain", "--filter", "tcp port 80").stdout
    assert dumped.stdout.splitlines() == printed.splitlines()[1:-1]
    assert printed.splitlines()[0] == "rule 0: Mirror tcp port 80"
    assert printed.splitlines()[-1].startswith("20 instructions, at most 13 of them for one frame; ")


def test_text_says_numbers_as_ranges(tmp_path: Path) -> None:
    arp, tcp = (next(case.frame for case in CORPUS if matches(compile(text), case.frame)) for text in ("arp", "tcp"))
    file = capture(tmp_path / "a.pcap", [arp, arp, tcp, arp, bytes(13)])
    done = sniffer("explain", "--filter", "arp", "--pcap", file)
    assert done.stdout.splitlines()[-1] == "matched 3 of 5 frames: 0-1 3"
    assert done.stderr == "sniffer: 1 frames are no Ethernet frames (14 to 65549 bytes): 4\n"


def test_manifests(tmp_path: Path) -> None:
    """Every mirror of the file; more than one list of a hook can take."""
    texts = ["tcp", "arp", *(f"port {number}" for number in range(1, 17))]
    rules = [{"action": "Skip", "filter": "tcp"}, {"action": "Mirror", "filter": "ip"}]
    documents = [target(), *(mirror(f"m{number}", filter=text) for number, text in enumerate(texts))]
    documents += [mirror("ordered", rules=rules), mirror("all")]
    manifest = tmp_path / "mirrors.yaml"
    manifest.write_text(yaml.safe_dump_all(documents))
    rows = explained("-f", manifest, "--pcap", capture(tmp_path / "corpus.pcap"))
    assert [row["name"] for row in rows] == [*(f"m{number}" for number in range(len(texts))), "ordered", "all"]
    assert [row["matched"] for row in rows[: len(texts)]] == [expected(text) for text in texts]
    ordered, everything = rows[-2:]
    assert ordered["matched"] == [number for number in expected("ip") if number not in expected("tcp")] != []
    assert ordered["instructions"] == len(compile("tcp")) + len(compile("ip"))
    assert [rule["rule"] for rule in ordered["rules"]] == ["Skip tcp", "Mirror ip"]
    assert (everything["matched"], everything["instructions"]) == (list(range(len(FRAMES))), 0)


def test_one_mirror_is_an_object(tmp_path: Path) -> None:
    manifest = tmp_path / "mirrors.yaml"
    manifest.write_text(yaml.safe_dump(mirror(filter="arp")))
    assert explained("-f", manifest) | {"nanoseconds": 0} == {
        "name": "all",
        "instructions": 4,
        "longest_path": 3,
        "nanoseconds": 0,
        "rules": [{"rule": "Mirror arp", "program": explained("--filter", "arp")["rules"][0]["program"]}],
    }


def test_frames_that_were_cut_are_named(tmp_path: Path) -> None:
    whole, cut = capture(tmp_path / "whole.pcap"), tmp_path / "cut.pcap"
    subprocess.run(["editcap", "-F", "pcap", "-s", "60", whole, cut], check=True, capture_output=True)
    row = explained("--filter", "len > 60", "--pcap", cut)
    assert row["matched"] == []
    assert row["cut"] == [number for number, frame in enumerate(FRAMES) if len(frame) > 60]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "given neither of --filter and -f"),
        (("--filter", "tcp", "-f", "x.yaml"), "given both of --filter and -f"),
        (("--filter", "tcp prot 80"), '--filter: given "tcp prot 80", allowed a filter that compiles: "prot" is no'),
        (("--filter", "host example.com"), "names are not looked up, give the address (at offset 5)"),
        (("--filter", "tcp port 80 and"), "allowed a filter that compiles: syntax error"),
        (("--filter", " or ".join(f"port {n}" for n in range(200))), "too long"),
        (("-f", "/nowhere/at-all.yaml"), "/nowhere/at-all.yaml: No such file or directory"),
        (
            ("--filter", "tcp", "--pcap", "/nowhere/at-all.pcap"),
            "at-all.pcap: cannot be read as pcap or pcapng: No such",
        ),
    ],
)
def test_wrong_input_is_one_sentence(words: tuple[str, ...], said: str) -> None:
    error = refused(2, *words)
    assert said in error
    assert error.count("\n") == 1


def test_wrong_manifests(tmp_path: Path) -> None:
    manifest = tmp_path / "mirrors.yaml"
    manifest.write_text(yaml.safe_dump_all([mirror("a", rules=[{"action": "Mirror", "filter": "tcp prot 80"}])]))
    assert f"{manifest}:10: spec.rules[0].filter: given" in refused(2, "-f", manifest)
    manifest.write_text(yaml.safe_dump(target()))
    assert "given no mirror" in refused(2, "-f", manifest)


def test_mirrors_of_both_kinds(tmp_path: Path) -> None:
    manifest = tmp_path / "mirrors.yaml"
    pods = {"podSelector": {}, "filter": "tcp", "targetRefs": [{"name": "ana"}]}
    of_pods = mirror("web", filter="tcp") | {"kind": "TrafficMirror", "spec": pods}
    of_pods["metadata"] = {"name": "web", "namespace": "shop"}
    manifest.write_text(yaml.safe_dump_all([mirror("arp", filter="arp"), of_pods]))
    assert [row["name"] for row in explained("-f", manifest)] == ["arp", "shop/web"]


def test_time_is_taken_of_each_program(tmp_path: Path) -> None:
    manifest = tmp_path / "mirrors.yaml"
    ports = " or ".join(f"port {number}" for number in range(20, 60, 2))
    manifest.write_text(yaml.safe_dump_all([mirror("long", filter=ports), mirror("short", filter="arp")]))
    long, short = (row["nanoseconds"] for row in explained("-f", manifest))
    assert long > 2 * short >= 0  # over the empty program: a short one can take no measurable time


def test_a_capture_of_something_else(tmp_path: Path) -> None:
    file = capture(tmp_path / "sll.pcap", [bytes(60)], link_type=113)
    assert "given link type LINUX_SLL (113), allowed EN10MB (Ethernet)" in refused(2, "--filter", "tcp", "--pcap", file)


def test_without_rights(tmp_path: Path) -> None:
    """The program is explained to everybody; the kernel answers only who may ask."""
    line = [*UNPRIVILEGED, str(SNIFFER), "explain", "--filter", "arp", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    assert (row["instructions"], row["nanoseconds"]) == (4, None)
    file = capture(tmp_path / "a.pcap", FRAMES[:3])
    error = refused(3, "--filter", "arp", "--pcap", file, before=UNPRIVILEGED)
    lacking = "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON missing"
    assert error == f"sniffer: loading BPF programs is not allowed: {lacking}; run as root\n"
    few = ("setpriv", "--bounding-set=-all,+bpf,+net_admin", "--inh-caps=-all")
    assert "not allowed: CAP_PERFMON missing" in refused(3, "--filter", "arp", "--pcap", file, before=few)


def test_a_private_namespace_is_needed_only_for_odd_frames(tmp_path: Path) -> None:
    capable = ("setpriv", "--bounding-set=-all,+bpf,+net_admin,+perfmon", "--inh-caps=-all")
    whole = capture(tmp_path / "whole.pcap", FRAMES[:3])
    line = [*capable, str(SNIFFER), "explain", "--filter", "arp", "--json", "--pcap", str(whole)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["matched"] == expected("arp", FRAMES[:3]), done.stderr
    odd = capture(tmp_path / "odd.pcap", [CUT_HEADER])
    assert "CAP_SYS_ADMIN; run as root" in refused(3, "--filter", "arp", "--pcap", odd, before=capable)


def test_limits_are_told(tmp_path: Path) -> None:
    file = tmp_path / "limited.yaml"
    spec = {"sampling": {"oneIn": 10}, "rateLimit": {"packetsPerSecond": 500, "kilobitsPerSecond": 9000}}
    file.write_text(yaml.safe_dump(mirror("web", snapLength=96, **spec)))
    assert explained("-f", file)["limits"] == "96 bytes of a frame, one in 10 flows, 500 packets/s, 9000 kbit/s"
    assert "limits" not in explained("--filter", "arp")
