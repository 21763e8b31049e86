"""Pods come and go by the hundred with mirrors on them: never one packet of a wrong pod, and nothing is left.

Every pod pings from its first moment on, with a length that nobody else has: whatever of it is copied says whose it is,
whoever had its address before. Five of eight are selected, labels of some change while they run.
SNIFFER_CHURN_PODS says how many pods, by default those that take a minute.
"""

import json
import math
import os
import statistics
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cluster import pod as pods
from tests.cluster.install import NAMESPACE
from tests.cluster.lab import Cluster
from tests.cluster.mirrors import ANALYZER, applied, mirror, ready, target
from tests.cluster.node import Node
from tests.numbered import VXLAN
from tests.wire import Capture, Frame

PODS = int(os.environ.get("SNIFFER_CHURN_PODS", "160"))
PER_NODE = 40
SELECTED = 0, 2, 4, 6, 7
"""Of eight pods of a node. Of the 160 that is 100: their slowest but one is the 99th percentile."""
ADDRESSES = 48
"""Of a node, while this runs: a few more than its pods, so each is used again at once."""
SHORTEST = 100
"""Bytes of an echo request's payload."""
AIM_S, ALONE_S, BESIDE_S = 1.0, 2.0, 5.0
"""From Running to the first copy, at the 99th percentile: what is aimed at, and what is demanded where this runs alone,
and beside others: 0.6 to 1.8 s were seen alone (docs/adr/0016)."""
MISSED_ALONE_S, MISSED_BESIDE_S = ALONE_S, BESIDE_S
"""From Running to the last packet that is not copied, at the 99th percentile: what is demanded alone, and where the
agent waits for a processor too. Here one kernel has the pods of two nodes, and all that other tests make."""
ALONE = 0.5
"""An idle cluster of two nodes takes less of a machine's processors; more, before or after, and others are at work."""
LABEL_S = 3.0
"""From the API server's answer to a change of labels until it is in force, at most, on any machine."""
SETTLE_S = 5.0
"""After the last pod of a batch is gone the kernel still takes its network namespaces apart."""
LABELS = {"tap": "yes"}


class Echo(NamedTuple):
    """One echo request or reply, as sent or (`copied`) as mirrored."""

    pod: int
    sequence: int
    request: bool
    copied: bool
    when: float


def echoes(frames: Sequence[Frame]) -> Iterator[Echo]:
    for frame in frames:
        octets, copied = frame.octets, False
        if octets[23:24] == b"\x11" and octets[36:38] == b"\x12\xb5":
            octets, copied = octets[VXLAN:], True
        if octets[12:14] == b"\x08\x00" and octets[23:24] == b"\x01" and octets[34:35] in b"\x00\x08":
            length = int.from_bytes(octets[16:18], "big") - 28
            sequence = int.from_bytes(octets[40:42], "big")
            yield Echo(length - SHORTEST, sequence, octets[34] == 8, copied, frame.when)


@dataclass(slots=True)
class One:
    """A pod's life, in seconds of the monotonic clock."""

    number: int
    node: Node
    selected: bool
    """At its beginning."""
    running: float = 0.0
    """When the API server first showed it so."""
    address: str = ""
    flip_asked: float = 0.0
    flip_answered: float = 0.0
    deleted: float = 0.0
    sent: dict[int, float] = field(default_factory=dict)
    copied: list[Echo] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"one-{self.number}"

    @property
    def first(self) -> float:
        """When its first copy came; inf: there was none."""
        return min((echo.when for echo in self.copied), default=float("inf"))

    @property
    def delay(self) -> float:
        """Of its first copy, since it is Running and has sent something."""
        return max(self.first - max(self.running, min(self.sent.values())), 0.0)

    @property
    def missed(self) -> float:
        """Since it is Running, until the last request before its first copy that has none."""
        copied = {echo.sequence for echo in self.copied if echo.request}
        alone = [when for sequence, when in self.sent.items() if when < self.first and sequence not in copied]
        return max(max(alone, default=0.0) - self.running, 0.0)


@contextmanager
def watched(cluster: Cluster, namespace: str, known: dict[str, One]) -> Iterator[None]:
    """Keeps `running` and `address` of these."""
    form = '{.metadata.name} {.status.phase} {.status.podIP}{"\\n"}'
    words = [cluster.binaries / "kubectl", "get", "pods", "-n", namespace, "--watch", "-o", f"jsonpath={form}"]
    process = subprocess.Popen(words, env=cluster.environment(), stdout=subprocess.PIPE, text=True)

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            name, phase, *address = line.split(" ")
            if phase == "Running" and name in known and not known[name].running:
                known[name].running, known[name].address = time.monotonic(), address[0].strip()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        process.kill()
        process.wait()
        reader.join()


