"""The kubectl plugin against a kubectl that says what it is told to. tests/cluster/test_plugin.py has a real one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from sniffer.cli.lint import check
from sniffer.cli.plugin import archive
from sniffer.errors import InputError
from sniffer.model.manifest import read
from sniffer.plan.report import changes
from sniffer.plugin import capture, main
from sniffer.plugin.kubectl import Kubectl, KubectlError, selector
from sniffer.plugin.logs import pattern_of
from sniffer.plugin.status import KINDS, find, state_of
from sniffer.plugin.template import TUNNELS, Wish, documents
from sniffer.plugin.template import yaml as written

Document = dict[str, Any]
LABELS = {"app.kubernetes.io/name": "sniffer", "app.kubernetes.io/component": "agent"}
KUBECTL = """\
#!/bin/sh
# Answers from files that are named after the arguments, and fails where there is none.
here=$(dirname "$0")
name=$(printf %s "$*" | tr / _)
[ -e "$here/$name" ] && exec cat "$here/$name"
echo "Error from server (NotFound): $* not found" >&2
exit 1
"""
Say = Callable[[str, Any], None]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """say("get pods -A", items): what kubectl answers; a list becomes a List, text stays text."""
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL)
    program.chmod(0o755)
    monkeypatch.setenv("KUBECTL", str(program))

    def tell(words: str, answer: Any) -> None:
        value = {"items": answer} if isinstance(answer, list) else answer
        text = value if isinstance(value, str) else json.dumps(value)
        (tmp_path / words.replace("/", "_")).write_text(text)

    return tell


def pod(name: str, namespace: str = "shop", node: str = "n1", ready: bool = True, **spec: Any) -> Document:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    status = {"phase": "Running", "podIPs": [{"ip": "10.1.0.2"}], "conditions": conditions}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"nodeName": node, **spec}, "status": status}


def agent(name: str, node: str = "n1", ready: bool = True) -> Document:
    return pod(name, "sniffer-system", node, ready, hostNetwork=True)


def mirror(name: str, ready: str = "True", reason: str = "Ready", message: str = "", **status: Any) -> Document:
    conditions = [
        {"type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": 1},
        {"type": "Ready", "status": ready, "reason": reason, "message": message, "observedGeneration": 1},
    ]
    return {
        "kind": "TrafficMirror",
        "metadata": {"name": name, "namespace": "shop", "uid": f"u-{name}", "generation": 1},
        "spec": {"targetRefs": [{"name": "zeek"}]},
        "status": {"conditions": conditions, **status},
    }


def cluster(say: Say, mirrors: list[Document], reports: list[Document] | None = None) -> None:
    running: Document = {"metadata": {"name": "n1"}, "status": {"state": "Running", "version": "0.1.0"}}
    say("get trafficmirrors.sniffer.dev -A -o json", mirrors)
    say("get clustertrafficmirrors.sniffer.dev -o json", [])
    say("get mirrortargets.sniffer.dev -o json", [])
    say("get sniffernodes.sniffer.dev -o json", [running] if reports is None else reports)
    say("get nodes -o json", [{"metadata": {"name": "n1"}}])


def test_status_of_a_cluster_that_is_well(say: Say, capsys: pytest.CaptureFixture[str]) -> None:
    cluster(say, [mirror("web", pods=3, nodes=2, readyNodes=2), mirror("old", "False", "Expired")])
    assert main.run(["status"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in shown[:3]] == [
        ["MIRROR", "STATE", "PODS", "NODES"],
        ["shop/web", "Ready", "3", "2/2"],
        ["shop/old", "Expired", "0", "0/0"],
    ]


def test_status_finds_what_is_wrong(say: Say, capsys: pytest.CaptureFixture[str]) -> None:
    """Text of the cluster is shown without control characters; what nobody has looked at yet is not called ready."""
    bad = mirror("bad", "False", "NodesNotReady", "n1: \x1b[31mHook\u202eFull\nnext")
    new = mirror("new")
    new["metadata"]["generation"] = 2
    cluster(say, [bad, new], reports=[])
    assert main.run(["status"]) == 1
    shown = capsys.readouterr().out
    assert "NodesNotReady: n1: \\x1b[31mHook\\u202eFull\\nnext" in shown
    assert "\x1b" not in shown
    assert "Unknown" in shown
    assert "0 of 1 nodes" in shown
    assert main.run(["status", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in rows["mirrors"]] == ["NotReady", "Unknown"]
    assert rows["nodes"] == [{"name": "n1", "state": "NoReport", "message": None, "version": None, "reported": None}]
    refused = {"metadata": {"name": "n1"}, "status": {"state": "Refused", "message": "no agent runs on this kernel"}}
    cluster(say, [], reports=[refused])
    assert main.run(["status"]) == 1
    assert "Refused  no agent runs on this kernel" in capsys.readouterr().out


def test_status_without_the_right_to_see_the_cluster(say: Say, capsys: pytest.CaptureFixture[str]) -> None:
    """A user of one namespace sees the mirrors of that."""
    say("get trafficmirrors.sniffer.dev -n shop -o json", [mirror("web")])
    assert main.run(["status", "-n", "shop"]) == 0
    told = capsys.readouterr()
    assert "shop/web" in told.out
    assert "without nodes" in told.err


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({}, ("Ready", "")),
        ({"status": "False", "reason": "NodesNotReady"}, ("NotReady", "NodesNotReady")),
        ({"status": "False", "reason": "Suspended"}, ("Suspended", "Suspended")),
        ({"reason": "NoPods"}, ("Ready", "NoPods")),
        ({"observedGeneration": 0}, ("Unknown", "NotObserved")),
    ],
)
def test_states(changed: Mapping[str, Any], state: tuple[str, str]) -> None:
    made = mirror("web")
    made["status"]["conditions"][1] |= changed
    assert state_of(made)[:2] == state


def test_selectors() -> None:
    """As kubectl -l takes them."""
    expressions = [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "old", "operator": "DoesNotExist"},
        {"key": "env", "operator": "NotIn", "values": ["test"]},
        {"key": "app", "operator": "Exists"},
    ]
    told = selector({"matchLabels": {"x": "y"}, "matchExpressions": expressions})
    assert told == "x=y,tier in (a,b),!old,env notin (test),app"
    assert selector(None) == selector({}) == ""
    with pytest.raises(InputError, match="operator"):
        selector({"matchExpressions": [{"key": "x", "operator": "Gt"}]})


def wish(**changed: Any) -> Wish:
    plain = {
        "name": "web", "namespace": "shop", "pods": "app=web,tier=1", "to": "10.0.9.5", "target": None,
        "tunnel": "vxlan",
        "key": None, "filter": "port 80 # not: a comment", "direction": "Ingress", "snap_length": 96, "duration_s": 60,
    }  # fmt: skip
    return Wish(**{**plain, **changed})


@pytest.mark.parametrize("tunnel", ["gre", "vxlan"])
@pytest.mark.parametrize("to", ["10.0.9.5", "tools/zeek"])
def test_templates_are_what_the_models_take(tunnel: str, to: str) -> None:
    """The YAML says what the documents say, and lint finds nothing in it."""
    made = list(documents(wish(tunnel=tunnel, to=to, filter="port 80")))
    text = "---\n".join(map(written, made))
    assert list(yaml.safe_load_all(text)) == made
    assert check([read(text.encode(), "made.yaml")]) == []


def test_templates_quote_what_could_be_misread() -> None:
    odd = {
        "a": "yes",
        "b": "1",
        "c": "x: y # z",
        "d": "",
        "e": {"n/a": [{"f": "-", "g": 1}]},
        "h": True,
        "i": "0x1",
        "j": {},
    }
    assert yaml.safe_load(written(odd)) == odd
    (both,) = [one for one in documents(wish()) if one["kind"] == "TrafficMirror"]
    assert yaml.safe_load(written(both)) == both


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"to": None}, "given neither of --to and --target"),
        ({"target": "zeek"}, "given both of --to and --target"),
        ({"to": "zeek.tools.svc"}, "--to: given"),
        ({"to": "fd00::1"}, "--to: given"),
        ({"to": "a/b/c"}, "--to: given"),
        ({"pods": "web"}, "--pods: given"),
        ({"pods": "=x"}, "--pods: given"),
    ],
)
def test_wrong_wishes(changed: Mapping[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        list(documents(wish(**changed)))


def test_every_tunnel_has_its_key() -> None:
    for tunnel, field in TUNNELS.items():
        made = next(documents(wish(tunnel=tunnel, key=7)))
        assert made["spec"]["encapsulation"][tunnel][field] == 7


def test_log_lines_of_one_mirror() -> None:
    """No other whose name begins or ends so."""
    pattern = pattern_of(mirror("web"))
    lines = [
        "INFO TrafficMirror shop/web: Programmed of 1 pod",
        "INFO TrafficMirror shop/web-2: Programmed",
        "INFO TrafficMirror eshop/web: Programmed",
        "INFO ClusterTrafficMirror shop/web: Programmed",
        "INFO TrafficMirror shop/web.example: Programmed",
        "ERROR something of TrafficMirror shop/web.",
    ]
    assert [number for number, line in enumerate(lines) if pattern.search(line)] == [0, 5]


def test_what_an_agent_logs_is_what_has_changed() -> None:
    web = {"kind": "TrafficMirror", "namespace": "shop", "name": "web", "state": "Programmed", "pods": 1}
    full = web | {"state": "Degraded", "reason": "HookFull", "message": "veth0\n\x1b[2J"}
    assert list(changes(None, {"mirrors": [web]})) == ["TrafficMirror shop/web: Programmed of 1 pod"]
    assert list(changes({"mirrors": [web]}, {"mirrors": [web]})) == []
    assert list(changes({"mirrors": [web]}, {"mirrors": [full]})) == [
        "TrafficMirror shop/web: Degraded of 1 pod: HookFull: veth0\\n\\x1b[2J"
    ]
    assert list(changes({"mirrors": [web]}, {})) == ["TrafficMirror shop/web: no longer concerns this node"]


def test_doctor_says_which_nodes_lack_an_agent(say: Say, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And goes on without what it may not look at."""
    names = (
        "trafficmirrors.sniffer.dev", "clustertrafficmirrors.sniffer.dev",
        "mirrortargets.sniffer.dev", "sniffernodes.sniffer.dev",
    )  # fmt: skip
    served: Document = {"versions": [{"name": "v1alpha1", "served": True}]}
    say("version -o json", {"serverVersion": {"gitVersion": "v1.36.3"}, "clientVersion": {"gitVersion": "v1.36.3"}})
    say("get customresourcedefinitions -o json", [{"metadata": {"name": name}, "spec": served} for name in names])
    of = "get pods -A -l app.kubernetes.io/name=sniffer,app.kubernetes.io/component={} -o json"
    say(of.format("controller"), [pod("liar")])
    crashed = agent("agent-2", "n2", ready=False)
    crashed["status"]["containerStatuses"] = [
        {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}
    ]
    say(of.format("agent"), [pod("liar", node="n3"), agent("agent-1"), crashed])
    say("get nodes -o json", [{"metadata": {"name": f"n{number}"}} for number in (1, 2, 3)])
    say("get sniffernodes.sniffer.dev -o json", [{"metadata": {"name": "n1"}, "status": {"version": "0.0.1"}}])
    found = [{"check": "kernel", "result": "fail", "text": "5.4 is older than 5.10", "fix": "a newer one"}]
    say("exec -n sniffer-system agent-1 -c agent -- sniffer doctor --json", json.dumps(found))
    assert main.run(["doctor", "--json"]) == 3
    told = {one["check"]: (one["result"], one["text"]) for one in json.loads(capsys.readouterr().out)}
    assert told["definitions"] == ("ok", "all 4, v1alpha1")
    assert told["controller"] == ("warn", "none of 0 pods is ready")
    assert told["agents"] == ("warn", "ready on 1 of 3 nodes")
    assert told["node n2"] == ("warn", "agent not ready: CrashLoopBackOff back-off")
    assert told["node n3"] == ("warn", "no agent")
    assert told["agents' version"] == ("warn", "0.0.1")
    assert told["node n1, kernel"] == ("fail", "5.4 is older than 5.10")
    refused = {"state": "Refused", "message": "no agent runs on this kernel: 6.1.1", "version": "0.0.1"}
    say("get sniffernodes.sniffer.dev -o json", [{"metadata": {"name": "n2"}, "status": refused}])
    assert main.run(["doctor", "--json"]) == 3
    rows = [one for one in json.loads(capsys.readouterr().out) if one["check"] == "node n2"]
    assert ("fail", "no agent runs on this kernel: 6.1.1") in [(one["result"], one["text"]) for one in rows]
    (tmp_path / "get nodes -o json").unlink()
    (tmp_path / "get customresourcedefinitions -o json").unlink()
    assert main.run(["doctor", "--json"]) == 3
    told = {one["check"]: (one["result"], one["text"]) for one in json.loads(capsys.readouterr().out)}
    assert [told[check][0] for check in ("definitions", "agents", "node n1, kernel")] == ["warn", "warn", "fail"]
    assert "cannot be looked at" in told["agents"][1]


