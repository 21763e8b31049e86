"""What a cluster does to us: agents killed, replaced, cut off; the API server away; nodes that come, go and reboot.

Datagrams are numbered and sent all the time; the mirrored pod must have received every one of them, and the analyzer
what the pod received.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import mirrors
from tests.cluster.api import Document
from tests.cluster.install import NAMESPACE
from tests.cluster.lab import Cluster
from tests.cluster.mirrors import applied, assert_exact, condition_of, copies, ready, stream, wait_for_copy
from tests.cluster.node import Node
from tests.cluster.pod import Pod
from tests.numbered import datagrams
from tests.wire import Capture

AGENT = "app.kubernetes.io/component=agent"
REBOOT_S = 30.0
"""Of a node that does everything at once; what it takes is printed (docs/operations.md)."""


@dataclass(frozen=True, slots=True)
class Bed:
    """`web` on node 1 is mirrored all the time, `client` on node 2 sends to it; `beside` is on node 2."""

    namespace: str
    web: Pod
    beside: Pod
    client: Pod


@pytest.fixture(scope="module")
def bed(installed: Cluster) -> Iterator[Bed]:
    with installed.namespace() as namespace:
        web = installed.pod("web", namespace, installed.node(1), labels={"app": "web", "tier": "both"})
        beside = installed.pod("beside", namespace, installed.node(2), labels={"tier": "both"})
        client = installed.pod("client", namespace, installed.node(2))
        for pod in (web, beside, client):
            pod.offloads(False)
        client.reaches(web.address)
        client.reaches(beside.address)
        to = mirrors.target("survival")
        with applied(installed, to, mirrors.mirror("survival", namespace, ["survival"], {"app": "web"}, filter="udp")):
            ready(installed, "TrafficMirror", "survival", namespace)
            yield Bed(namespace, web, beside, client)


@dataclass(slots=True)
class Witness:
    """What the pod received and what the analyzer did, from `began` on."""

    pod: Capture
    analyzer: Capture
    began: float
    vni: int = mirrors.VNI

    def exact(self, since: float | None = None, until: float | None = None) -> int:
        """Every datagram of the time arrived, and was copied once; how many there were."""
        time.sleep(0.3)
        since, until = since or self.began, until or time.monotonic() - 0.3
        sent = datagrams(self.pod.frames)
        arrived = [one.number for one in sent if since < one.when < until]
        assert arrived == list(range(arrived[0], arrived[-1] + 1)), "production: lost, doubled or out of order"
        assert_exact(sent, copies(self.analyzer.frames, self.vni), since, until)
        return len(arrived)


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


def living(installed: Cluster, node: Node) -> tuple[str, list[int]] | None:
    """The name of a node's agent and its processes, once it runs."""
    for pod in agents(installed, node.name):
        pids = node.pids(f"**/*{pod['metadata']['uid']}*/**")
        if "deletionTimestamp" not in pod["metadata"] and any(map(_is_agent, pids)):
            return pod["metadata"]["name"], pids
    return None


def _is_agent(pid: int) -> bool:
    with suppress(OSError):
        return b"--api-grace" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def kill(node: Node, pids: Sequence[int]) -> None:
    node.run("sh", "-c", f"kill -9 {' '.join(map(str, pids))}", check=False)


def test_agents_are_killed_in_a_loop(installed: Cluster, bed: Bed) -> None:
    """E2: nothing is lost, doubled or left; the kernel goes on by itself, and the next agent takes over. Each dies at
    another moment of its start; its pod goes too, or the next would have to wait for longer each time.
    """
    node = installed.node(1)
    pinned = node.run("find", "/sys/fs/bpf/sniffer")
    with witnessed(installed, bed) as seen:
        for lived_s in (0, 0.3, 0.7, 1.2, 2):
            name, pids = installed.wait(lambda: living(installed, node), 60, "an agent")
            time.sleep(lived_s)
            assert any(map(_is_agent, pids)), "it has died by itself"
            kill(node, pids)
            installed.wait(lambda pids=pids: not any(map(_is_agent, pids)), 5, "its end")
            installed.api.ask("DELETE", installed.api.path("Pod", name, NAMESPACE, gracePeriodSeconds="0"))
        assert seen.exact() > 1000
        installed.wait(lambda: all(_is_ready(pod) for pod in agents(installed)), 90, "agents Ready again")
        assert seen.exact() > 2000
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
    """F1, F11: everything goes on, no probe ends an agent; five seconds after its return an edit is in force.

    An agent that starts meanwhile leaves everything as it is; nobody renews leases then, and they are good for 40 s.
    """
    before, node = restarts(installed), installed.node(1)
    _, former = installed.wait(lambda: living(installed, node), 60, "an agent")
    with witnessed(installed, bed, rate=200) as seen:
        installed.stop_api()
        try:
            time.sleep(35)
            kill(node, former)
            time.sleep(25)
        finally:
            installed.start_api()
        assert seen.exact() > 10000
        other = mirrors.target("return", vni=4243)
        of = mirrors.mirror("return", bed.namespace, ["return"], {"app": "web"}, filter="udp")
        began = time.monotonic()
        with applied(installed, other, of):
            took = wait_for_copy(seen.analyzer, began, 10, vni=4243)
        assert took < 5, f"{took:.1f} s"
        again = installed.wait(lambda: living(installed, node), 60, "the agent that was started")
    assert set(former).isdisjoint(again[1])
    installed.wait(lambda: restarts(installed) > before, 30, "the kubelet tells of it")
    assert restarts(installed) == before + 1