@contextmanager
def few_addresses(node: Node) -> Iterator[None]:
    """The CNI hands out these only; a running containerd sees the change."""
    path = node.home / "cni" / "10-test.conflist"
    before = path.read_text()
    document = json.loads(before)
    start = node.pod_network.replace(".0/24", ".100")
    end = node.pod_network.replace(".0/24", f".{100 + ADDRESSES - 1}")
    document["plugins"][0]["ipam"]["ranges"][0][0] |= {"rangeStart": start, "rangeEnd": end}
    path.write_text(json.dumps(document))
    try:
        yield
    finally:
        path.write_text(before)


def agent_pid(cluster: Cluster, node: Node) -> int:
    """The agent's process."""
    query = {"labelSelector": "app.kubernetes.io/component=agent", "fieldSelector": f"spec.nodeName={node.name}"}
    (pod,) = cluster.objects("Pod", NAMESPACE, **query)
    lines = node.run("ps", "-o", "pid=,args=", "-p", ",".join(map(str, node.pids(f"**/*{pod['metadata']['uid']}*/**"))))
    (pid,) = (int(line.split()[0]) for line in lines.splitlines() if "--lease" in line)
    return pid


def footprint(cluster: Cluster, node: Node) -> dict[str, object]:
    """What pods and mirrors leave behind on a node, and in the agent, if anybody forgets it."""
    pid = agent_pid(cluster, node)
    return {
        "links": sorted(node.links()),
        "namespaces": sorted(node.run("ls", "/run/netns").split()),
        "nsids": len(node.run("ip", "netns", "list-id").splitlines()),
        "pins": sorted(node.run("find", "/sys/fs/bpf").splitlines()),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
    }


def memory_mb(cluster: Cluster, node: Node) -> float:
    """Resident, of the agent."""
    text = node.run("grep", "VmRSS", f"/proc/{agent_pid(cluster, node)}/status")
    return int(text.split()[1]) / 1024


def busy(seconds: float) -> float:
    """The share of the machine's processors that is in use meanwhile."""

    def spent() -> tuple[int, int]:
        user, nice, system, idle, iowait, *others = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
        return user + nice + system + sum(others), idle + iowait

    before = spent()
    time.sleep(seconds)
    used, free = (now - then for now, then in zip(spent(), before, strict=True))
    return used / (used + free)


@dataclass(slots=True)
class Churn:
    """Batches of pods, and what the analyzer's host saw of them."""

    cluster: Cluster
    namespace: str
    analyzer: Capture
    ones: dict[str, One] = field(default_factory=dict)

    def batch(self, numbers: range) -> None:
        """Creates pods on both nodes, flips labels when all run, deletes them, and reads what was captured."""
        nodes = self.cluster.nodes[:2]
        made = [One(number, nodes[number % 2], selected=number // 2 % 8 in SELECTED) for number in numbers]
        self.ones |= {one.name: one for one in made}
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._create, made))
            self.cluster.wait(lambda: all(one.running for one in made), 120, "pods run")
            time.sleep(LABEL_S)
            list(pool.map(self._flip, [one for one in made if one.number % 16 in (0, 1, 2, 3)]))
            time.sleep(LABEL_S)
            list(pool.map(self._delete, made))
        listed = self.cluster.api.path("Pod", namespace=self.namespace)
        self.cluster.wait(lambda: not self.cluster.api.ask("GET", listed)["items"], 120, "pods are gone")
        time.sleep(SETTLE_S)
        self._read()

    def _create(self, one: One) -> None:
        ping = ["ping", "-q", "-i", "0.1", "-s", str(SHORTEST + one.number), ANALYZER]
        labels = LABELS if one.selected else {}
        spec = pods.document(one.name, self.namespace, one.node.name, labels=labels, command=ping)
        self.cluster.api.ask("POST", self.cluster.api.path("Pod", namespace=self.namespace), spec)

    def _flip(self, one: One) -> None:
        one.flip_asked = time.monotonic()
        change = {"metadata": {"labels": {"tap": None if one.selected else "yes"}}}
        self.cluster.patch("Pod", one.name, change, self.namespace)
        one.flip_answered = time.monotonic()

    def _delete(self, one: One) -> None:
        one.deleted = time.monotonic()
        self.cluster.api.ask("DELETE", self.cluster.api.path("Pod", one.name, self.namespace))

    def _read(self) -> None:
        frames = self.analyzer.frames[:]
        del self.analyzer.frames[: len(frames)]
        by_number = {one.number: one for one in self.ones.values()}
        for echo in echoes(frames):
            one = by_number[echo.pod]
            if echo.copied:
                one.copied.append(echo)
            elif echo.request:
                one.sent.setdefault(echo.sequence, echo.when)


