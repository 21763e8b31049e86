"""What a test can do to the cluster, and that the cluster survives it."""

import time
from collections.abc import Iterator

import pytest

from tests.cluster.api import ApiError
from tests.cluster.configs import LEASE_S
from tests.cluster.lab import Cluster, condition
from tests.cluster.node import Node
from tests.topology import run


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


def _ready(cluster: Cluster, node: Node) -> bool:
    return condition(cluster.get("Node", node.name), "Ready")


def _answers(cluster: Cluster, timeout: float = 2.0) -> bool:
    try:
        status, _ = cluster.api.request("GET", "/api/v1/namespaces/default", timeout=timeout)
    except OSError:
        return False
    return status == 200


def test_the_api_server_goes_and_comes_back(cluster: Cluster) -> None:
    cluster.stop_api()
    assert not _answers(cluster)
    cluster.start_api()
    assert _answers(cluster)


def test_the_api_server_falls_silent(cluster: Cluster) -> None:
    with cluster.pause_api():
        began = time.monotonic()
        assert not _answers(cluster, timeout=1.0)
        assert time.monotonic() - began >= 1.0  # silent, not refused
    assert _answers(cluster, timeout=10.0)


def test_etcd_goes_back_to_a_snapshot(cluster: Cluster, namespace: str) -> None:
    def config(name: str) -> dict[str, object]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}}

    cluster.apply(config("before"))
    snapshot = cluster.snapshot()
    (after,) = cluster.apply(config("after"))
    cluster.restore(snapshot)
    assert cluster.get("ConfigMap", "before", namespace)
    with pytest.raises(ApiError) as gone:
        cluster.get("ConfigMap", "after", namespace)
    assert gone.value.status == 404
    version = int(cluster.get("ConfigMap", "before", namespace)["metadata"]["resourceVersion"])
    assert version < int(after["metadata"]["resourceVersion"])
    cluster.pod("later", namespace, cluster.node(1)).delete()


def test_a_node_without_the_api(cluster: Cluster, namespace: str) -> None:
    """Its packets go everywhere else, those of its pods too."""
    node = cluster.node(2)
    pod = cluster.pod("alone", namespace, node)
    reach = ("curl", "--insecure", "--silent", "--max-time", 1, "--output", "/dev/null", "https://10.96.0.1/healthz")
    node.run(*reach)
    with node.without_api():
        for netns in (node.netns, pod.netns):
            with pytest.raises(AssertionError, match="exit 28"):  # time-out
                run(*reach, netns=netns)
            run("ping", "-c1", "-W2", cluster.analyzer.address, netns=netns)
        cluster.node(1).run(*reach)
    node.run(*reach)


def test_a_node_is_added(cluster: Cluster, namespace: str) -> None:
    node = cluster.add_node()
    try:
        pod = cluster.pod("new", namespace, node)
        assert pod.address.startswith("10.244.3.")
        cluster.analyzer.run("ping", "-c1", "-W2", pod.address)
        cluster.pod("old", namespace, cluster.node(1)).run("ping", "-c1", "-W2", pod.address)
    finally:
        cluster.remove_node(node)
    assert {item["metadata"]["name"] for item in cluster.objects("Node")} == {"node1", "node2"}


def test_a_node_is_lost_and_comes_back(cluster: Cluster, namespace: str) -> None:
    """After a power cut its pods are started anew, its pins are gone, and its disk is as it was."""
    node = cluster.node(2)
    tolerations = [{"operator": "Exists"}]
    pod = cluster.pod("stays", namespace, node, tolerations=tolerations)
    node.run("mkdir", "/sys/fs/bpf/mine", "/var/mine")
    node.stop()
    assert node.pids() == []
    cluster.wait(lambda: not _ready(cluster, node), 2 * LEASE_S + 10, "node2 is found to be lost")
    cluster.boot(node)
    assert not node.path("/sys/fs/bpf/mine").exists()
    node.run("rmdir", "/var/mine")

    def again() -> bool:
        status = pod.get()["status"]
        return bool(status["containerStatuses"][0]["restartCount"] and condition({"status": status}, "Ready"))

    cluster.wait(again, 60, "its pod runs again")
    (back,) = cluster.running(["stays"], namespace)
    ping = ("ping", "-c1", "-W2", back.address)
    cluster.wait(lambda: "1 received" in cluster.analyzer.run(*ping, check=False), 10)


def test_a_cable_is_pulled(cluster: Cluster) -> None:
    node = cluster.node(2)
    ping = ("ping", "-c1", "-W1", node.address)
    node.disconnect()
    with pytest.raises(AssertionError):
        cluster.analyzer.run(*ping)
    node.connect()
    cluster.wait(lambda: "1 received" in cluster.analyzer.run(*ping, check=False), 10)
