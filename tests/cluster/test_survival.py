"""What a cluster does to us: agents killed, replaced, cut off; the API server away; nodes that come, go and reboot.

Datagrams are numbered and sent all the time; what the mirrored pod received is what the analyzer must have received.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.cluster import mirrors
from tests.cluster.api import Document
from tests.cluster.install import NAMESPACE
from tests.cluster.lab import Cluster
from tests.cluster.mirrors import applied, assert_exact, condition_of, copies, ready, stream, wait_for_copy
from tests.cluster.pod import Pod
from tests.numbered import datagrams
from tests.wire import Capture

AGENT = "app.kubernetes.io/component=agent"


@dataclass(frozen=True, slots=True)
class Bed:
    """`web` on node 1 is mirrored all the time, `client` on node 2 sends to it."""

    namespace: str
    web: Pod
    client: Pod


@pytest.fixture(scope="module")
def bed(installed: Cluster) -> Iterator[Bed]:
    with installed.namespace() as namespace:
        web = installed.pod("web", namespace, installed.node(1), labels={"app": "web"})
        client = installed.pod("client", namespace, installed.node(2))
        for pod in (web, client):
            pod.offloads(False)
        client.reaches(web.address)
        to = mirrors.target("survival")
        with applied(installed, to, mirrors.mirror("survival", namespace, ["survival"], {"app": "web"}, filter="udp")):
            ready(installed, "TrafficMirror", "survival", namespace)
            yield Bed(namespace, web, client)


@dataclass(slots=True)
class Witness:
    """What the pod received and what the analyzer did, from `began` on."""

    pod: Capture
    analyzer: Capture
    began: float

    def exact(self, since: float | None = None, until: float | None = None) -> int:
        """Every datagram of the time was copied once; how many there were."""
        time.sleep(0.3)
        until = until or time.monotonic() - 0.3
        sent = datagrams(self.pod.frames)
        assert_exact(sent, copies(self.analyzer.frames), since or self.began, until)
        return len([one for one in sent if (since or self.began) < one.when < until])


@contextmanager
def witnessed(installed: Cluster, bed: Bed, rate: int = 500) -> Iterator[Witness]:
    """Traffic, and both ends of it."""
    with stream(bed.client, bed.web, rate), bed.web.capture() as pod, installed.analyzer.capture() as analyzer:
        wait_for_copy(analyzer, 0, 10)
        yield Witness(pod, analyzer, time.monotonic())


def agents(installed: Cluster, node: str | None = None) -> list[Document]:
    """The agents' pods."""
    query = {"labelSelector": AGENT} | ({"fieldSelector": f"spec.nodeName={node}"} if node else {})
    return installed.objects("Pod", NAMESPACE, **query)


def restarts(installed: Cluster) -> int:
    return sum(one["restartCount"] for pod in agents(installed) for one in pod["status"].get("containerStatuses", ()))


def test_agents_are_killed_in_a_loop(installed: Cluster, bed: Bed) -> None:
    """E2: nothing is lost, doubled or left; the kernel goes on by itself, and the next agent takes over."""
    node = installed.node(1)
    pinned = node.run("find", "/sys/fs/bpf/sniffer")
    with witnessed(installed, bed) as seen:
        for _ in range(8):
            (pod,) = agents(installed, node.name)
            pids = node.pids(f"**/*{pod['metadata']['uid']}*/**")
            node.run("sh", "-c", f"kill -9 {' '.join(map(str, pids))}", check=False)
            time.sleep(0.7)
        assert seen.exact() > 1000
        installed.wait(lambda: all(_is_ready(pod) for pod in agents(installed)), 90, "agents Ready again")
        assert seen.exact() > 2000
    assert restarts(installed) > 0
    assert node.run("find", "/sys/fs/bpf/sniffer") == pinned, "something is left of those that died"


def _is_ready(pod: Document) -> bool:
    return condition_of(pod, "Ready").get("status") == "True"


def test_a_rolling_update(installed: Cluster, bed: Bed) -> None:
    """One agent after the other is replaced, by a restart of the DaemonSet: no copy is lost or doubled."""
    before = {pod["metadata"]["uid"] for pod in agents(installed)}
    with witnessed(installed, bed) as seen:
        installed.kubectl("rollout", "restart", "daemonset/sniffer-agent", "-n", NAMESPACE)
        installed.kubectl("rollout", "status", "daemonset/sniffer-agent", "-n", NAMESPACE, "--timeout=120s")
        assert seen.exact() > 500
    assert before.isdisjoint(pod["metadata"]["uid"] for pod in agents(installed))


