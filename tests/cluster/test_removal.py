"""An installation that is upgraded, leaves a node, goes and comes again: by Helm, with agents that answer and one that
does not, and by kubectl alone. Production is counted all the time; what was there before is there afterwards.
"""

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import sniffer
from sniffer.kernel.pins import DIGEST_LENGTH
from sniffer.model.resources import API_VERSION
from tests.cluster import images, install, mirrors
from tests.cluster.api import Document
from tests.cluster.following import follow
from tests.cluster.gaps import watched
from tests.cluster.install import NAMESPACE, RELEASE
from tests.cluster.lab import Cluster
from tests.cluster.mirrors import applied, copies, ready, stream, wait_for_copy
from tests.cluster.node import Node
from tests.cluster.pod import Pod
from tests.inventory import assert_gone
from tests.numbered import datagrams, numbers
from tests.pages import alone, blocks, script
from tests.topology import wait_until

ROOT = Path(__file__).parents[2]
SNIFFER = Path(sys.executable).with_name("sniffer")
PROGRAMS = "sniffer/kernel/sniffer.bpf.o"
BUILT, SUCCESSOR = ROOT / PROGRAMS, ROOT / "build/successor/sniffer.bpf.o"
UPGRADES = int(os.environ.get("SNIFFER_UPGRADES", "5"))
"""Beside other tests; docs/operations.md has the figures of twenty, with the machine to themselves."""
HELMS = ("helm4", "helm3")
OURS = "/sys/fs/bpf/sniffer"
OPERATIONS = "docs/operations.md"
AGENT = {"labelSelector": "app.kubernetes.io/component=agent"}
CHOSEN = "mirrored"
REGISTRY = "registry.example"
ELSEWHERE = "/run/elsewhere"
LEASE_S = 8
ABSENT_S = 20
"""How long a node is without an agent at most: what is taken with the machine to itself is in the pages."""
_PROGRAM = re.compile(r'\("([^"]+)",pid=')
_VETH = re.compile(r"\bveth[0-9a-f]{8}\b")
OPTIONS = ("--set", f"agent.nodeSelector.{CHOSEN}=yes")
SHORT = (*OPTIONS, "--set", f"lease={LEASE_S}", "--set", "uninstallPatience=3")


@dataclass(frozen=True, slots=True)
class Bed:
    """`web` on node 1 and `web2` on node 2 are mirrored; each is sent to by the other node's."""

    namespace: str
    web: Pod
    web2: Pod
    before: dict[str, list[str]]
    """What a person sees of each node, before sniffer came."""
    listening: dict[str, set[str]]
    """What was listening then."""


@pytest.fixture(scope="module")
def installed(cluster: Cluster, loaded: str) -> Iterator[Cluster]:
    """Our own: it goes and comes. Nothing is there of what other tests had installed, and had running."""
    for node in cluster.nodes:
        node.run(SNIFFER, "cleanup", check=False)
        label(cluster, node, "yes")
    forget(cluster)
    cluster.wait(lambda: not strangers(cluster), 60, "pods of others gone")
    yield cluster
    if install.helm(cluster, "status", RELEASE, check=False).returncode == 0:
        install.uninstall(cluster, "helm4", "--no-hooks")
    for node in cluster.nodes:
        label(cluster, node, None)
        node.run(SNIFFER, "cleanup", check=False)
    forget(cluster)


@pytest.fixture(scope="module")
def bed(installed: Cluster, loaded: str) -> Iterator[Bed]:
    with installed.namespace() as namespace:
        web, web2 = (
            installed.pod(name, namespace, installed.node(number), labels={"app": "web"})
            for number, name in enumerate(("web", "web2"), start=1)
        )
        for pod in (web, web2):
            pod.offloads(False)
        web2.reaches(web.address)
        before = {node.name: seen(node) for node in installed.nodes}
        listening = {node.name: sockets(node) for node in installed.nodes}
        install.install(installed, loaded, *OPTIONS)
        mirror = mirrors.mirror("removal", namespace, ["removal"], filter="udp", direction="Ingress")
        with applied(installed, mirrors.target("removal"), mirror):
            ready(installed, "TrafficMirror", "removal", namespace)
            yield Bed(namespace, web, web2, before, listening)