def test_wrong_words_and_what_cannot_be(
    say: Say, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 for what is not there, 3 for a kubectl that fails or is missing; one line each."""
    monkeypatch.setattr(sys, "argv", ["kubectl-sniffer", "capture", "nosuch", "-w", "/dev/null"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert "(NotFound)" in capsys.readouterr().err
    say("get pods web -o json", pod("web", hostNetwork=True))
    with pytest.raises(InputError, match="its node's network"):
        main.run(["capture", "web", "-w", "/dev/null"])
    monkeypatch.setenv("KUBECTL", "/nonexistent/kubectl")
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 3
    for text in ("", "0s", "5 m", "-1", "nan"):
        with pytest.raises(InputError, match="--duration: given"):
            main.duration_s(text)
    assert [main.duration_s(text) for text in ("30", "30s", "1.5m", "1h")] == [30, 30, 90, 3600]


def test_capture_asks_the_agent_of_the_pods_node(say: Say) -> None:
    """Not whoever has an agent's labels: any pod may."""
    of = "app.kubernetes.io/name=sniffer,app.kubernetes.io/component=agent"
    agents = [pod("liar"), agent("agent-0", ready=False), agent("agent-1")]
    say(f"get pods -A -l {of} --field-selector spec.nodeName=n1 -o json", agents)
    options = capture.Options(filter="tcp port 80", count=3)
    words = capture.line_of(main.Kubectl(), pod("web"), options)[1:]
    assert words[:8] == ["exec", "-i", "-n", "sniffer-system", "agent-1", "-c", "agent", "--"]
    assert words[8:] == [
        "sniffer", "capture", "web", "--namespace=shop", "--keepalive=6", "--filter=tcp port 80", "--count=3"
    ]  # fmt: skip


FAR_END = """
import sys
beats = len(sys.stdin.read())
print("last words", beats, flush=True)
print("lost \x1b[2J", file=sys.stderr)
note = "command terminated with exit code 1" if "far" in sys.argv else "error: the connection was lost"
print(note, file=sys.stderr)
sys.exit(1)
"""


@pytest.mark.parametrize(("who", "status"), [("far", 1), ("kubectl", 3)])
def test_a_signal_lets_the_far_end_say_its_last_words(who: str, status: int) -> None:
    """It is told by the end of its input. Its exit status is ours; an error of kubectl's own is another."""
    line = [sys.executable, "-c", FAR_END, who]
    script = f"import sys; from sniffer.plugin.capture import run; print(flush=True); sys.exit(run({line!r}, 1))"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.readline()  # however long the imports take
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    out, said = process.communicate(timeout=10)
    assert out == "last words 1\n"
    assert said.splitlines() == ["lost \\x1b[2J", *(["error: the connection was lost"] if status == 3 else [])]
    assert process.returncode == status


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    script = (
        "import sys; from sniffer.plugin.capture import run; "
        "sys.exit(run(['sh', '-c', 'kill -PIPE $$'], sys.stdout.fileno()))"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=10).returncode == 0


def test_a_reader_that_dies_while_no_frame_comes() -> None:
    """As Wireshark may, of which its extcap hears nothing; kubectl would find out with the next frame."""
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        assert capture.run(["sh", "-c", "read line; cat >/dev/null; exit 3"], theirs) == 0
    finally:
        os.close(theirs)


def test_extcap_without_a_cluster(
    say: Say, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wireshark asks at every start: it gets a version, and no interfaces."""
    monkeypatch.setattr(sys, "argv", ["sniffer-extcap", "--extcap-interfaces", "--extcap-version=4.4"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("extcap {version=")


def test_extcap_lists_pods_that_can_be_captured(
    say: Say, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say("get pods -A -l app.kubernetes.io/name=sniffer,app.kubernetes.io/component=agent -o json", [agent("agent-1")])
    running = [pod("web"), pod("host", hostNetwork=True), pod("far", node="n2")]
    say("get pods -A --field-selector=status.phase=Running --request-timeout=5s -o json", running)
    from sniffer.plugin.extcap import extcap

    assert extcap(["--extcap-interfaces"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["interface {value=sniffer:shop/web}{display=Pod shop/web on n1}"]
    assert extcap(["--extcap-dlts", "--extcap-interface", "sniffer:shop/web"]) == 0
    assert capsys.readouterr().out == "dlt {number=1}{name=EN10MB}{display=Ethernet}\n"
    assert extcap(["--extcap-config", "--extcap-interface", "sniffer:shop/web"]) == 0
    assert capsys.readouterr().out.count("arg {number=") == 4
    with pytest.raises(InputError, match="--extcap-interface: given"):
        extcap(["--capture", "--extcap-interface", "eth0", "--fifo", "/dev/null"])


def test_completion(say: Say, capsys: pytest.CaptureFixture[str]) -> None:
    say("get pods -n shop --request-timeout=3s -o name", "pod/web-0\npod/web-1\npod/db-0\n")
    from sniffer.plugin.complete import complete

    options = main._options()
    for words, wanted in (
        (["ca"], "capture\n:4"),
        (["capture", "-n", "shop", "web"], "web-0\nweb-1\n:4"),
        (["capture", "--sn"], "--snap-length\n:4"),
        (["capture", "web", "-w", ""], ":0"),
        (["explain", ""], ":4"),
    ):
        complete(words, options)
        assert capsys.readouterr().out.strip() == wanted, words


def test_a_mirror_that_is_not_there(say: Say) -> None:
    """In words of what was asked for, not of the last kind that was tried."""
    for kind in KINDS.values():
        say(f"get {kind} web {'-n shop ' if kind == KINDS['TrafficMirror'] else ''}--ignore-not-found -o name", "")
    with pytest.raises(InputError, match=r'^mirror: given "shop/web", allowed a TrafficMirror that is there'):
        find(Kubectl(), "web", "shop")


def test_a_definition_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "kubectl"
    monkeypatch.setenv("KUBECTL", str(program))
    program.write_text('#!/bin/sh\necho "error: the server doesn\'t have a resource type" >&2; exit 1\n')
    program.chmod(0o755)
    with pytest.raises(KubectlError, match="kubectl sniffer doctor"):
        Kubectl().run("get", "trafficmirrors.sniffer.dev")


def test_a_cluster_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kubectl logs each of its attempts, long and alike; what it says at last is enough, where it says anything."""
    program = tmp_path / "kubectl"
    monkeypatch.setenv("KUBECTL", str(program))
    log = 'E1122 00:12:33.694881    1568 memcache.go:265] "Unhandled Error" err="connection refused"'
    for lines, expected in (([log, log, "The connection was refused"], "The connection was refused"), ([log], log)):
        program.write_text("#!/bin/sh\ncat >&2 <<'END'\n" + "\n".join(lines) + "\nEND\nexit 1\n")
        program.chmod(0o755)
        with pytest.raises(KubectlError) as raised:
            Kubectl().run("get", "pods")
        assert str(raised.value) == f"kubectl get: {expected}"


def test_the_one_file_needs_nothing_but_python(tmp_path: Path) -> None:
    """It runs where no package of ours or of others is, is the same twice, and is small."""
    file = tmp_path / "kubectl-sniffer"
    file.write_bytes(archive())
    assert file.read_bytes() == archive()
    assert file.stat().st_size < 100_000
    base = sys.base_prefix
    python = next(path for path in (Path(base, "bin", "python3"), Path("/usr/bin/python3")) if path.exists())
    environment = {"PATH": "/nonexistent", "HOME": str(tmp_path)}
    for words, status in ((["--help"], 0), (["capture", "--help"], 0), (["status"], 3), (["nosuch"], 2)):
        done = subprocess.run([python, "-I", "-S", file, *words], capture_output=True, text=True, env=environment)
        assert done.returncode == status, done.stderr
    assert (
        "examples:"
        in subprocess.run([python, "-I", "-S", file, "capture", "-h"], capture_output=True, text=True).stdout
    )