def test_the_api_server_is_away_for_a_minute(installed: Cluster, bed: Bed) -> None:
    """F1, F11: everything goes on, no probe ends an agent; five seconds after its return an edit is in force."""
    before = restarts(installed)
    with witnessed(installed, bed, rate=200) as seen:
        installed.stop_api()
        try:
            time.sleep(60)
        finally:
            installed.start_api()
        assert seen.exact() > 10000
        other = mirrors.target("return", vni=4243)
        of = mirrors.mirror("return", bed.namespace, ["return"], {"app": "web"}, filter="udp")
        began = time.monotonic()
        with applied(installed, other, of):
            took = wait_for_copy(seen.analyzer, began, 10, vni=4243)
        assert took < 5, f"{took:.1f} s"
    assert restarts(installed) == before


def test_a_grant_that_is_taken_away(installed: Cluster, bed: Bed) -> None:
    """G6: nothing is sent any more five seconds after it; the condition says why."""
    to = mirrors.target(
        "granted", vni=4244, allowedNamespaces={"matchLabels": {"kubernetes.io/metadata.name": bed.namespace}}
    )
    of = mirrors.mirror("granted", bed.namespace, ["granted"], {"app": "web"}, filter="udp")
    with applied(installed, to, of), witnessed(installed, bed) as seen:
        wait_for_copy(seen.analyzer, time.monotonic(), 10, vni=4244)
        installed.patch("MirrorTarget", "granted", {"spec": {"allowedNamespaces": None}})
        revoked = time.monotonic()
        time.sleep(6)
        last = max(one.when for one in copies(seen.analyzer.frames, 4244))
        assert last - revoked < 5, f"{last - revoked:.1f} s"

        def refused() -> bool:
            accepted = condition_of(installed.get("TrafficMirror", "granted", bed.namespace), "Accepted")
            return (accepted.get("status"), accepted.get("reason")) == ("False", "TargetNotAllowed")

        installed.wait(refused, 15, "Accepted is False")
        assert seen.exact() > 500, "the other mirror has noticed nothing"


def test_a_node_reboots(installed: Cluster, bed: Bed) -> None:
    """E3: its pins are gone, its pods come back in new network namespaces, and are mirrored again."""
    node = installed.node(2)
    to = mirrors.target("reboot", vni=4245)
    of = mirrors.mirror("reboot", bed.namespace, ["reboot"], {"app": "rebooted"}, filter="udp")
    with applied(installed, to, of):
        pod = installed.pod("rebooted", bed.namespace, node, labels={"app": "rebooted"}, restartPolicy="Always")
        ready(installed, "TrafficMirror", "reboot", bed.namespace)
        installed.kubectl("delete", "pod", "-n", bed.namespace, "rebooted", "--wait=false")
        node.reboot()
        installed.wait_ready(node)
        installed.gone("Pod", "rebooted", bed.namespace, uid=pod.uid)
        again = installed.pod("rebooted", bed.namespace, node, labels={"app": "rebooted"})
        with installed.analyzer.capture() as analyzer, stream(bed.web, again):
            wait_for_copy(analyzer, time.monotonic(), 60, vni=4245)
        ready(installed, "TrafficMirror", "reboot", bed.namespace, timeout=60)


def test_a_node_is_lost_and_another_comes(installed: Cluster, bed: Bed) -> None:
    """A new node's agent starts by itself and mirrors what runs there; a mirror of pods on a dead node is not Ready."""
    third = installed.add_node()
    to = mirrors.target("third", vni=4246)
    of = mirrors.mirror("third", bed.namespace, ["third"], {"app": "third"}, filter="udp")
    with applied(installed, to, of):
        pod = installed.pod("third", bed.namespace, third, labels={"app": "third"})
        with installed.analyzer.capture() as analyzer, stream(bed.web, pod):
            wait_for_copy(analyzer, time.monotonic(), 60, vni=4246)
        ready(installed, "TrafficMirror", "third", bed.namespace, timeout=60)
        third.stop()

        def lost() -> bool:
            found = condition_of(installed.get("TrafficMirror", "third", bed.namespace), "Ready")
            return (found.get("status"), found.get("reason")) == ("False", "NodesNotReady")

        try:
            installed.wait(lost, 120, "Ready is False")
        finally:
            installed.remove_node(third)
