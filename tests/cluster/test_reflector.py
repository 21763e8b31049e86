"""Reflectors on a real API server that is killed, stopped, cut off, set back in time and robbed of its definitions.

F1, F6, F7, F15, F17, F19. Meanwhile nothing leaves the view, and nobody is asked in a loop; within five seconds of the
API's return the view is right again.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kubernetes.config import incluster_config

from sniffer.cluster.client import Client
from sniffer.cluster.reflector import Reflector, Watched
from sniffer.cluster.source import ClusterSource
from sniffer.model.resources import API_VERSION
from sniffer.model.schema import CRD_KINDS, definition
from sniffer.plan.cluster import Policy
from tests.cluster.api import Document
from tests.cluster.chart import applied
from tests.cluster.lab import Cluster
from tests.topology import wait_until

MIRRORS = f"/apis/{API_VERSION}/trafficmirrors"
TARGETS = f"/apis/{API_VERSION}/mirrortargets"
CRD = "trafficmirrors.sniffer.dev"
BACK_S = 5.0
OUTAGE_S = 12.0


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with the definitions."""
    with applied(cluster, [definition(kind) for kind in CRD_KINDS]):
        yield cluster


@pytest.fixture(scope="module")
def client(api: Cluster) -> Client:
    return Client.load(api.kubeconfig)


@pytest.fixture
def namespace(api: Cluster) -> Iterator[str]:
    with api.namespace() as name:
        yield name


def mirror(namespace: str, name: str) -> Document:
    return {
        "apiVersion": API_VERSION,
        "kind": "TrafficMirror",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {}, "targetRefs": [{"name": "zeek"}]},
    }


class Followed(Reflector):
    def __init__(self, client: Client, namespace: str = "", watched: Watched | None = None) -> None:
        self.namespace = namespace
        super().__init__(client, watched or Watched(MIRRORS, crd=CRD), lambda: None)

    @property
    def names(self) -> set[str]:
        return {name for where, name in self.objects() if where == self.namespace}


@contextmanager
def following(followed: Followed) -> Iterator[Followed]:
    followed.start()
    try:
        wait_until(lambda: followed.synced and followed._stream, 10, what="the first list")
        yield followed
    finally:
        followed.stop()


@pytest.fixture
def followed(api: Cluster, client: Client, namespace: str) -> Iterator[Followed]:
    """With one mirror, `old`."""
    api.apply(mirror(namespace, "old"))
    with following(Followed(client, namespace)) as one:
        yield one


def within(condition: Callable[[], object], limit_s: float, what: str) -> None:
    began_s = time.monotonic()
    wait_until(condition, limit_s, every=0.01, what=what)
    print(f"{what}: {time.monotonic() - began_s:.2f} s")


def port_of(followed: Followed) -> int:
    """The local port of its watch."""
    stream: Any = followed._stream
    return int(stream._response._connection.sock.getsockname()[1])


def test_an_event_is_in_the_view_at_once(api: Cluster, namespace: str, followed: Followed) -> None:
    api.apply(mirror(namespace, "new"))
    within(lambda: followed.names == {"old", "new"}, 1, "an addition")
    api.delete("TrafficMirror", "new", namespace)
    within(lambda: followed.names == {"old"}, 1, "a removal")


def test_a_thousand_objects(api: Cluster, client: Client, namespace: str) -> None:
    """F19 and F7: listed in pages; removed with their namespace, event by event."""
    path = api.api.path("TrafficMirror", namespace=namespace)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: api.api.ask("POST", path, mirror(namespace, f"mirror-{n}")), range(1000)))
    with following(Followed(client, namespace)) as followed:
        assert len(followed.names) == 1000
        assert 4 <= followed.requests <= 6  # pages, the CRD, the watch; other tests' mirrors may make a page
        asked = followed.requests
        api.delete("Namespace", namespace, wait=False)
        api.wait(lambda: not api.objects("TrafficMirror", namespace), 120, "the namespace emptied")
        within(lambda: not followed.names, 2, "a thousand removals seen after the last")
        print(f"{followed.requests - asked} requests for a thousand removals")
        assert followed.requests - asked <= 1000
        assert followed.fault is None


