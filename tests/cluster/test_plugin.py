"""The kubectl plugin and Wireshark's extcap in a cluster with sniffer installed, as a user has them: the file that the
image itself hands out, found by kubectl on the PATH.
"""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sniffer.plugin.capture import KEEPALIVE_S
from tests.cluster.install import NAMESPACE
from tests.cluster.lab import Cluster
from tests.cluster.mirrors import applied, mirror, ready, stream, target
from tests.cluster.node import Node
from tests.cluster.pod import Pod
from tests.receivers import inner_frames
from tests.topology import run, wait_until

ROOT = Path(__file__).parents[2]
BUSY_S = 9.0
"""What a machine that other runs share takes to end a process, and to be looked at: 0.1 to 2.8 s beside three."""


@dataclass(frozen=True, slots=True)
class Bed:
    """`web` on node 1, `client` on node 2; `environment` of a user whose PATH has kubectl and the plugin."""

    cluster: Cluster
    namespace: str
    web: Pod
    client: Pod
    environment: Mapping[str, str]

    def line(self, *words: object) -> list[str]:
        return ["kubectl", "sniffer", *map(str, words)]

    def run(self, *words: object, status: int = 0) -> str:
        """Standard output of `kubectl sniffer ...`."""
        done = subprocess.run(self.line(*words), capture_output=True, text=True, env=self.environment, timeout=60)
        assert done.returncode == status, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, file: Path, *words: object) -> "subprocess.Popen[str]":
        """`kubectl sniffer capture web` into a file, attached; in a session of its own, as a shell would have it."""
        before = programs(self.web.node)
        line = self.line("capture", "web", "-n", self.namespace, *words)
        with file.open("wb") as output:
            process = subprocess.Popen(
                line, stdout=output, stderr=subprocess.PIPE, text=True, env=self.environment, start_new_session=True
            )
        try:
            wait_until(lambda: programs(self.web.node) - before, 20, every=0.1, what="capturing")
        except AssertionError:
            process.kill()
            raise AssertionError(process.communicate()) from None
        return process


def programs(node: Node) -> set[tuple[str, str, int]]:
    """What is attached on a node: (device, direction, program)."""
    line = "import json; from tests.inventory import attached; print(json.dumps(sorted(attached())))"
    return {tuple(row) for row in json.loads(node.run("env", f"PYTHONPATH={ROOT}", sys.executable, "-c", line))}


