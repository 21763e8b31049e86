"""The commands as people and scripts meet them: exit status, words, JSON; never a traceback."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from sniffer.kernel.programs import object_path
from tests.agent import SNIFFER, Agent, mirror, sniffer, target
from tests.inventory import ROOT, ifindex, surfaces
from tests.ringless import with_digest
from tests.topology import Node, node, run
from tests.traffic import blast

NOBODY = 65534


@pytest.fixture(scope="module")
def bed() -> Iterator[Node]:
    with node() as made:
        yield made


@pytest.fixture
def agent(bed: Node, tmp_path: Path) -> Iterator[Agent]:
    one = Agent(tmp_path)
    one.write(target(), mirror(direction="Ingress", filter="udp"))
    yield one
    one.stop()
    one.cleanup()


def tells(words: Sequence[object], status: int, *parts: str, **options: Any) -> str:
    """Runs a command and expects its exit status and, on stderr, one line with these parts; returns stdout."""
    line = [str(SNIFFER), *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60, **options)
    said = f"{line}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, said
    assert done.returncode == status, said
    for part in parts:
        assert part in done.stderr, said
    return done.stdout


# status

PAIR = {"packets": int, "bytes": int}
ENDPOINT = {"address": str, "device": str, "source": str, "nexthop": str, "mtu": int, "state": str}
DROPS = (
    *("rate_limit", "sampled_out", "oversize", "too_big", "no_route", "no_neighbour", "no_memory", "relay_down"),
    *("copy_limit", "ptp", "storm"),
)
MIRROR = {
    "kind": str,
    "namespace": None,
    "name": str,
    "state": str,
    "reason": None,
    "message": None,
    "interfaces": [str],
    "lease_s": float,
    "targets": [{"name": str, "endpoints": [ENDPOINT]}],
    "matched": PAIR,
    "sent": PAIR,
    "dropped": dict.fromkeys(DROPS, int),
    "wire": PAIR,
}
HOOK = {
    "interface": str,
    "ifindex": int,
    "direction": str,
    "attachment": str,
    "state": str,
    "ahead": [int],
}
STATUS = {
    "node": str,
    "agent": {"state": str, "pid": int, "version": str},
    "mirrors": [MIRROR],
    "hooks": [HOOK],
}


def conforms(value: Any, shape: Any, path: str = "status") -> None:
    """Every key of the contract is there, with its type; more keys are no breach of it."""
    if isinstance(shape, dict):
        assert isinstance(value, dict), path
        assert shape.keys() <= value.keys(), f"{path} lacks {shape.keys() - value.keys()}"
        for key, inner in shape.items():
            conforms(value[key], inner, f"{path}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), path
        for number, item in enumerate(value):
            conforms(item, shape[0], f"{path}[{number}]")
    elif shape is None:
        assert value is None, path
    elif shape is float:
        assert isinstance(value, int | float), path
    else:
        assert type(value) is shape, f"{path}: {value!r}"


def test_status_has_the_shape_that_people_script_against(bed: Node, agent: Agent) -> None:
    agent.start()
    agent.programmed()
    blast(dst=bed.peer_address, port=9, size=64, count=100)
    status = json.loads(tells(["status", "--json"], 0))
    conforms(status, STATUS)
    assert status["agent"] == {"state": "running", "pid": agent.process.pid, "version": "0.1.0"}  # type: ignore[union-attr]
    (row,), (hook,) = status["mirrors"], status["hooks"]
    assert hook == {
        "interface": "pod0",
        "ifindex": ifindex("pod0"),
        "direction": "ingress",
        "attachment": "tcx",
        "state": "attached",
        "ahead": [],
    }
    assert row["targets"] == [
        {
            "name": "ana",
            "endpoints": [
                {
                    "address": "10.9.0.2",
                    "device": "up0",
                    "source": "10.9.0.1",
                    "nexthop": "10.9.0.2",
                    "mtu": 1500,
                    "state": "reachable",
                }
            ],
        }
    ]
    assert row["matched"] == row["sent"] == {"packets": 100, "bytes": 100 * 106}
    assert set(row["dropped"]) == set(DROPS)
    assert set(row["dropped"].values()) == {0}
    assert "no_memory" in row["lost"]
    assert set(row["lost"].values()) == {0}
    assert row["wire"]["packets"] == 100
    assert 0 < row["lease_s"] <= 60
    extra = status.keys() - STATUS.keys(), row.keys() - MIRROR.keys() - {"lost"}
    assert extra == ({"skipped", "watching"}, {"undecided", "snap_length", "sampling", "rate_limit", "truncated"})


def test_every_reason_of_the_header_is_in_the_status(bed: Node, agent: Agent) -> None:
    """One enum: what bpf/sniffer.h can count, the status shows."""
    header = (Path(__file__).parents[2] / "bpf/sniffer.h").read_text()
    names = [word.strip(" ,\t").removeprefix("OUTCOME_") for word in header.splitlines() if "\tOUTCOME_" in word]
    agent.start()
    row = agent.mirror()
    assert list(row["dropped"]) == [n.removeprefix("DROPPED_").lower() for n in names if n.startswith("DROPPED_")]
    assert list(row["lost"]) == [n.removeprefix("LOST_").lower() for n in names if n.startswith("LOST_")]


def test_status_for_people(bed: Node, agent: Agent) -> None:
    """A table; no colours when it is not a terminal; 1 when a mirror is not as asked."""
    agent.start()
    agent.programmed()
    shown = tells(["status"], 0)
    assert "\x1b" not in shown
    assert {"all", "Programmed", "pod0"} <= set(shown.replace("│", " ").split())
    agent.write(target(), mirror(direction="Ingress", filter="udp"), mirror("bad", targets=["nowhere"]))
    agent.wait(lambda status: len(status["mirrors"]) == 2)
    shown = tells(["status"], 1)
    assert "TargetNotFound" in shown


def test_status_where_no_agent_ever_was(bed: Node) -> None:
    tells(["status"], 2, "/sys/fs/bpf/sniffer", "no agent has run here")
    tells(["status", "--json", "--pin-root", "/sys/fs/bpf/elsewhere"], 2, "/sys/fs/bpf/elsewhere")


# plan


def test_plan_prints_and_changes_nothing(bed: Node, agent: Agent) -> None:
    """1: there is something to do; 0: nothing."""
    before = surfaces()
    plan = json.loads(tells(["plan", "--manifests", agent.manifests, "--json"], 1))
    assert [op["op"] for op in plan] == ["CreateRelay"]
    assert surfaces() == before
    agent.start()
    agent.programmed()
    before = surfaces()
    agent_words = ["plan", "--manifests", agent.manifests]
    assert tells(agent_words, 0) == "nothing to do\n"
    assert json.loads(tells([*agent_words, "--json"], 0)) == []
    other = agent.directory / "other"
    other.mkdir()
    tunnel = {"geneve": {"vni": 9}}
    documents = (target(encapsulation=tunnel), mirror(interfaces=["peer0"], direction="Both", filter="tcp"))
    (other / "x.yaml").write_text(yaml.safe_dump_all(documents))
    plan = json.loads(tells(["plan", "--manifests", other, "--json"], 1))
    kinds = [op["op"] for op in plan]
    assert bytes.fromhex(next(op["record"]["template"] for op in plan if op["op"] == "PutEgress"))[36:38] == b"\x17\xc1"
    assert {"PutFilter", "PutMirror", "PutList", "SetHook", "Attach", "Detach", "RemoveHook", "Grace", "Clear"} <= set(
        kinds
    )
    assert kinds.index("PutFilter") < kinds.index("PutMirror") < kinds.index("PutList") < kinds.index("SetHook")
    assert kinds.index("RemoveHook") < kinds.index("Grace") < kinds.index("Clear")
    assert "Attach" in tells(["plan", "--manifests", other], 1)
    assert surfaces() == before
    assert agent.mirror()["interfaces"] == ["pod0"]


def test_plan_of_what_is_not_there(bed: Node, tmp_path: Path) -> None:
    tells(["plan", "--manifests", tmp_path / "nowhere"], 2, "--manifests", "nowhere")
    tells(["plan"], 2, "manifests")


# lint, and the same words from the agent

GOOD_MIRROR = yaml.safe_dump(mirror("good", direction="Ingress"))
GOOD_TARGET = yaml.safe_dump(target())
BAD = {
    "VNI": (GOOD_TARGET.replace("4242", "16777216"), "spec.encapsulation.vxlan.vni", "16777216", "16777215"),
    "negative VNI": (GOOD_TARGET.replace("4242", "-1"), "spec.encapsulation.vxlan.vni", "-1", "0"),
    "port": (
        GOOD_TARGET.replace("vni: 4242", "vni: 1\n      port: 65536"),
        *("spec.encapsulation.vxlan.port", "65536", "65535"),
    ),
    "octal": (GOOD_TARGET.replace("4242", "0o10"), "spec.encapsulation.vxlan.vni", "0o10", "16777215"),
    "both": (
        GOOD_TARGET.replace("encapsulation:\n", "encapsulation:\n    gre: {}\n"),
        *("spec.encapsulation", "gre", "exactly one"),
    ),
    "loopback": (GOOD_TARGET.replace("10.9.0.2", "127.0.0.1"), "spec.endpoints[0].address", "127.0.0.1", ""),
    "multicast": (GOOD_TARGET.replace("10.9.0.2", "224.0.0.1"), "spec.endpoints[0].address", "224.0.0.1", ""),
    "host name": (GOOD_TARGET.replace("10.9.0.2", "sink"), "spec.endpoints[0].address", "sink", ""),
    "unknown field": (GOOD_MIRROR.replace("direction", "directoin"), "spec", "directoin", "direction"),
    "direction": (GOOD_MIRROR.replace("Ingress", "ingress"), "spec.direction", "ingress", "Ingress"),
    "filter": (GOOD_MIRROR + "  filter: tcp prot 80\n", "spec.filter", "tcp prot 80", "pcap-filter"),
    "filter's host": (GOOD_MIRROR + "  filter: host sink.example\n", "spec.filter", "sink.example", ""),
    "CIDR with host bits": (GOOD_MIRROR + "  filter: net 10.0.0.1/8\n", "spec.filter", "10.0.0.1/8", ""),
    "CIDR too long": (GOOD_MIRROR + "  filter: net 10.0.0.0/33\n", "spec.filter", "10.0.0.0/33", ""),
    "snap length": (GOOD_MIRROR + "  snapLength: 13\n", "spec.snapLength", "13", "14"),
    "no rules": (GOOD_MIRROR + "  rules: []\n", "spec.rules", "", "1"),
    "kind": (GOOD_MIRROR.replace("ClusterTraffic", "Trafic"), "kind", "TraficMirror", "ClusterTrafficMirror"),
    "no YAML": ("a: [\n", "document", "", ""),
}


@pytest.mark.parametrize(("text", "field", "given", "allowed"), BAD.values(), ids=BAD)
def test_lint_names_file_line_field_given_and_allowed(
    tmp_path: Path, text: str, field: str, given: str, allowed: str
) -> None:
    """I1 to I20, in so far as the model has the field; one line each."""
    file = tmp_path / "x.yaml"
    file.write_text("# a comment\n---\n" + text)
    line = tells(["lint", file], 1).strip()
    assert "\n" not in line
    name, number, rest = line.split(":", 2)
    assert name == str(file)
    told, words = rest.strip().split(":", 1)
    assert told == field
    assert "given" in words
    assert "allowed" in words
    assert given in words.split(", allowed")[0]
    assert allowed in words
    if given and field != "spec.encapsulation":
        assert given.rsplit(maxsplit=1)[-1].strip('"') in file.read_text().splitlines()[int(number) - 1]
    (row,) = json.loads(tells(["lint", file, "--json"], 1))
    assert {"file", "line", "field", "given", "allowed"} <= row.keys()
    assert (row["file"], row["line"], row["field"]) == (str(file), int(number), field)


def test_lint_of_good_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD_TARGET)
    (tmp_path / "b.yml").write_text(GOOD_MIRROR)
    assert "2 resources" in tells(["lint", tmp_path], 0)
    assert json.loads(tells(["lint", tmp_path / "a.yaml", tmp_path / "b.yml", "--json"], 0)) == []


def test_lint_says_all_that_is_wrong(tmp_path: Path) -> None:
    """Several errors in several documents: each its line, the good ones unharmed."""
    text = "---\n".join((BAD["VNI"][0], GOOD_MIRROR, BAD["filter"][0], BAD["direction"][0]))
    (tmp_path / "x.yaml").write_text(text)
    assert len(tells(["lint", tmp_path / "x.yaml"], 1).splitlines()) >= 3


def test_lint_of_what_cannot_be_read(tmp_path: Path) -> None:
    tells(["lint", tmp_path / "nowhere.yaml"], 2, "nowhere.yaml", "No such file")
    tells(["lint", tmp_path], 2, "no *.yaml")
    tells(["lint"], 2)
    (tmp_path / "binary.yaml").write_bytes(os.urandom(2000))
    tells(["lint", tmp_path / "binary.yaml"], 1)
    (tmp_path / "directory.yaml").mkdir()
    tells(["lint", tmp_path / "directory.yaml"], 2)


def test_the_agent_works_on_beside_every_error(bed: Node, agent: Agent) -> None:
    """Bad resources of every kind in files of their own: the good one is Programmed, the log has lint's lines."""
    agent.start()
    lines = []
    for number, (text, *_) in enumerate(BAD.values()):
        agent.write_text(text.replace("name: ana", f"name: bad{number}"), f"bad{number}.yaml")
        lines += tells(["lint", agent.manifests / f"bad{number}.yaml"], 1).splitlines()
    agent.wait(lambda _: all(line in agent.log.read_text() for line in lines))
    assert agent.mirror("all")["state"] == "Programmed"
    rejected = {row["name"]: row for row in agent.status()["mirrors"] if row["state"] == "Rejected"}
    assert rejected["good"]["reason"] in {"Invalid", "TargetNotFound"}
    assert tells(["lint", agent.manifests / "mirrors.yaml"], 0)
    sent = agent.mirror()["sent"]["packets"]
    blast(dst=bed.peer_address, port=9, size=64, count=100)
    assert agent.mirror()["sent"]["packets"] == sent + 100
    assert agent.log.read_text().count("bad0.yaml") == len([line for line in lines if "bad0.yaml" in line])


