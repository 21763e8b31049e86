"""An analyzer that runs in the cluster: a pod, a Deployment behind a Service, one that is mirrored itself.

Copies that pass nodes and pods are traffic there. Whatever mirrors see of it, no copy is ever copied again.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.cluster import mirrors
from tests.cluster.api import Document
from tests.cluster.lab import Cluster
from tests.cluster.mirrors import applied, assert_exact, copies, mirror, ready, stream, target, wait_for_copy
from tests.cluster.pod import IDLE, TOOLBOX, Pod
from tests.numbered import VXLAN, datagrams, numbers
from tests.topology import wait_until
from tests.traffic import blast
from tests.wire import Frame

COUNT = 300
ROLL_S = 3.0
"""So long after an analyzer was told to end copies may go to it."""
NOTICE_S = 5
"""So long an analyzer goes on after it was told to end."""


@dataclass(frozen=True, slots=True)
class Bed:
    """A pod that is mirrored on each node, a client, and an analyzer on node 2."""

    namespace: str
    near: Pod
    """On the analyzer's node."""
    far: Pod
    client: Pod
    analyzer: Pod


@pytest.fixture(scope="module")
def bed(installed: Cluster) -> Iterator[Bed]:
    with installed.namespace() as namespace:
        first, second = installed.node(1), installed.node(2)
        far = installed.pod("far", namespace, first, labels={"app": "web"})
        near = installed.pod("near", namespace, second, labels={"app": "web"})
        client = installed.pod("client", namespace, first)
        analyzer = installed.pod("analyzer", namespace, second, labels={"app": "analyzer"})
        for pod in (near, far, client, analyzer):
            pod.offloads(False)
        for pod in (near, far, analyzer):
            client.reaches(pod.address)
        yield Bed(namespace, near, far, client, analyzer)


def send(client: Pod, server: Pod, port: int, count: int = COUNT) -> None:
    """Numbered datagrams, 1,000 a second."""
    blast(netns=client.netns, dst=server.address, port=port, size=200, rate=1000, count=count)


def nested(frames: Sequence[Frame]) -> int:
    """How many copies are copies of a copy."""
    return sum(_is_copy(one.octets) and _is_copy(one.octets[VXLAN:]) for one in list(frames))


def _is_copy(octets: bytes) -> bool:
    """An IPv4 datagram to the port of VXLAN."""
    return octets[12:14] == b"\x08\x00" and octets[23:24] == b"\x11" and octets[36:38] == b"\x12\xb5"


def assert_each_once(frames: Sequence[Frame], port: int, vni: int = mirrors.VNI, count: int = COUNT) -> None:
    assert numbers(copies(frames, vni), port=port) == list(range(count)), f"port {port}"


@pytest.mark.parametrize("where", ["near", "far"])
def test_an_analyzer_that_is_mirrored_itself(installed: Cluster, bed: Bed, where: str) -> None:
    """Its own traffic is copied, to itself and to another analyzer; what is sent to it as a copy never is.

    From a pod on its node and from one on the other node.
    """
    web = {"near": bed.near, "far": bed.far}[where]
    inside, outside = target("inside", bed.analyzer.address), target("outside", vni=7)
    all_of_it = [
        mirror("web", bed.namespace, ["inside"], {"app": "web"}),
        mirror("analyzer", bed.namespace, ["inside", "outside"], {"app": "analyzer"}),
    ]
    with applied(installed, inside, outside, *all_of_it):
        for one in all_of_it:
            ready(installed, "TrafficMirror", one["metadata"]["name"], bed.namespace)
        with bed.analyzer.capture() as inner, installed.analyzer.capture() as outer:
            send(bed.client, web, port=9)
            send(bed.client, bed.analyzer, port=10)
            inner.settle()
            outer.settle()
    assert numbers(datagrams(inner.frames), port=10) == list(range(COUNT)), "production"
    assert_each_once(inner.frames, port=9)
    assert_each_once(inner.frames, port=10)
    assert_each_once(outer.frames, port=10, vni=7)
    assert not numbers(copies(outer.frames, 7), port=9), "nobody asked for these there"
    assert (nested(inner.frames), nested(outer.frames)) == (0, 0)