@pytest.fixture(scope="module")
def successor(
    installed: Cluster, loaded: str, image: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The name of an image whose programs are others, with the same maps: every node has it."""
    path = images.path_of(image[1], PROGRAMS)
    files = {path: SUCCESSOR.read_bytes(), f"{path}.sha256": f"{digest(SUCCESSOR)}  sniffer.bpf.o\n".encode()}
    name = "localhost/sniffer:successor"
    installed.load(images.amended(image[1], tmp_path_factory.mktemp("image") / "successor.tar", name, files))
    return name


def forget(cluster: Cluster) -> None:
    """What nodes have said."""
    status, _ = cluster.api.request("GET", f"/apis/{API_VERSION}/sniffernodes")
    for report in cluster.objects("SnifferNode") if status == 200 else ():
        cluster.delete("SnifferNode", report["metadata"]["name"])


def strangers(cluster: Cluster) -> list[str]:
    pods = cluster.objects("Pod")
    return [pod["metadata"]["name"] for pod in pods if pod["metadata"]["namespace"] != "kube-system"]


def label(cluster: Cluster, node: Node, value: str | None) -> None:
    cluster.patch("Node", node.name, {"metadata": {"labels": {CHOSEN: value}}})


def python(node: Node, line: str) -> str:
    return node.run("env", f"PYTHONPATH={ROOT}", sys.executable, "-c", f"from tests import inventory\n{line}")


_SEEN = """
from tests.topology import run
links = run("ip", "-d", "link").splitlines()
print(inventory._TIMERS.sub("timer", run("ip", "-d", "-o", "link")), *inventory.surfaces()[len(links):], sep="\\n")
"""


# Notes of containerd and of its CNI about each pod, and what packages of the machine write.
_NOTES = ("/run/containerd", "/run/netns", "/run/tmp", "/run/cgroup", "/var/lib/cni")
_VOLATILE = (*_NOTES, "/var/lib/apt", "/var/lib/dpkg", "/var/lib/swcatalog")


def seen(node: Node) -> list[str]:
    """By ip, tc, bpftool and find, a line each; without empty clsacts."""
    pruned = [word for path in _VOLATILE for word in ("-path", path, "-prune", "-o")]
    places = ("/run", "/etc", "/var/lib")
    files = sorted(node.run("find", *places, "-xdev", *pruned, "-printf", "%y %m %p %l\\n").splitlines())
    return [one for one in (*python(node, _SEEN).splitlines(), *files) if not one.startswith("qdisc clsact ffff: dev")]


def sockets(node: Node) -> set[str]:
    """What listens on a node, of TCP, UDP, raw and packet sockets: kind, address and program."""
    rows = (line.split() for line in node.run("ss", "-Hlntuw0p").splitlines())
    return {f"{row[0]} {row[4]} {_PROGRAM.findall(row[-1])}" for row in rows}


def others(lines: list[str], before: list[str]) -> list[str]:
    """Without what is about pods' links that were not there before: the controller's come and go."""
    known = set(_VETH.findall(" ".join(before)))
    return [line for line in lines if set(_VETH.findall(line)) <= known]


def held(node: Node) -> dict[str, Any]:
    """The BPF objects that our pins on a node lead to."""
    found: dict[str, Any] = json.loads(python(node, "import json; print(json.dumps(inventory.pinned()))"))
    return found


def assert_clean(bed: Bed, node: Node, objects: dict[str, Any]) -> None:
    before = bed.before[node.name]
    assert others(seen(node), before) == before
    assert_gone({path: tuple(row) for path, row in objects.items()})


def digest(built: Path) -> str:
    """SHA-256 of an object."""
    return hashlib.sha256(built.read_bytes()).hexdigest()


def hooks(node: Node) -> dict[tuple[str, str], int]:
    """The program of each hook of a node, by device and direction."""

    def told() -> str:
        with suppress(AssertionError):  # a controller's link has gone meanwhile
            return python(node, "import json; print(json.dumps(sorted(inventory.attached())))")
        return ""

    rows = json.loads(wait_until(told, 10, every=0.1, what=f"hooks of {node.name}"))
    return {(device, way): program for device, way, program in rows}


def runs(node: Node, built: Path) -> None:
    """Waits until a node has the programs of this object, and no others: pinned, and on its hooks."""
    homes = node.path(OURS)
    wait_until(
        lambda: [one.name for one in homes.glob("abi-*/programs/*")] == [digest(built)[:DIGEST_LENGTH]],
        10,
        every=0.1,
        what=f"{node.name} has the programs of {built}",
    )
    ours = {number for kind, number, _ in held(node).values() if kind == "prog"}
    assert set(hooks(node).values()) <= ours


def state(cluster: Cluster, node: Node) -> str:
    return str(cluster.get("SnifferNode", node.name).get("status", {}).get("state"))


@dataclass(slots=True)
class Count:
    """Of the copies of what `web` received meanwhile."""

    frames: int = 0
    lost: int = 0
    doubled: int = 0


def backlog_drops() -> int:
    """Of all CPUs of this machine, whose backlogs every network of it shares: a flood elsewhere fills them too."""
    return sum(int(line.split()[1], 16) for line in Path("/proc/net/softnet_stat").read_text().splitlines())


@contextmanager
def counted(installed: Cluster, bed: Bed) -> Iterator[Count]:
    """Traffic to `web` meanwhile, of which production loses nothing; filled in at the end."""
    count = Count()
    with bed.web.capture() as pod, installed.analyzer.capture() as analyzer:
        with stream(bed.web2, bed.web):
            before = backlog_drops()
            wait_until(lambda: len(datagrams(pod.frames)) > 100, 10, what="traffic")
            began = time.monotonic()
            yield count
            ended = time.monotonic()
            time.sleep(0.3)
        pod.settle()
        analyzer.settle()
    received = datagrams(pod.frames)
    first, last = received[0].number, received[-1].number
    said = f"production lost, doubled or disordered something, while CPUs dropped {backlog_drops() - before} packets"
    is_whole, missing = numbers(received) == [*range(first, last + 1)], {*range(first, last + 1)} - {*numbers(received)}
    assert is_whole, f"{said}; missing: {len(missing)}, {sorted(missing)[:20]}"
    wanted = {one.number for one in received if began < one.when < ended}
    copied = [one.number for one in copies(analyzer.frames) if one.number in wanted]
    count.frames, count.lost = len(wanted), len(wanted - set(copied))
    count.doubled = len(copied) - len(set(copied))


_GROWN = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/suspend"


def make_older(installed: Cluster) -> None:
    """Takes a field from a definition, as if it were of an earlier release."""
    older = [
        {"op": "replace", "path": "/metadata/annotations/sniffer.dev~1version", "value": "0.0.9"},
        {"op": "remove", "path": _GROWN},
    ]
    path = installed.api.path("CustomResourceDefinition", "mirrortargets.sniffer.dev")
    installed.api.ask("PATCH", path, older, content_type="application/json-patch+json")
    assert not grown(installed)


def grown(installed: Cluster) -> bool:
    """Whether the definition has that field."""
    found: Any = installed.get("CustomResourceDefinition", "mirrortargets.sniffer.dev")
    for name in _GROWN.split("/")[1:-1]:
        found = found[int(name) if name.isdigit() else name]
    return "suspend" in found


@pytest.mark.timeout(600)
def test_upgrades_and_rollbacks(installed: Cluster, bed: Bed, loaded: str, successor: str) -> None:
    """E9: no frame of production is lost, no copy is lost or doubled, and definitions only grow; with the same programs
    and with others, which replace the former ones on every node.
    """
    make_older(installed)
    images_of = {turn: (successor, SUCCESSOR) if turn % 8 < 4 else (loaded, BUILT) for turn in range(UPGRADES)}
    agents = {pod["metadata"]["uid"] for pod in installed.objects("Pod", NAMESPACE, **AGENT)}
    first = {node.name: held(node) for node in installed.nodes}
    on = {node.name: hooks(node) for node in installed.nodes}
    began = time.monotonic()
    with counted(installed, bed) as count, watched(installed) as absences:
        for turn, (image, built) in images_of.items():
            # The first as it is by default, the nodes one after the other; the others at once, for there are many.
            at_once = ("--set", "agent.maxUnavailable=100%") if turn else ()
            annotation = ("--set-string", f"agent.podAnnotations.turn={turn}")
            install.install(installed, image, *OPTIONS, *at_once, *annotation, helm=HELMS[turn % 2])
            assert grown(installed), "the hook has brought the definition up to date"
            now = {pod["metadata"]["uid"] for pod in installed.objects("Pod", NAMESPACE, **AGENT)}
            assert agents.isdisjoint(now), "every agent is another one"
            agents = now
            for node in installed.nodes:
                runs(node, built)
        back = max(UPGRADES - 6, 1)  # Helm remembers ten revisions
        install.helm(installed, "rollback", RELEASE, back, by="helm3")
        install.wait(installed)
        for node in installed.nodes:
            runs(node, images_of[back - 2][1] if back > 1 else BUILT)
        assert grown(installed), "a rollback takes nothing from the definition"
    for node in installed.nodes:
        last = held(node)
        was, now_is = ({key: row for key, row in one.items() if row[0] == "map"} for one in (first[node.name], last))
        assert was == now_is, "maps outlive programs"
        assert_gone({path: tuple(row) for path, row in first[node.name].items() if row[0] == "prog"})
        assert hooks(node).keys() == on[node.name].keys()
    print(f"{UPGRADES} upgrades and a rollback in {time.monotonic() - began:.0f} s: {count}")
    for found in absences:
        assert len(found) >= (UPGRADES + 1) * len(installed.nodes), found
        assert max(found) < ABSENT_S
    assert count.frames > 2000
    assert (count.lost, count.doubled) == (0, 0)
    names = {
        one["metadata"]["name"] for kind in ("Job", "ServiceAccount") for one in installed.objects(kind, NAMESPACE)
    }
    assert not names & {"sniffer-crds", "sniffer-cleanup"}, "hooks leave nothing"


def test_nothing_else_of_a_node_listens(installed: Cluster, bed: Bed) -> None:
    for node in installed.nodes:
        assert sockets(node) - bed.listening[node.name] == {"tcp 127.0.0.1:9751 ['sniffer']"}


def test_agents_say_how_they_are_to_their_node_only(installed: Cluster, bed: Bed) -> None:
    here, there = installed.nodes
    for path in ("healthz", "readyz"):
        assert here.run("curl", "-sS", f"http://127.0.0.1:9751/{path}") == "ok\n"
    refused = there.run(
        "curl",
        "-sS",
        "-m",
        2,
        f"http://{here.address}:9751/healthz",
        "-o",
        "/dev/null",
        "-w",
        "%{exitcode}",
        check=False,
    )
    assert refused == "7"


def test_a_node_leaves_and_comes_back(installed: Cluster, bed: Bed) -> None:
    node, other = installed.nodes
    objects = held(node)
    assert objects
    with counted(installed, bed) as count:
        label(installed, node, None)
        installed.wait(lambda: state(installed, node) == "Clean", 20, "node1 Clean")
        assert_clean(bed, node, objects)
        assert state(installed, other) == "Running"
        assert held(other)
        label(installed, node, "yes")
        installed.wait(lambda: state(installed, node) == "Running", 30, "node1 Running")
        ready(installed, "TrafficMirror", "removal", bed.namespace, timeout=30)
        time.sleep(1)
    assert count.lost < count.frames, "it is mirrored again"
    assert count.doubled == 0


def test_an_uninstall_leaves_nothing(installed: Cluster, bed: Bed, tmp_path: Path) -> None:
    objects = {node.name: held(node) for node in installed.nodes}
    before = {kind: len(installed.objects(kind)) for kind in ("CustomResourceDefinition", "MirrorTarget")}
    with counted(installed, bed) as count:
        began = time.monotonic()
        done = follow(installed, script(OPERATIONS, "Uninstall"), tmp_path)
        said = done.stdout + done.stderr
        installed.wait(lambda: not installed.objects("Pod", NAMESPACE), 60, "pods of sniffer gone")
        print(f"uninstalled in {time.monotonic() - began:.1f} s")
    assert "2 of 2 nodes are clean" in said
    assert "is not clean" not in said
    assert count.lost
    for node in installed.nodes:
        assert state(installed, node) == "Clean"
        assert_clean(bed, node, objects[node.name])
    assert {kind: len(installed.objects(kind)) for kind in before} == before
    assert installed.get("TrafficMirror", "removal", bed.namespace)
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        names = [one["metadata"]["name"] for one in installed.objects(kind)]
        assert not [name for name in names if name.startswith("sniffer")]
    kinds = ("Job", "Role", "RoleBinding", "ServiceAccount", "ConfigMap", "Pod", "Secret")
    left = {one["metadata"]["name"] for kind in kinds for one in installed.objects(kind, NAMESPACE)}
    assert left <= {"default", "kube-root-ca.crt", "sniffer"}
    again = install.helm(installed, "uninstall", RELEASE, check=False)
    assert again.returncode == 1
    assert "not found" in again.stderr


def test_installed_again(installed: Cluster, bed: Bed, loaded: str, tmp_path: Path) -> None:
    """In the words of the README. The order of the former release means nothing to the new one."""
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    for node in installed.nodes:
        name = f"{REGISTRY}/sniffer:{sniffer.__version__}"
        node.run("ctr", "--namespace", "k8s.io", "images", "tag", "--force", loaded, name)
    line = alone("README.md", "helm install")
    assert line == alone("docs/api.md", "helm install")
    follow(installed, line.replace("REGISTRY", REGISTRY), tmp_path)
    all_run(installed, bed)
    pods = {pod["metadata"]["uid"] for pod in installed.objects("Pod", NAMESPACE)}
    follow(installed, script(OPERATIONS, "Upgrade, roll back"), tmp_path)
    assert json.loads(install.helm(installed, "status", RELEASE, "--output=json").stdout)["version"] == 3
    with counted(installed, bed) as count:
        time.sleep(1)
    assert (count.lost, count.doubled) == (0, 0)
    assert {pod["metadata"]["uid"] for pod in installed.objects("Pod", NAMESPACE)} == pods, "nothing is another"


def all_run(installed: Cluster, bed: Bed) -> None:
    """Waits until every node says that it runs, and the mirror is Ready."""
    for node in installed.nodes:
        installed.wait(lambda node=node: state(installed, node) == "Running", 30, f"{node.name} Running")
    ready(installed, "TrafficMirror", "removal", bed.namespace, timeout=30)


def test_told_to_clean_and_told_otherwise(installed: Cluster, bed: Bed, tmp_path: Path) -> None:
    """E8: by the command, twice, without an uninstall; the same agents rest, and mirror again."""
    objects = {node.name: held(node) for node in installed.nodes}
    order, otherwise = (block.script for block in blocks(OPERATIONS, "Clean without an uninstall"))
    for _ in range(2):
        assert "2 of 2 nodes are clean" in follow(installed, order, tmp_path).stdout
    for node in installed.nodes:
        assert_clean(bed, node, objects[node.name])
    follow(installed, otherwise, tmp_path)
    all_run(installed, bed)
    with counted(installed, bed) as count:
        time.sleep(0.5)
    assert (count.lost, count.doubled) == (0, 0)


def test_an_agent_that_does_not_answer(installed: Cluster, bed: Bed, loaded: str) -> None:
    """It is named, and everything else goes; its copies end with the lease, and one pod removes what is left."""
    install.install(installed, loaded, *SHORT)
    all_run(installed, bed)
    alive, dead = installed.nodes
    objects = {node.name: held(node) for node in installed.nodes}
    [pod] = installed.objects("Pod", NAMESPACE, **AGENT, fieldSelector=f"spec.nodeName={dead.name}")
    pids = [str(pid) for pid in dead.pids(f"**/*{pod['metadata']['uid']}*/**")]
    dead.run("kill", "-STOP", *pids)
    stopped = time.monotonic()
    with installed.analyzer.capture() as analyzer, stream(bed.web, bed.web2, port=10):
        said = install.helm(installed, "uninstall", RELEASE, by="helm3")
        words = said.stdout + said.stderr
        assert "1 of 2 nodes are clean" in words
        assert f"{dead.name} is not clean: its agent" in words
        assert f"{alive.name} is not clean" not in words
        assert_clean(bed, alive, objects[alive.name])
        name = pod["metadata"]["name"]
        installed.wait(lambda: _ends(installed, name), 20, "the agent's pod ends")
        dead.run("kill", "-KILL", *pids)
        installed.wait(lambda: not installed.objects("Pod", NAMESPACE), 60, "pods of sniffer gone")
        time.sleep(max(stopped + LEASE_S + 1 - time.monotonic(), 0))
        last = max(one.when for one in copies(analyzer.frames) if one.port == 10)
    assert last - stopped < LEASE_S + 0.5, f"copied for {last - stopped:.1f} s"
    assert held(dead)
    by_hand(installed, [dead], loaded)
    assert_clean(bed, dead, objects[dead.name])


def test_an_uninstall_whose_job_cannot_run(installed: Cluster, bed: Bed, loaded: str, tmp_path: Path) -> None:
    """There is no image: one node's agent is gone, and the job never starts. Helm says so, and goes on when told to.

    Installed anew by Helm 3 where an earlier release has left its definitions.
    """
    make_older(installed)
    install.install(installed, loaded, *SHORT, helm="helm3")
    assert grown(installed)
    ready(installed, "TrafficMirror", "removal", bed.namespace, timeout=30)
    objects = {node.name: held(node) for node in installed.nodes}
    with counted(installed, bed):
        install.helm(installed, "upgrade", RELEASE, install.CHART, "--reuse-values", "--set", "image.tag=nowhere")
        gone = installed.wait(lambda: _without_image(installed, "agent"), 30, "an agent that does not start")
        failed = install.helm(installed, "uninstall", RELEASE, "--timeout", "5s", check=False)
        assert failed.returncode == 1
        print(failed.stdout, failed.stderr)
        assert "sniffer-cleanup" in failed.stderr
        assert len(install.workloads(installed)) == 2, "nothing is deleted"
        assert all(held(node) for node in installed.nodes)
        follow(installed, alone(OPERATIONS, "helm uninstall sniffer --namespace sniffer-system --no-hooks"), tmp_path)
        installed.wait(lambda: not installed.objects("Pod", NAMESPACE), 60, "pods of sniffer gone")
        left = [node for node in installed.nodes if state(installed, node) != "Clean"]
        assert set(gone or ()) <= {node.name for node in left}
        by_hand(installed, left, loaded)
    for node in installed.nodes:
        assert_clean(bed, node, objects[node.name])


def _without_image(cluster: Cluster, component: str) -> list[str]:
    """Nodes of pods that wait for an image."""
    pods = cluster.objects("Pod", NAMESPACE, labelSelector=f"app.kubernetes.io/component={component}")
    reasons = {
        pod["spec"]["nodeName"]: status["state"].get("waiting", {}).get("reason", "")
        for pod in pods
        for status in pod["status"].get("containerStatuses", ())
    }
    return [node for node, reason in reasons.items() if "Image" in reason]


def _ends(cluster: Cluster, name: str) -> bool:
    found = [pod for pod in cluster.objects("Pod", NAMESPACE) if pod["metadata"]["name"] == name]
    return not found or "deletionTimestamp" in found[0]["metadata"]


def by_hand(cluster: Cluster, nodes: Sequence[Node], image: str) -> None:
    """As the documentation has it."""
    [block] = blocks(OPERATIONS, "By hand")
    names = []
    for node in nodes:
        document: Document = yaml.safe_load(block.text.replace("NODE", node.name).replace("IMAGE", image))
        document["metadata"]["name"] += f"-{node.name}"
        names.append(document["metadata"]["name"])
        cluster.apply(document)
    done = ("Succeeded", "Failed")
    for name in names:
        cluster.wait(lambda name=name: cluster.get("Pod", name, NAMESPACE)["status"].get("phase") in done, 30, "clean")
        logs = alone(OPERATIONS, "kubectl logs sniffer-cleanup").replace("sniffer-cleanup", name)
        assert "removed relay" in cluster.kubectl(*logs.split()[1:])
    cluster.kubectl("delete", "pod", *names, "-n", NAMESPACE, "--wait=false")


def test_everything_deleted_at_once(installed: Cluster, bed: Bed, loaded: str) -> None:
    """Nobody could ask why it ends: copies end with the lease. The runtime keeps its namespaces elsewhere."""
    for pod in (bed.web, bed.web2):
        pod.node.run(
            "sh",
            "-ec",
            f"mkdir {ELSEWHERE}; touch {ELSEWHERE}/x; mount --bind {pod.netns_file.resolve()} {ELSEWHERE}/x",
        )
    install.install(installed, loaded, *SHORT, "--set", f"netnsPath={ELSEWHERE}")
    ready(installed, "TrafficMirror", "removal", bed.namespace, timeout=30)
    objects = {node.name: held(node) for node in installed.nodes}
    manifest = installed.home / "manifest.yaml"
    manifest.write_text(install.helm(installed, "get", "manifest", RELEASE).stdout)
    with installed.analyzer.capture() as analyzer, counted(installed, bed):
        wait_for_copy(analyzer, time.monotonic(), 5)
        installed.kubectl("delete", "--wait=false", "-f", manifest)
        deleted = time.monotonic()
        installed.wait(lambda: not installed.objects("Pod", NAMESPACE), 60, "pods of sniffer gone")
        time.sleep(max(deleted + LEASE_S + 3 - time.monotonic(), 0))
        last = max(one.when for one in copies(analyzer.frames))
    assert last - deleted < LEASE_S + 2, f"copied for {last - deleted:.1f} s"
    for node in installed.nodes:
        assert held(node)
    by_hand(installed, installed.nodes, loaded)
    for node in installed.nodes:
        node.run("sh", "-ec", f"umount {ELSEWHERE}/x; rm {ELSEWHERE}/x; rmdir {ELSEWHERE}")
        assert_clean(bed, node, objects[node.name])
    installed.kubectl("delete", "secret", "-l", "owner=helm", "-n", NAMESPACE)