@pytest.fixture(scope="module")
def bed(installed: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    place = tmp_path_factory.mktemp("bin")
    plugin = place / "kubectl-sniffer"
    words = ("exec", "-n", NAMESPACE, "deploy/sniffer-controller", "--", "sniffer", "plugin")
    with plugin.open("wb") as file:
        line = [str(installed.binaries / "kubectl"), *words]
        subprocess.run(line, stdout=file, check=True, env=installed.environment())
    plugin.chmod(0o755)
    (place / "kubectl_complete-sniffer").symlink_to(plugin)
    path = f"{place}:{installed.binaries}:{os.environ['PATH']}"
    home = tmp_path_factory.mktemp("home")
    for place in (".local/lib", ".config"):
        extcap = home / place / "wireshark/extcap"
        extcap.mkdir(parents=True)
        (extcap / "sniffer-extcap").symlink_to(plugin)
    environment = installed.environment() | {"PATH": path, "HOME": str(home)}
    with installed.namespace() as namespace:
        web = installed.pod("web", namespace, installed.node(1), labels={"app": "web"})
        client = installed.pod("client", namespace, installed.node(2))
        for pod in (web, client):
            pod.offloads(False)
            pod.reaches(client.address if pod is web else web.address)
        yield Bed(installed, namespace, web, client, environment)


@contextmanager
def nothing_stays(node: Node) -> Iterator[None]:
    """Of a capture: no program on any hook as long after its end as docs/plugin.md says, however it ended."""
    before = programs(node)
    yield
    began_s = time.monotonic()
    wait_until(lambda: programs(node) <= before, KEEPALIVE_S + BUSY_S, every=0.2, what="nothing of a capture is left")
    print(f"gone after {time.monotonic() - began_s:.1f} s")


def frames(file: Path, environment: Mapping[str, str]) -> list[bytes]:
    """As tshark decodes them."""
    line = ["tshark", "-r", str(file), "-T", "jsonraw", "-j", "frame"]
    done = subprocess.run(line, capture_output=True, text=True, env=dict(environment))
    return [bytes.fromhex(one["_source"]["layers"]["frame_raw"][0]) for one in json.loads(done.stdout)]


def test_every_frame_of_the_pod_while_it_is_mirrored(bed: Bed, tmp_path: Path) -> None:
    """The capture, the mirror and the pod's own packet socket agree, byte for byte; Ctrl-C ends it in order."""
    to, of = target("beside"), mirror("beside", bed.namespace, ["beside"], {"app": "web"})
    file = tmp_path / "web.pcapng"
    with applied(bed.cluster, to, of):
        ready(bed.cluster, "TrafficMirror", "beside", bed.namespace)
        _capture_beside_a_mirror(bed, file)


def _capture_beside_a_mirror(bed: Bed, file: Path) -> None:
    with nothing_stays(bed.web.node):
        capture = bed.start(file)
        with bed.cluster.analyzer.capture() as analyzer, bed.web.capture(outgoing=True) as pod:
            bed.client.run("ping", "-c", 5, "-i", 0.05, bed.web.address)
            bed.client.run("ping", "-c", 3, "-i", 0.05, "-s", 1472, bed.web.address)
            pod.settle()
            analyzer.settle()
        (agent,) = [one for one in bed.cluster.objects("Pod", NAMESPACE) if on(one, bed.web.node.name)]
        words = ("exec", "-n", NAMESPACE, agent["metadata"]["name"], "--", "sniffer", "status", "--json")
        hooks = json.loads(bed.cluster.kubectl(*words))["hooks"]
        assert {(hook["state"], tuple(hook["ahead"])) for hook in hooks} == {("attached", ())}
        capture.send_signal(signal.SIGINT)
        _, said = capture.communicate(timeout=20)
        assert capture.returncode == 0, said
        wanted = pod.octets()
        captured = frames(file, bed.environment)
        assert sorted(inner_frames(frame.octets for frame in analyzer.frames)) == sorted(wanted)
        first = captured.index(wanted[0])
        assert captured[first : first + len(wanted)] == wanted
        assert f"{len(captured)} frames" in said
        assert "Number of stat entries = 1" in run("capinfos", "-M", file)


def on(pod: Mapping[str, "object"], node: str) -> bool:
    """Whether it is the agent's pod of a node."""
    metadata, spec = pod["metadata"], pod["spec"]
    return spec["nodeName"] == node and metadata["labels"]["app.kubernetes.io/component"] == "agent"  # type: ignore[index]


def test_the_terminal_dies(bed: Bed, tmp_path: Path) -> None:
    """Its window is closed, or the connection to it: SIGHUP to what runs there."""
    master, slave = pty.openpty()
    with (tmp_path / "web.pcapng").open("wb") as output, nothing_stays(bed.web.node):
        line = ["setsid", "--ctty", "--wait", *bed.line("capture", "web", "-n", bed.namespace)]
        before = programs(bed.web.node)
        process = subprocess.Popen(line, stdin=slave, stdout=output, stderr=slave, env=bed.environment)
        os.close(slave)
        wait_until(lambda: programs(bed.web.node) - before, 20, every=0.1, what="capturing")
        os.close(master)
        process.wait(20)


@pytest.mark.parametrize("victim", ["kubectl", "plugin"])
def test_kill_9_leaves_nothing(bed: Bed, tmp_path: Path, victim: str) -> None:
    """Of kubectl, and of the plugin itself: the lifeline is cut, and the node is clean within seconds."""
    with stream(bed.client, bed.web, rate=50), nothing_stays(bed.web.node):
        capture = bed.start(tmp_path / "web.pcapng")
        children = run("pgrep", "-P", capture.pid).split()
        assert len(children) == 1
        os.kill(int(children[0]) if victim == "kubectl" else capture.pid, signal.SIGKILL)
        capture.wait(10)


def test_a_connection_that_is_cut_in_silence(bed: Bed, tmp_path: Path) -> None:
    """kubectl stopped: no packet says so, the beats just stay away."""
    with stream(bed.client, bed.web, rate=50), nothing_stays(bed.web.node):
        capture = bed.start(tmp_path / "web.pcapng")
        capture.send_signal(signal.SIGSTOP)
    capture.kill()
    capture.communicate()


def test_options_reach_the_node(bed: Bed, tmp_path: Path) -> None:
    """Into a file of its own; a filter that does not compile is refused there, in libpcap's words."""
    file = tmp_path / "few.pcapng"
    with stream(bed.client, bed.web, rate=200), nothing_stays(bed.web.node):
        words = ("capture", f"{bed.namespace}/web", "--filter", "udp port 9", "--count", 5, "--snap-length", 60)
        bed.run(*words, "-w", file)
        found = frames(file, bed.environment)
        assert [len(frame) for frame in found] == [60] * 5
        done = subprocess.run(
            bed.line("capture", "web", "-n", bed.namespace, "--filter", "tcp prot"),
            capture_output=True, text=True, env=dict(bed.environment),
        )  # fmt: skip
    assert done.returncode == 2
    assert '--filter: given "tcp prot"' in done.stderr
    bed.run("capture", "nosuch", "-n", bed.namespace, status=2)


def test_wireshark_sees_pods(bed: Bed, tmp_path: Path) -> None:
    """In its list of interfaces, by the real tshark and dumpcap; it captures from one and stops."""
    name = f"sniffer:{bed.namespace}/web"
    file = tmp_path / "shark.pcapng"
    with stream(bed.client, bed.web, rate=200), nothing_stays(bed.web.node):
        shown = subprocess.run(["tshark", "-D"], capture_output=True, text=True, env=dict(bed.environment))
        assert name in shown.stdout, shown
        line = ["tshark", "-i", name, "-f", "udp port 9", "-c", "20", "-w", str(file)]
        done = subprocess.run(line, capture_output=True, text=True, env=dict(bed.environment), timeout=60)
        assert done.returncode == 0, done.stderr
    assert len(frames(file, bed.environment)) >= 20


def test_wireshark_is_killed(bed: Bed, tmp_path: Path) -> None:
    """All of it at once, while the pod is silent: its extcap is told nothing, and has nothing to write."""
    line = ["tshark", "-i", f"sniffer:{bed.namespace}/web", "-f", "udp port 9", "-w", str(tmp_path / "shark.pcapng")]
    with nothing_stays(bed.web.node):
        before = programs(bed.web.node)
        shark = subprocess.Popen(line, stderr=subprocess.DEVNULL, env=bed.environment)
        wait_until(lambda: programs(bed.web.node) - before, 30, every=0.1, what="capturing")
        dumpcaps = [
            pid for pid in run("pgrep", "-P", shark.pid).split() if "dumpcap" in Path(f"/proc/{pid}/comm").read_text()
        ]
        assert dumpcaps
        for pid in (shark.pid, *map(int, dumpcaps)):
            os.kill(pid, signal.SIGKILL)
        shark.wait(10)


def test_what_it_tells(bed: Bed) -> None:
    """status, explain, logs and doctor of a mirror that works, made by apply-template, and of one that does not."""
    words = ("apply-template", "told", "-n", bed.namespace, "--pods", "app=web", "--to", "10.200.0.100")
    assert "kind: TrafficMirror" in bed.run(*words, "--dry-run")
    bed.run("explain", "told", "-n", bed.namespace, status=2)
    assert "created" in bed.run(*words)
    broken = mirror("broken", bed.namespace, ["nosuch"], {"app": "web"})
    try:
        with applied(bed.cluster, broken):
            ready(bed.cluster, "TrafficMirror", "told", bed.namespace)
            bed.cluster.wait(lambda: "TargetNotFound" in bed.run("status", status=1), 20)
            rows = {row["name"]: row for row in json.loads(bed.run("status", "--json", status=1))["mirrors"]}
            assert (rows["told"]["state"], rows["told"]["pods"], rows["told"]["readyNodes"]) == ("Ready", 1, 1)
            assert (rows["broken"]["state"], rows["broken"]["reason"]) == ("NotAccepted", "TargetNotFound")
            shown = bed.run("explain", "broken", "-n", bed.namespace, status=1)
            assert "TargetNotFound" in shown
            told = json.loads(bed.run("explain", "told", "-n", bed.namespace, "--json"))
            (node,) = told["nodeList"]
            assert (node["node"], node["state"], node["interfaces"]) == ("node1", "Programmed", [bed.web.link])
            assert node["pods"] == [f"{bed.namespace}/web"]
            assert told["targetList"][0]["state"] == "Ready"
            lines = bed.run("logs", "told", "-n", bed.namespace).splitlines()
            assert any(line.startswith("node1 ") and "Programmed of 1 pod" in line for line in lines)
            assert not any("broken" in line for line in lines)
    finally:
        bed.cluster.delete("TrafficMirror", "told", bed.namespace)
        bed.cluster.delete("MirrorTarget", "told")
    found = subprocess.run(bed.line("doctor", "--json"), capture_output=True, text=True, env=dict(bed.environment))
    checks = {one["check"]: one for one in json.loads(found.stdout)}
    for check in ("versions", "definitions", "controller", "agents", "agents' version", "reports"):
        assert checks.get(check, {"result": "ok"})["result"] == "ok", checks[check]
    assert found.returncode in {0, 1}
    assert any(check.startswith("node node2") for check in checks)


def test_a_node_without_an_agent(bed: Bed) -> None:
    """Nobody captures there, and doctor says why; a node's network is refused."""
    words = ("patch", "daemonset", "sniffer-agent", "-n", NAMESPACE, "--type=merge", "-p")
    select = {"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node2"}}}}}
    before = bed.cluster.get("DaemonSet", "sniffer-agent", NAMESPACE)["spec"]["template"]["spec"]["nodeSelector"]
    bed.cluster.kubectl(*words, json.dumps(select))
    try:
        bed.cluster.wait(lambda: agents(bed) == ["node2"] and rolled_out(bed), 60, "one agent")
        done = subprocess.run(
            bed.line("capture", "web", "-n", bed.namespace, "-w", "/dev/null"),
            capture_output=True, text=True, env=dict(bed.environment),
        )  # fmt: skip
        assert done.returncode == 3
        assert "agent does not run on node node1" in done.stderr
        found = {one["check"]: one for one in json.loads(bed.run("doctor", "--json", status=1))}
        assert (found["node node1"]["result"], found["node node1"]["text"]) == ("warn", "no agent")
    finally:
        back = {"kubernetes.io/hostname": None, **before}
        bed.cluster.kubectl(*words, json.dumps({"spec": {"template": {"spec": {"nodeSelector": back}}}}))
        bed.cluster.wait(lambda: len(agents(bed)) == 2 and rolled_out(bed), 60, "both agents")


def rolled_out(bed: Bed) -> bool:
    """Whether the agents that are there are those that the DaemonSet asks for now."""
    found = bed.cluster.get("DaemonSet", "sniffer-agent", NAMESPACE)
    status, wanted = found["status"], found["status"].get("desiredNumberScheduled")
    seen = status.get("observedGeneration") == found["metadata"]["generation"]
    return seen and wanted == status.get("updatedNumberScheduled") == status.get("numberReady")


def agents(bed: Bed) -> list[str]:
    """Of nodes whose agent is ready."""
    words = ("get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=agent", "-o", "json")
    items = json.loads(bed.cluster.kubectl(*words))["items"]
    return [
        item["spec"]["nodeName"]
        for item in items
        if not item["metadata"].get("deletionTimestamp")
        and any(one["type"] == "Ready" and one["status"] == "True" for one in item["status"].get("conditions", ()))
    ]


def test_completion(bed: Bed) -> None:
    """As kubectl asks for it."""
    done = subprocess.run(
        ["kubectl", "__complete", "sniffer", "capture", "-n", bed.namespace, "w"],
        capture_output=True, text=True, env=dict(bed.environment),
    )  # fmt: skip
    assert done.stdout.splitlines() == ["web", ":4"], done