def test_both_nodes_mirrored_to_pods_on_each_other(installed: Cluster, bed: Bed) -> None:
    """B3: each copy leaves by one mirrored eth0 and arrives by the other, and is no copy's original there."""
    to = [target("on-1", bed.far.address, vni=1), target("on-2", bed.analyzer.address, vni=2)]
    of = [interfaces("eth0-1", "node1", "on-2"), interfaces("eth0-2", "node2", "on-1")]
    with applied(installed, *to, *of):
        for one in of:
            ready(installed, "ClusterTrafficMirror", one["metadata"]["name"])
        with bed.far.capture() as first, bed.analyzer.capture() as second:
            began = time.monotonic()
            send(bed.client, bed.near, port=9)
            time.sleep(2)  # a storm would go on by itself
            took = time.monotonic() - began
    assert_each_once(first.frames, port=9, vni=1)
    assert_each_once(second.frames, port=9, vni=2)
    assert (nested(first.frames), nested(second.frames)) == (0, 0)
    for capture in (first, second):
        assert len(capture.frames) < COUNT + 2000 * took, "what nodes say to the API server is not as much"


def interfaces(name: str, node: str, to: str) -> Document:
    """A mirror of one node's eth0."""
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "interfaces": ["eth0"],
        "targetRefs": [{"name": to}],
    }
    return {"apiVersion": mirrors.VERSION, "kind": "ClusterTrafficMirror", "metadata": {"name": name}, "spec": spec}


def deployment(namespace: str, node: str, service_address: str | None) -> list[Document]:
    """One analyzer behind a Service, that is told five seconds before its end, as a real one has to be."""
    container = {
        "name": "main",
        "image": TOOLBOX,
        "imagePullPolicy": "Never",
        "command": list(IDLE),
        "readinessProbe": {"exec": {"command": ["true"]}, "initialDelaySeconds": 2, "periodSeconds": 1},
        "lifecycle": {"preStop": {"sleep": {"seconds": NOTICE_S}}},
    }
    labels = {"app": "zeek"}
    pod = {"containers": [container], "nodeName": node, "terminationGracePeriodSeconds": NOTICE_S + 5}
    spec = {
        "selector": {"matchLabels": labels},
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    service = {"selector": labels, "ports": [{"port": 4789, "protocol": "UDP"}]}
    if service_address:
        service["clusterIP"] = service_address
    metadata = {"name": "zeek", "namespace": namespace}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    ]


def analyzers(installed: Cluster, namespace: str, besides: Sequence[Pod] = ()) -> list[Pod]:
    """The Deployment's pods that have an address, but for `besides`."""
    known = {pod.uid for pod in besides}
    listed = installed.objects("Pod", namespace, labelSelector="app=zeek")
    return [Pod(installed, one) for one in listed if one["status"].get("podIP") and one["metadata"]["uid"] not in known]


def wait_until_told_to_end(pod: Pod) -> float:
    """When the API server first said that this pod is to end (monotonic)."""
    wait_until(lambda: "deletionTimestamp" in pod.get()["metadata"], 60, 0.05, f"{pod.name} is to end")
    return time.monotonic()


@pytest.mark.parametrize("service_address", [None, "None"], ids=["ClusterIP", "headless"])
def test_an_analyzer_that_rolls(installed: Cluster, bed: Bed, service_address: str | None) -> None:
    """Copies go to what is ready behind the Service; while one goes and the next comes, none is lost or doubled."""
    with installed.namespace() as namespace:
        installed.apply(*deployment(namespace, "node2", service_address))
        (old,) = installed.wait(lambda: analyzers(installed, namespace), 30, "an analyzer")
        to = target("service", endpoints=[{"service": {"namespace": namespace, "name": "zeek"}}])
        of = mirror("rolled", bed.namespace, ["service"], {"app": "web"}, filter="udp")
        with (
            applied(installed, to, of),
            stream(bed.client, bed.far, rate=200),
            bed.far.capture() as pod,
            old.capture() as before,
        ):
            wait_for_copy(before, 0, 20)
            began = time.monotonic()
            installed.kubectl("rollout", "restart", "deployment/zeek", "-n", namespace)
            (new,) = installed.wait(lambda: analyzers(installed, namespace, [old]), 30, "the next analyzer")
            with new.capture() as after:
                told = wait_until_told_to_end(old)
                wait_for_copy(after, began, 20)
                time.sleep(max(0, told + NOTICE_S - 1 - time.monotonic()))
                last = max(one.when for one in copies(before.frames))
                assert last - told < ROLL_S, f"{last - told:.1f} s after it was told to end"
                installed.gone("Pod", old.name, namespace, uid=old.uid)
                time.sleep(1)
                ended = time.monotonic() - 0.3
            arrived = sorted(copies([*before.frames, *after.frames]), key=lambda one: one.number)
            assert_exact(datagrams(pod.frames), arrived, began, ended)