# usage and machine

COMMANDS = ("agent", "status", "cleanup", "plan", "lint", "explain", "doctor")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str) -> None:
    """By an example, where there is more to type than the name."""
    shown = tells([command, "--help"], 0)
    assert tells([command, "-h"], 0) == shown
    if command not in {"cleanup", "doctor"}:
        assert f"sniffer {command} " in shown.split("Example", 1)[1]
    assert command in tells(["--help"], 0)


GARBAGE = [
    *(["frobnicate"], ["--frobnicate"], ["status", "extra"], ["status", "--frobnicate"], ["cleanup", "--pin-root"]),
    *(["agent", "--manifests"], ["agent", "--manifests", "/nowhere"], ["agent", "--lease", "zero"]),
    *(["agent", "--kubeconfig", "/nowhere"], ["agent", "--kubeconfig", "/etc/hosts"]),
    *(
        ["agent", "--manifests", "/etc", "--kubeconfig", "/etc/hosts"],
        ["agent", "--manifests", "/etc", "--api-grace", "1"],
    ),
    *(["agent", "--manifests", "/etc", "--service-cidrs", "10.0.0.1/8"],),
    *(["agent", "--manifests", "/etc", "--allowed-target-cidrs", "everything"],),
    *(["agent", "--manifests", "/etc", "--lease", "0"], ["agent", "--manifests", "/etc", "--lease", "-5"]),
    *(["agent", "--manifests", "/etc", "--lease", "nan"], ["agent", "--manifests", "/etc", "--lease", "inf"]),
    *(["agent", "--manifests", "/etc", "--attachment", "xdp"], ["agent", "--manifests", "/etc/passwd"]),
    *(["agent", "--manifests", "/etc", "--metrics", "nonsense"], ["plan", "--manifests", "/etc/passwd"]),
    *(["explain", "--filter", "tcp prot 80"], ["explain"], []),
]


