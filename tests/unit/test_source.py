"""What the agent makes of the API server's words."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sniffer.cluster.source import ClusterSource
from sniffer.model.identity import Identity
from sniffer.plan.cluster import Policy
from tests.api_server import ApiServer, Request, failure
from tests.unit.test_reflector import eventually

GROUP = "/apis/sniffer.dev/v1alpha1"
MIRRORS, CLUSTER_MIRRORS = f"{GROUP}/trafficmirrors", f"{GROUP}/clustertrafficmirrors"
TARGETS, REPORTS = f"{GROUP}/mirrortargets", f"{GROUP}/sniffernodes"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
PODS, NODES, NAMESPACES = "/api/v1/pods", "/api/v1/nodes", "/api/v1/namespaces"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
CONFIG = "/api/v1/namespaces/sniffer-system/configmaps/sniffer"
MIRROR = {"podSelector": {}, "targetRefs": [{"name": "zeek"}]}
WEB = Identity("TrafficMirror", "shop", "web")


def node(server: ApiServer, name: str, address: str, **labels: str) -> None:
    addresses = [{"type": "InternalIP", "address": address}, {"type": "InternalIP", "address": "fd00::1"}]
    addresses.append({"type": "Hostname", "address": name})
    server.put(NODES, name, metadata={"labels": labels}, status={"addresses": addresses})


def pod(server: ApiServer, name: str, address: str | None, phase: str = "Running", **status: Any) -> None:
    addresses = {"podIPs": [{"ip": address}]} if address else {}
    metadata = {"creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": name}}
    server.put(
        PODS, name, "shop", metadata=metadata, spec={"nodeName": "n1"}, status={"phase": phase, **addresses, **status}
    )


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as started:
        started.objects_only = {"n1", "sniffer"}
        for plural in ("trafficmirrors", "clustertrafficmirrors", "mirrortargets"):
            started.put(CRDS, f"{plural}.sniffer.dev")
        started.put(NAMESPACES, "shop", metadata={"labels": {"team": "shop"}})
        node(started, "n1", "10.0.0.1", pool="edge")
        node(started, "n2", "10.0.0.2")
        started.put(SLICES, "kubernetes", "default", endpoints=[{"addresses": ["10.0.0.9"]}])
        pod(started, "web", "10.1.0.5")
        spec = {"encapsulation": {"vxlan": {"vni": 42}}, "endpoints": [{"address": "10.9.0.2"}]}
        started.put(TARGETS, "zeek", spec=spec)
        started.put(MIRRORS, "web", "shop", spec=MIRROR, metadata={"generation": 1})
        yield started


class Calls:
    def __init__(self) -> None:
        self.count = 0
        self.lock = threading.Lock()

    def __call__(self) -> None:
        with self.lock:
            self.count += 1


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def source(server: ApiServer, calls: Calls) -> Iterator[ClusterSource]:
    made = ClusterSource(server.client(), "n1", Policy(), calls)
    try:
        eventually(lambda: made.sources().complete and len(server.asked(watch=True)) == 8)
        made.poll()
        yield made
    finally:
        made.close()


def test_one_look(source: ClusterSource) -> None:
    sources = source.sources()
    assert [mirror.identity for mirror in sources.mirrors] == [WEB]
    assert [target.metadata.name for target in sources.targets] == ["zeek"]
    assert (sources.stale, sources.refused) == ({}, {})
    cluster = sources.cluster
    assert cluster
    assert (cluster.node, cluster.node_labels) == ("n1", {"pool": "edge"})
    assert cluster.namespaces == {"shop": {"team": "shop"}}
    (found,) = cluster.pods
    assert (found.namespace, found.name, found.labels, found.addresses) == (
        "shop",
        "web",
        {"app": "web"},
        ("10.1.0.5",),
    )
    assert found.sandbox_ready
    assert source.sources() is sources
    assert source.fresh()


def test_only_what_is_needed_is_asked_for(server: ApiServer, source: ClusterSource) -> None:
    lists = {(r.path, r.parameters.get("fieldSelector", "")) for r in server.asked(watch=True)}
    assert (PODS, "spec.nodeName=n1") in lists
    assert (NODES, "metadata.name=n1") in lists
    assert (NODES, "") not in lists
    (namespaces,) = server.asked(NAMESPACES, watch=True)
    assert "PartialObjectMetadata;" in namespaces.headers["accept"]


def test_a_change_calls_and_is_there_at_once(server: ApiServer, source: ClusterSource, calls: Calls) -> None:
    assert not source.poll()
    before = calls.count
    server.put(MIRRORS, "web", "shop", spec={**MIRROR, "filter": "tcp"}, metadata={"generation": 2})
    eventually(lambda: calls.count > before)
    assert source.poll()
    assert not source.poll()
    (mirror,) = source.sources().mirrors
    assert (mirror.spec.filter, mirror.metadata.generation) == ("tcp", 2)


def test_what_others_write_wakes_nobody(server: ApiServer, source: ClusterSource, calls: Calls) -> None:
    """The controller's status, a kubelet's heartbeat."""
    before, sources = calls.count, source.sources()
    server.put(MIRRORS, "web", "shop", spec=MIRROR, metadata={"generation": 1}, status={"pods": 7})
    node(server, "n1", "10.0.0.1", pool="edge")
    pod(server, "web", "10.1.0.5", hostIP="10.0.0.1", conditions=[{"type": "Ready", "status": "False"}])
    server.put(NAMESPACES, "late")
    eventually(lambda: calls.count > before)
    time.sleep(0.1)
    assert calls.count == before + 1
    assert source.sources().mirrors[0] is sources.mirrors[0]


def test_a_newer_definition_has_fields_that_we_do_not_know(server: ApiServer, source: ClusterSource) -> None:
    """F12"""
    spec = {**MIRROR, "podSelector": {"matchLabels": {"a": "b"}, "matchMoons": 1}, "colour": "red", "filter": None}
    server.put(MIRRORS, "new", "shop", spec=spec, metadata={"managedFields": [], "finalizers": ["x"]}, extra={})
    eventually(lambda: len(source.sources().mirrors) == 2)
    assert source.sources().refused == {}


def test_what_cannot_be_read_keeps_its_last_good_version(server: ApiServer, source: ClusterSource) -> None:
    (good,) = source.sources().mirrors
    server.put(MIRRORS, "web", "shop", spec={**MIRROR, "direction": "Sideways"}, metadata={"generation": 2})
    eventually(source.poll)
    sources = source.sources()
    assert sources.mirrors == (good,)
    assert sources.stale[WEB].startswith("spec.direction: ")
    assert sources.refused == {}
    server.put(MIRRORS, "web", "shop", spec={**MIRROR, "direction": "Egress"}, metadata={"generation": 3})
    eventually(source.poll)
    assert source.sources().stale == {}


@pytest.mark.parametrize("spec", [None, {}, {**MIRROR, "snapLength": "80"}, {**MIRROR, "targetRefs": [None]}, "text"])
def test_what_could_never_be_read_is_refused(server: ApiServer, source: ClusterSource, spec: Any) -> None:
    """F12, and stops no other."""
    server.put(MIRRORS, "bad", "shop", spec=spec)
    server.put(MIRRORS, "good", "shop", spec=MIRROR)
    eventually(lambda: len(source.sources().mirrors) == 2)
    ((identity, words),) = source.sources().refused.items()
    assert identity == Identity("TrafficMirror", "shop", "bad")
    assert words.startswith("spec")


def test_another_object_of_the_same_name_inherits_nothing(server: ApiServer, source: ClusterSource) -> None:
    server.remove(MIRRORS, "web", "shop")
    server.put(MIRRORS, "web", "shop", spec={}, metadata={"uid": "another"})
    eventually(lambda: WEB in source.sources().refused)
    assert source.sources().mirrors == ()


def test_pods_that_have_ended_are_none(server: ApiServer, source: ClusterSource) -> None:
    def names() -> set[str]:
        cluster = source.sources().cluster
        return {found.name for found in cluster.pods} if cluster else set()

    pod(server, "job", "10.1.0.6")
    eventually(lambda: names() == {"web", "job"})
    pod(server, "job", "10.1.0.6", "Succeeded")
    pod(server, "crashed", "10.1.0.7", "Failed")
    pod(server, "starting", None, "Pending")
    eventually(lambda: names() == {"web", "starting"})


@pytest.mark.parametrize(
    ("conditions", "ready"), [([], True), (["False"], False), (["True"], True), (["Unknown"], False)]
)
def test_a_sandbox_that_is_gone(server: ApiServer, source: ClusterSource, conditions: list[str], ready: bool) -> None:
    said = [{"type": "PodReadyToStartContainers", "status": status} for status in conditions]
    pod(server, "other", "10.1.0.6", conditions=said)

    def found() -> bool | None:
        pods = source.sources().cluster.pods  # type: ignore[union-attr]
        return next((one.sandbox_ready for one in pods if one.name == "other"), None)

    eventually(lambda: found() is not None)
    assert found() == ready


def test_where_copies_may_not_go(server: ApiServer, source: ClusterSource) -> None:
    cluster = source.sources().cluster
    assert cluster
    assert cluster.policy.objection("10.0.0.1") == "a node"
    assert cluster.policy.objection("10.0.0.9") == "the API server"
    assert cluster.policy.objection("127.0.0.1") == "the API server"  # where this client finds it
    assert cluster.policy.objection("10.9.0.2") is None


def test_all_nodes_are_followed_only_while_a_mirror_names_interfaces(server: ApiServer, source: ClusterSource) -> None:
    """Only what names interfaces waits for their addresses; and no lease ends for it."""
    spec = {"interfaces": ["eth0"], "targetRefs": [{"name": "zeek"}]}
    server.put(CLUSTER_MIRRORS, "uplinks", spec=spec)
    eventually(lambda: source.sources().mirrors[1:])
    assert source.fresh()
    assert source.sources().complete
    eventually(lambda: source.sources().cluster.nodes_known)  # type: ignore[union-attr]
    cluster = source.sources().cluster
    assert cluster
    assert cluster.node_addresses == {"10.0.0.1", "10.0.0.2", "fd00::1"}
    assert cluster.policy.objection("10.0.0.2") == "a node"
    node(server, "n3", "10.0.0.3")
    eventually(lambda: "10.0.0.3" in source.sources().cluster.node_addresses)  # type: ignore[union-attr]
    server.remove(CLUSTER_MIRRORS, "uplinks")
    eventually(lambda: not source.sources().cluster.node_addresses)  # type: ignore[union-attr]
    assert source.sources().complete
    asked = len(server.asked(NODES))
    node(server, "n4", "10.0.0.4")
    server.drop_watches()
    time.sleep(0.8)
    assert len(server.asked(NODES)) - asked == 2  # this node's


@pytest.mark.parametrize("path", [MIRRORS, CLUSTER_MIRRORS, TARGETS, PODS, NODES, NAMESPACES, SLICES, CRDS])
def test_nothing_is_complete_without_one_of_its_lists(server: ApiServer, path: str) -> None:
    server.intercept = lambda request: failure(500, "InternalError") if request.path == path else None
    source = ClusterSource(server.client(), "n1", Policy(), lambda: None)
    try:
        eventually(source.faults)
        time.sleep(0.3)
        assert not source.sources().complete
        assert not source.fresh()
        server.intercept = lambda request: None
        eventually(lambda: source.sources().complete, 5)
        assert source.fresh()
    finally:
        source.close()


def test_it_is_fresh_for_as_long_as_the_grace(server: ApiServer, source: ClusterSource) -> None:
    """Of everything: one watch that is not heard of is enough. What was known stays known."""
    for reflector in source._reflectors.values():
        former_s = reflector.contact_s
        reflector.contact_s = time.monotonic() - 299
        assert source.fresh()
        reflector.contact_s -= 2
        assert not source.fresh()
        reflector.contact_s = former_s
    assert source.fresh()
    server.intercept = lambda r: failure(500, "InternalError") if r.path in (PODS, "/readyz") else None
    server.drop_watches()
    eventually(lambda: source.faults() == {"pods of this node": "500 InternalError: told to"})
    assert source.fresh()
    assert source.sources().complete
    assert [found.name for found in source.sources().cluster.pods] == ["web"]  # type: ignore[union-attr]
    server.intercept = lambda request: None
    eventually(lambda: not source.faults(), 5)


def test_it_ends_at_once_though_nobody_answers(server: ApiServer) -> None:
    def silence(_: Request) -> None:
        server.stopped.wait(5)

    server.intercept = silence
    source = ClusterSource(server.client(), "n1", Policy(), lambda: None)
    source.report({"state": "Running"})
    eventually(lambda: len(server.requests) >= 9)
    began_s = time.monotonic()
    source.close()
    assert time.monotonic() - began_s < 0.5
    assert not source.sources().complete