def test_a_grant_that_is_taken_away(installed: Cluster, bed: Bed) -> None:
    """G6, F8: nothing is sent any more five seconds after it, from any node, whichever way; conditions say why."""
    granted = {"matchLabels": {"team": "a"}}
    named = {"matchLabels": {"kubernetes.io/metadata.name": bed.namespace}}
    ways = {"label": granted, "edit": named, "suspend": {}, "deletion": {}}
    vnis = dict(zip(ways, range(4250, 4260), strict=False))
    installed.patch("Namespace", bed.namespace, {"metadata": {"labels": {"team": "a"}}})
    of = [mirrors.mirror(way, bed.namespace, [way], {"tier": "both"}, filter="udp") for way in ways]
    with (
        applied(
            installed, *(mirrors.target(way, vni=vnis[way], allowedNamespaces=to) for way, to in ways.items()), *of
        ),
        witnessed(installed, bed) as seen,
        stream(bed.client, bed.beside, 100, port=10),
    ):

        def last() -> dict[tuple[str, int], float]:
            """When the last copy came, by the way and the port."""
            found = {(way, one.port): one.when for way in ways for one in copies(seen.analyzer.frames, vnis[way])}
            return dict(sorted(found.items()))

        installed.wait(lambda: len(last()) == 2 * len(ways), 10, "copies of all, from both nodes")
        installed.patch("Namespace", bed.namespace, {"metadata": {"labels": {"team": None}}})
        installed.patch("MirrorTarget", "edit", {"spec": {"allowedNamespaces": None}})
        installed.patch("MirrorTarget", "suspend", {"spec": {"suspend": True}})
        installed.delete("MirrorTarget", "deletion", wait=False)
        revoked = time.monotonic()
        time.sleep(6)
        late = {where: round(when - revoked, 1) for where, when in last().items()}
        assert max(late.values()) < 5, late

        def refused(way: str) -> bool:
            accepted = condition_of(installed.get("TrafficMirror", way, bed.namespace), "Accepted")
            return (accepted.get("status"), accepted.get("reason")) == ("False", "TargetNotAllowed")

        installed.wait(lambda: refused("edit") and refused("label"), 15, "Accepted is False")
        assert seen.exact() > 500, "the other mirror has noticed nothing"
        ours = [one for kind in ("TrafficMirror", "MirrorTarget", "SnifferNode") for one in installed.objects(kind)]
        assert not any("finalizers" in one["metadata"] for one in ours), "F8: nobody waits for us to delete anything"


def test_the_definition_is_deleted(installed: Cluster, bed: Bed) -> None:
    """F6: it takes every mirror with it, which nobody meant: copies go on; once it is back, what is not there ends."""
    name = "trafficmirrors.sniffer.dev"
    stored = installed.get("CustomResourceDefinition", name)
    kept = {key: stored["metadata"][key] for key in ("name", "annotations", "labels") if key in stored["metadata"]}
    was = mirrors.mirror("survival", bed.namespace, ["survival"], {"app": "web"}, filter="udp")
    with witnessed(installed, bed, rate=200) as seen:
        installed.delete("CustomResourceDefinition", name)
        time.sleep(8)
        try:
            assert seen.exact() > 1000
        finally:
            installed.apply(
                {"apiVersion": stored["apiVersion"], "kind": stored["kind"], "metadata": kept, "spec": stored["spec"]}
            )
        back = time.monotonic()
        time.sleep(6)
        assert max(one.when for one in copies(seen.analyzer.frames)) - back < 5
        api = installed.api
        installed.wait(lambda: api.request("GET", api.path("TrafficMirror", namespace=bed.namespace))[0] == 200, 15)
        began = time.monotonic()
        installed.apply(was)
        wait_for_copy(seen.analyzer, began, 10)
    ready(installed, "TrafficMirror", "survival", bed.namespace)