def test_the_api_server_is_killed(api: Cluster, namespace: str, followed: Followed) -> None:
    asked = followed.requests
    api.stop_api()
    try:
        contact_s = followed.contact_s
        wait_until(lambda: followed.fault, 5, what="the fault said")
        time.sleep(OUTAGE_S)
        assert followed.names == {"old"}
        assert followed.contact_s == contact_s
        assert followed.requests - asked <= OUTAGE_S + 3
    finally:
        api.start_api()
    api.apply(mirror(namespace, "new"))
    within(lambda: followed.names == {"old", "new"}, BACK_S, "after the API server's return")
    assert followed.fault is None
    assert followed.requests - asked <= OUTAGE_S + 40


def test_the_api_server_stops_answering(api: Cluster, namespace: str, followed: Followed) -> None:
    asked = followed.requests
    with api.pause_api():
        time.sleep(OUTAGE_S)
        assert followed.names == {"old"}
    api.apply(mirror(namespace, "new"))
    within(lambda: followed.names == {"old", "new"}, BACK_S, "after the API server went on")
    assert followed.requests - asked <= 5


@contextmanager
def dropped(port: int) -> Iterator[None]:
    """Packets of one connection vanish, in both directions."""
    drops = f"tcp sport {port} drop; tcp dport {port} drop;"
    rules = f"table inet cut {{ chain in {{ type filter hook input priority 0; {drops} }}\n}}"
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "inet", "cut"], check=True)


def test_a_half_open_connection(api: Cluster, namespace: str, followed: Followed) -> None:
    """F1: keepalive finds it in 15 s."""
    port = port_of(followed)
    with dropped(port):
        api.apply(mirror(namespace, "new"))
        time.sleep(1)
        assert followed.names == {"old"}
        within(lambda: followed.names == {"old", "new"}, 15, "over a new connection")
        assert port_of(followed) != port


LOST = 200


def test_etcd_is_set_back(api: Cluster, client: Client, namespace: str, followed: Followed) -> None:
    """F15: what it says now is the truth, though it is older; what comes after it is seen."""
    gone = "of-the-past"
    api.apply(mirror(namespace, gone))
    wait_until(lambda: gone in followed.names, 5)
    with following(Followed(client, "", Watched("/api/v1/namespaces", {}, True))) as namespaces:
        snapshot = api.snapshot()
        api.delete("TrafficMirror", gone, namespace)
        # More than others write while a cluster comes back: who is beyond our version again is not known for older.
        for number in range(LOST):
            api.apply(mirror(namespace, f"lost-{number}"))
        wait_until(lambda: len(followed.names) == LOST + 1, 10)
        before, asked = namespaces.names, followed.requests
        api.restore(snapshot)
        within(lambda: followed.names == {"old", gone}, BACK_S, "the state of the past")
        api.apply(mirror(namespace, "new"))
        within(lambda: followed.names == {"old", gone, "new"}, BACK_S, "an event after it")
        assert namespaces.names == before
        assert followed.requests - asked <= 60
    api.wait_ready()


def test_the_definition_is_deleted(api: Cluster, namespace: str, followed: Followed) -> None:
    """F6: its objects go by events like any others; the view holds, and stops being fresh."""
    kind = next(kind for kind in CRD_KINDS if kind.__name__ == "TrafficMirror")
    for number in range(30):
        api.apply(mirror(namespace, f"mirror-{number}"))
    wait_until(lambda: len(followed.names) == 31, 5)
    api.delete("CustomResourceDefinition", CRD)
    try:
        wait_until(lambda: followed.fault, 5, what="the fault said")
        contact_s, asked = followed.contact_s, followed.requests
        time.sleep(6)
        assert len(followed.names) == 31
        assert followed.fault == f"the CRD {CRD} is gone"
        assert followed.contact_s == contact_s
        assert followed.requests - asked <= 15
    finally:
        api.apply(definition(kind))
        api.wait(lambda: api.api.request("GET", MIRRORS)[0] == 200, what="the definition served")
    api.apply(mirror(namespace, "new"))
    within(lambda: followed.names == {"new"}, BACK_S, "after the definition's return")
    assert followed.fault is None


# Credentials as a pod has them