@pytest.mark.parametrize("words", GARBAGE, ids=" ".join)
def test_garbage_ends_with_two(bed: Node, words: list[str]) -> None:
    tells(words, 2)
    assert not ROOT.exists()


def test_an_agent_without_directory_or_cluster(bed: Node) -> None:
    """This machine cannot, and what to do."""
    tells(["agent"], 3, "no API server", "--kubeconfig")
    assert not ROOT.exists()


def test_version() -> None:
    assert tells(["--version"], 0) == "0.1.0\n"


def test_a_pin_root_that_is_no_bpffs(bed: Node, tmp_path: Path) -> None:
    """E4."""
    for where in (tmp_path / "pins", Path("/sys/kernel/sniffer"), Path("/proc/1/sniffer")):
        tells(["agent", "--manifests", tmp_path, "--pin-root", where], 3, f"{where} is not on a bpffs", "mount -t bpf")
    assert not (tmp_path / "pins").exists()


def test_programs_that_the_kernel_refuses(bed: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper that it does not know, as before 5.10 they would be: in few words, and nothing is there afterwards."""
    clone, unknown = (b"\x85\0\0\0" + number.to_bytes(4, "little") for number in (13, 9999))
    content = object_path().read_bytes()
    assert clone in content
    other = with_digest(tmp_path / "other.bpf.o", content.replace(clone, unknown))
    monkeypatch.setenv("SNIFFER_OBJECT", str(other))
    before = surfaces()
    refused = sniffer("agent", "--manifests", tmp_path, check=False)
    assert refused.returncode == 3
    assert refused.stderr.startswith("sniffer: the kernel refuses the BPF object: ")
    assert refused.stderr.endswith("; see `sniffer doctor`\n")
    assert "unpinned" not in refused.stderr
    assert surfaces() == before


def test_a_kernel_that_is_refused(bed: Node, tmp_path: Path) -> None:
    """By its number, before anything is touched; an agent that is told so runs."""
    old = ["setarch", "--uname-2.6"]
    before = surfaces()
    line = [*old, SNIFFER, "agent", "--manifests", tmp_path]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert re.fullmatch(r"sniffer: no agent runs on this kernel: 2\.6\.\d+ is older .*--allow-kernel.*\n", done.stderr)
    assert surfaces() == before
    running = subprocess.Popen([*line, "--allow-kernel"], stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr
        said = [next(running.stderr), next(running.stderr)]
        assert "is older than 5.10" in said[0]
        assert said[1].endswith("ready\n")
    finally:
        running.terminate()
        running.communicate()
    sniffer("cleanup")


def test_a_pin_root_that_is_a_file(bed: Node, tmp_path: Path) -> None:
    path = Path("/sys/fs/bpf/a-map")
    run("bpftool", "map", "create", path, *["type", "array", "key", "4", "value", "4", "entries", "1", "name", "a"])
    tells(["agent", "--manifests", tmp_path, "--pin-root", path], 3, str(path))
    tells(["cleanup", "--pin-root", path / "below"], 0)
    path.unlink()


WITHOUT_ROOT = {
    "agent": ["--manifests", "MANIFESTS"],
    "plan": ["--manifests", "MANIFESTS"],
    "status": [],
    "cleanup": [],
}
CASES = [(command, before) for command in WITHOUT_ROOT for before in ("fresh", "agent was here")]
NOTHING_THERE = [("status", "fresh"), ("cleanup", "fresh")]
"""What they say then is true for everybody."""


def as_nobody(*words: str) -> list[str]:
    """The command line that runs `words` without rights, wherever the checkout lies: nobody may pass through /root.

    Directories on the way that are closed to others are opened in a mount namespace that ends with the command.
    """
    places = (SNIFFER, Path(sys.base_prefix))
    closed = sorted({parent for place in places for parent in place.parents if not parent.stat().st_mode & 0o001})
    open_all = [
        f"mkdir -p $(mktemp -d)/up && cd $_ && mkdir ../work && "
        f"mount -t overlay overlay -o lowerdir={parent},upperdir=$PWD,workdir=$PWD/../work {parent} && "
        f"chmod o+x {parent}"
        for parent in closed
    ]
    script = " && ".join([*open_all, 'cd / && exec setpriv --reuid=$0 --regid=$0 --clear-groups "$@"'])
    return ["unshare", "--mount", "bash", "-c", script, str(NOBODY), *words]


@pytest.mark.parametrize(("command", "before"), [case for case in CASES if case not in NOTHING_THERE])
def test_without_root(bed: Node, tmp_path: Path, command: str, before: str) -> None:
    """G29: a sentence, and 3: this user cannot. Nothing is changed."""
    one = Agent(tmp_path)
    one.write(target(), mirror())
    if before != "fresh":
        with one:
            pass
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        Path(directory).chmod(0o755)
        (Path(directory) / "x.yaml").write_text(GOOD_TARGET)
        said = [directory if word == "MANIFESTS" else word for word in (command, *WITHOUT_ROOT[command])]
        surface = surfaces()
        done = subprocess.run(
            as_nobody(str(SNIFFER), *said),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == 3, (done.returncode, done.stdout, done.stderr)
        assert done.stderr.startswith("sniffer: ")
        assert "root" in done.stderr
        assert surfaces() == surface
    sniffer("cleanup")


def test_a_reader_that_goes_away(bed: Node, agent: Agent) -> None:
    """`sniffer status | head -1`: no traceback on a closed pipe."""
    agent.start()
    done = subprocess.run(
        ["bash", "-c", f"{SNIFFER} status --json | true; {SNIFFER} lint {agent.manifests} | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_missing_object(bed: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNIFFER_OBJECT", str(tmp_path / "none.o"))
    tells(["agent", "--manifests", tmp_path], 3, "none.o", "make build")
    with_digest(tmp_path / "none.o", b"not an object")
    tells(["agent", "--manifests", tmp_path], 3)
    sniffer("cleanup")


def test_an_object_that_was_not_built(bed: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G14: one byte is another, or nobody says what they should be: nothing is loaded, and what was there stays."""
    content = object_path().read_bytes()
    other = with_digest(tmp_path / "other.o", content)
    middle = len(content) // 2
    other.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    monkeypatch.setenv("SNIFFER_OBJECT", str(other))
    words = ("other.o is not the one that this package was built with", hashlib.sha256(content).hexdigest())
    tells(["agent", "--manifests", tmp_path], 3, *words)
    [found] = [row for row in json.loads(sniffer("doctor", "--json", check=False).stdout) if row["check"] == "programs"]
    assert found["result"] == "fail"
    assert words[0] in found["text"]
    other.with_name("other.o.sha256").unlink()
    tells(["agent", "--manifests", tmp_path], 3, "other.o.sha256 does not say which BPF object was built")
    assert not list(Path(ROOT).glob("abi-*/programs/*"))