def test_etcd_is_set_back(installed: Cluster, bed: Bed) -> None:
    """F15: what the past knows is copied all the time; what it does not know ends."""
    to = mirrors.target("later", vni=4260)
    with applied(installed, to), witnessed(installed, bed, rate=200) as seen:
        snapshot = installed.snapshot()
        installed.apply(mirrors.mirror("later", bed.namespace, ["later"], {"app": "web"}, filter="udp"))
        wait_for_copy(seen.analyzer, time.monotonic(), 10, vni=4260)
        for number in range(50):
            installed.apply(mirrors.mirror(f"lost-{number}", bed.namespace, ["later"], {"app": "nobody"}))
        installed.restore(snapshot)
        back = time.monotonic()
        time.sleep(7)
        assert max(one.when for one in copies(seen.analyzer.frames, 4260)) - back < 5
        assert seen.exact() > 1000
    installed.wait_ready()


def returned(installed: Cluster, pod: Pod) -> Pod:
    """The same pod, once its container has been started anew."""

    def again() -> bool:
        status = pod.get()["status"]
        count = max((one["restartCount"] for one in status.get("containerStatuses", ())), default=0)
        return count > 0 and condition_of({"status": status}, "Ready").get("status") == "True"

    installed.wait(again, 90, f"{pod.name} runs again")
    (back,) = installed.running([pod.name], pod.namespace)
    assert back.uid == pod.uid
    return back


def assert_mirrored(installed: Cluster, bed: Bed, pod: Pod, vni: int) -> float:
    """Seconds until the first datagram to a pod that has come back is copied; from then on every one is, once."""
    began = time.monotonic()
    bed.web.reaches(pod.address)
    with pod.capture() as arriving, installed.analyzer.capture() as analyzer, stream(bed.web, pod):
        took = wait_for_copy(analyzer, began, 60, vni=vni)
        first = began + took
        time.sleep(2)
        seen = Witness(arriving, analyzer, first, vni)
        assert seen.exact() > 500
        whole = [one.number for one in copies(analyzer.frames, vni)]
        assert len(whole) == len(set(whole)), "copies came twice"
    return took


def test_a_pod_gets_another_sandbox(installed: Cluster, bed: Bed) -> None:
    """The same pod in another network namespace, with another address."""
    to = mirrors.target("sandbox", vni=4247)
    of = mirrors.mirror("sandbox", bed.namespace, ["sandbox"], {"app": "sandbox"}, filter="udp")
    with applied(installed, to, of):
        pod = installed.pod(
            "sandbox", bed.namespace, installed.node(2), labels={"app": "sandbox"}, restartPolicy="Always"
        )
        assert_mirrored(installed, bed, pod, 4247)
        kill(pod.node, pod.pids)
        back = returned(installed, pod)
        assert back.address != pod.address
        took = assert_mirrored(installed, bed, back, 4247)
        assert took < 5, f"{took:.1f} s"
        back.delete(wait=False)


def test_a_node_reboots(installed: Cluster, bed: Bed, capsys: pytest.CaptureFixture[str]) -> None:
    """E3: its pins are gone, its pods come back in new network namespaces, and are mirrored again; production on other
    nodes, and its copies, notice nothing.
    """
    node = installed.node(2)
    to = mirrors.target("reboot", vni=4245)
    of = mirrors.mirror("reboot", bed.namespace, ["reboot"], {"app": "rebooted"}, filter="udp")
    with applied(installed, to, of):
        pod = installed.pod("rebooted", bed.namespace, node, labels={"app": "rebooted"}, restartPolicy="Always")
        ready(installed, "TrafficMirror", "reboot", bed.namespace)
        node.reboot()
        on = time.monotonic()
        back = returned(installed, pod)
        runs = time.monotonic()
        took = assert_mirrored(installed, bed, back, 4245)
        with capsys.disabled():
            print(f"\na reboot: the pod runs after {runs - on:.1f} s, and is mirrored {took:.1f} s later")
        assert took < REBOOT_S, f"{took:.1f} s"
        installed.wait_ready(node)
        ready(installed, "TrafficMirror", "reboot", bed.namespace, timeout=60)
        back.delete(wait=False)


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