RIGHTS: list[Document] = [
    {"apiGroups": ["sniffer.dev"], "resources": ["*"], "verbs": ["get", "list", "watch", "create", "patch"]},
    {"apiGroups": [""], "resources": ["pods", "namespaces", "nodes"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    {
        "apiGroups": ["apiextensions.k8s.io"],
        "resources": ["customresourcedefinitions"],
        "resourceNames": [f"{kind.plural}.sniffer.dev" for kind in CRD_KINDS],
        "verbs": ["list"],
    },
]


class Account:
    """A ServiceAccount with these rights, and the files of its token as a pod has them."""

    def __init__(self, cluster: Cluster, namespace: str, directory: Path) -> None:
        self._cluster, self._namespace, self._directory = cluster, namespace, directory
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"agent-{namespace}"}
        named = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": role["name"]}}
        subject = {"kind": "ServiceAccount", "name": "agent", "namespace": namespace}
        cluster.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agent", "namespace": namespace}},
            {**named, "kind": "ClusterRole", "rules": RIGHTS},
            {**named, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [subject]},
        )
        self.token = directory / "token"
        self.renew("first")

    def renew(self, name: str) -> None:
        """A new token in the file; it is good for as long as the Secret of this name is there."""
        metadata = {"name": name, "namespace": self._namespace}
        (secret,) = self._cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata})
        bound = {"apiVersion": "v1", "kind": "Secret", "name": name, "uid": secret["metadata"]["uid"]}
        path = self._cluster.api.path("ServiceAccount", "agent", self._namespace) + "/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}}
        self.token.write_text(self._cluster.api.ask("POST", path, request)["status"]["token"])

    def revoke(self, name: str) -> None:
        self._cluster.delete("Secret", name, self._namespace)

    def remove(self) -> None:
        for kind in ("ClusterRoleBinding", "ClusterRole"):
            self._cluster.delete(kind, f"agent-{self._namespace}")


@pytest.fixture
def account(api: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """Client.load(None) finds it."""
    made = Account(api, namespace, tmp_path)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(made.token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(api.control.authority.certificate))
    monkeypatch.setitem(os.environ, "KUBERNETES_SERVICE_HOST", api.api.host)
    monkeypatch.setitem(os.environ, "KUBERNETES_SERVICE_PORT", str(api.api.port))
    yield made
    made.remove()


def test_a_token_is_rotated(api: Cluster, namespace: str, account: Account) -> None:
    """F17: the kubelet has written another; the one that was read is refused."""
    api.apply(mirror(namespace, "old"))
    inside = Client.load(None)
    with following(Followed(inside, namespace)) as followed:
        account.renew("second")
        account.revoke("first")
        time.sleep(11)  # for so long the API server remembers that it was good
        stream: Any = followed._stream
        stream.close()
        api.apply(mirror(namespace, "new"))
        within(lambda: followed.names == {"old", "new"}, BACK_S, "with the new token")
        assert followed.fault is None


def test_the_whole_source(api: Cluster, namespace: str, account: Account) -> None:
    """With no rights but those that it needs; through an API server's restart."""
    endpoints = [{"address": "10.200.0.100"}]
    target = {"apiVersion": API_VERSION, "kind": "MirrorTarget", "metadata": {"name": f"zeek-{namespace}"}}
    api.apply({**target, "spec": {"encapsulation": {"vxlan": {"vni": 42}}, "endpoints": endpoints}})
    node = api.node(1)
    pod = api.pod("web", namespace, node)
    source = ClusterSource(Client.load(None), node.name, Policy(), lambda: None)
    try:
        wait_until(lambda: source.sources().complete, 10, what=f"all lists: {source.faults()}")
        assert source.faults() == {}
        cluster = source.sources().cluster
        assert cluster
        assert next(one for one in cluster.pods if one.name == "web").addresses == (pod.address,)
        assert {one.namespace for one in cluster.pods if one.name == "web"} == {namespace}
        assert cluster.namespaces[namespace]["kubernetes.io/metadata.name"] == namespace
        assert cluster.policy.objection(node.address) == "a node"
        assert cluster.policy.objection(api.api.host) == "the API server"
        assert cluster.policy.objection("10.200.0.100") is None
        source.report({"state": "Running", "version": "test", "mirrors": []})
        wait_until(lambda: any("status" in one for one in api.objects("SnifferNode")), 5, what="the report")
        (report,) = api.objects("SnifferNode")
        assert report["status"]["version"] == "test"
        assert report["metadata"]["ownerReferences"][0]["name"] == node.name

        api.stop_api()
        time.sleep(3)
        assert source.sources().complete
        api.start_api()
        api.apply(mirror(namespace, "new"))
        within(lambda: any(one.metadata.name == "new" for one in source.sources().mirrors), BACK_S, "after a restart")
        within(lambda: not source.faults(), BACK_S, "every watch")
    finally:
        source.close()
        api.delete("MirrorTarget", f"zeek-{namespace}")
        api.delete("SnifferNode", node.name)