def assert_right(one: One) -> None:
    """Only while it was selected, and then everything, once."""
    flipped = bool(one.flip_asked)
    if not one.selected and not flipped:
        assert not one.copied, f"{len(one.copied)} copies of {one.name}, which nobody selected"
        return
    if not one.selected:
        assert one.first > one.flip_asked, f"{one.name} was copied before it was selected"
        assert one.first < one.flip_answered + LABEL_S, f"{one.name} was selected and not copied"
    if one.selected and flipped:
        late = max(echo.when for echo in one.copied) - one.flip_answered
        assert late < LABEL_S, f"{one.name} was copied {late:.1f} s after it was not selected any more"
    until = one.flip_asked if one.selected and flipped else one.deleted
    wanted = [sequence for sequence, when in one.sent.items() if one.first < when < until - 0.1]
    got = [echo.sequence for echo in one.copied if echo.request]
    assert len(got) == len(set(got)), f"copies of {one.name} came twice"
    assert set(wanted) <= set(got), f"{len(set(wanted) - set(got))} of {len(wanted)} copies of {one.name} are missing"


def reused(ones: Sequence[One]) -> int:
    """How often a pod that nobody selected had an address that one had that was."""
    holders: dict[str, list[One]] = defaultdict(list)
    for one in sorted(ones, key=lambda one: one.running):
        holders[one.address].append(one)
    return sum(one.selected and not then.selected for held in holders.values() for one, then in pairwise(held))


def percentile(values: Sequence[float], share: float) -> float:
    """By nearest rank."""
    return sorted(values)[math.ceil(len(values) * share) - 1]


@pytest.mark.timeout(900)
def test_pods_come_and_go(installed: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = installed.nodes[:2]
    with (
        installed.namespace() as namespace,
        applied(installed, target("churn"), mirror("churn", namespace, ["churn"], LABELS)),
        few_addresses(nodes[0]),
        few_addresses(nodes[1]),
    ):
        warm = [installed.pod(f"warm-{node.name}", namespace, node, labels=LABELS) for node in nodes]
        ready(installed, "TrafficMirror", "churn", namespace)
        for pod in warm:
            pod.delete()
        others = busy(LABEL_S)
        before, memory_before = [footprint(installed, node) for node in nodes], [memory_mb(installed, n) for n in nodes]
        began = time.monotonic()
        with installed.analyzer.capture() as analyzer:
            churn = Churn(installed, namespace, analyzer)
            with watched(installed, namespace, churn.ones):
                for start in range(0, PODS, 2 * PER_NODE):
                    churn.batch(range(start, min(start + 2 * PER_NODE, PODS)))
        took = time.monotonic() - began
        others = max(others, busy(1))
        bound_s, missed_s = (ALONE_S, MISSED_ALONE_S) if others < ALONE else (BESIDE_S, MISSED_BESIDE_S)
        ones = list(churn.ones.values())
        assert all(one.sent for one in ones), "a pod has sent nothing"
        delays = [one.delay for one in ones if one.selected]
        changes = [one.first - one.flip_answered for one in ones if not one.selected and one.flip_asked]
        p99 = percentile(delays, 0.99)
        missed = [one.missed for one in ones if one.selected]
        memory = [
            f"{was:.0f} to {memory_mb(installed, node):.0f}" for was, node in zip(memory_before, nodes, strict=True)
        ]
        with capsys.disabled():
            print(
                f"\n{len(ones)} pods in {took:.0f} s, {reused(ones)} addresses of selected pods used again by others; "
                f"from Running to the first copy {statistics.median(delays):.2f} s (median), {p99:.2f} s (99th "
                f"percentile; aim {AIM_S:.0f} s, bound {bound_s:.0f} s, as others take {others:.0%} of the machine), "
                f"at most {max(delays):.2f} s; to the last packet without one {percentile(missed, 0.99):.2f} s (99th "
                f"percentile; bound {missed_s:.0f} s), at most {max(missed):.2f} s; from a label "
                f"{statistics.median(changes):.2f} s, at most {max(changes):.2f} s; agents {' and '.join(memory)} MB"
            )
        for one in ones:
            assert_right(one)
        assert p99 < bound_s
        assert percentile(missed, 0.99) < missed_s
        assert reused(ones) > len(ones) // 16
        installed.wait(lambda: [footprint(installed, node) for node in nodes] == before, 15, f"nothing left: {before}")
