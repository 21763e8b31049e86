"""The cluster itself: what every other test here takes for granted."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api import ApiError
from tests.cluster.cgroups import PREFIX, Groups, hierarchies
from tests.cluster.lab import Cluster, condition
from tests.cluster.pod import Pod
from tests.topology import run, start, wait_until


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


@pytest.fixture(scope="module")
def pods(cluster: Cluster, namespace: str) -> tuple[Pod, Pod]:
    """One on each node; both answer to HTTP with their name."""
    command = ("sh", "-c", "hostname >/www/index.html; exec httpd -f -p 80 -h /www")
    labels = {"app": "web"}
    one = cluster.pod("one", namespace, cluster.node(1), labels=labels, command=command)
    two = cluster.pod("two", namespace, cluster.node(2), labels=labels, command=command)
    return one, two


def test_two_nodes_are_ready(cluster: Cluster) -> None:
    nodes = {node["metadata"]["name"]: node for node in cluster.objects("Node")}
    assert set(nodes) == {"node1", "node2"}
    assert all(condition(node, "Ready") for node in nodes.values())
    assert "v1.36.3" in cluster.kubectl("version")


def test_pods_of_two_nodes_talk(pods: tuple[Pod, Pod]) -> None:
    one, two = pods
    assert one.address.startswith("10.244.1.")
    assert two.address.startswith("10.244.2.")
    assert one.exec("wget", "-qO-", f"http://{two.address}").strip() == "two"
    assert run("curl", "-s", f"http://{one.address}", netns=two.netns).strip() == "one"


def test_a_service_reaches_pods_of_both_nodes(cluster: Cluster, namespace: str, pods: tuple[Pod, Pod]) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 8080, "targetPort": 80}]},
    }
    (made,) = cluster.apply(service)
    url = f"http://{made['spec']['clusterIP']}:8080"
    answers: set[str] = set()
    for pod in pods:

        def both(pod: Pod = pod) -> bool:
            answers.add(pod.run("curl", "-s", "--max-time", 2, url, check=False).strip())
            return answers >= {"one", "two"}

        wait_until(both, timeout=15, every=0.05, what=f"both backends from {pod.name}: {answers}")
        answers.clear()


def test_a_pod_reaches_the_api_with_its_token(cluster: Cluster, namespace: str, pods: tuple[Pod, Pod]) -> None:
    """Address, CA and token are what a client in a pod finds; its certificate is checked."""
    (pod, _) = pods
    files = "/var/run/secrets/kubernetes.io/serviceaccount"
    token, ca = (pod.exec("cat", f"{files}/{name}") for name in ("token", "ca.crt"))
    host = pod.exec("sh", "-c", "echo $KUBERNETES_SERVICE_HOST").strip()
    assert host == "10.96.0.1"
    where = f"https://{host}/api/v1/namespaces/{namespace}/pods/{pod.name}"

    def ask() -> dict[str, object]:
        options = ("--silent", "--show-error", "--cacert", "/dev/stdin", "--header", f"Authorization: Bearer {token}")
        answer: dict[str, object] = json.loads(pod.run("curl", *options, where, stdin=ca))
        return answer

    who = f"system:serviceaccount:{namespace}:default"
    refused = ask()
    assert refused["code"] == 403
    assert who in str(refused["message"])
    account = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "view", "namespace": namespace},
            "roleRef": role,
            "subjects": [account],
        }
    )
    wait_until(lambda: ask().get("kind") == "Pod", what="the right to read pods")
    assert any(line["user"]["username"] == who for line in cluster.audit())


def test_the_analyzer_and_pods_reach_each_other(cluster: Cluster, pods: tuple[Pod, Pod]) -> None:
    one, two = pods
    analyzer = cluster.analyzer
    analyzer.run("ping", "-c1", "-W2", cluster.node(1).address)
    analyzer.run("ping", "-c1", "-W2", two.address)
    with analyzer.capture() as capture:
        one.exec("ping", "-c", 3, analyzer.address)
        frames = capture.settle()
    echoes = [frame for frame in frames if frame[12:14] == b"\x08\x00" and frame[23] == 1]
    assert len(echoes) == 3


def test_a_pods_link_and_namespace(cluster: Cluster, namespace: str, pods: tuple[Pod, Pod]) -> None:
    one, _ = pods
    assert one.link in one.node.links()
    assert "master cni0" in one.node.run("ip", "link", "show", one.link)
    assert one.netns_file.parent == one.node.path("/run/netns")
    assert one.address in run("ip", "address", "show", "eth0", netns=one.netns)
    host = cluster.pod("host", namespace, one.node, host_network=True)
    assert (host.netns, host.address) == ("node1", "10.200.0.11")


def test_rights_are_real(cluster: Cluster) -> None:
    """Users have no rights but those given, a node none but its own."""
    with pytest.raises(ApiError) as refused:
        cluster.api.ask("GET", cluster.api.path("Secret"), as_user=("eve", ["tenants"]))
    assert (refused.value.status, refused.value.reason) == (403, "Forbidden")
    assert "eve" in cluster.kubectl("get", "pods", as_user="eve", check=False)
    eve = cluster.kubeconfig_of("eve", ["tenants"])
    assert 'cannot list resource "pods"' in cluster.kubectl("--kubeconfig", eve, "get", "pods", check=False)
    label = {"metadata": {"labels": {"test": "1"}}}
    with pytest.raises(ApiError) as refused:
        cluster.api.ask(
            "PATCH",
            cluster.api.path("Node", "node2"),
            label,
            content_type="application/merge-patch+json",
            as_user=("system:node:node1", ["system:nodes"]),
        )
    assert refused.value.status == 403


def test_nodes_have_a_run_and_pins_of_their_own(cluster: Cluster) -> None:
    one, two = cluster.node(1), cluster.node(2)
    one.run("mkdir", "/sys/fs/bpf/mine", "/run/mine")
    assert one.path("/sys/fs/bpf/mine").is_dir()
    assert not two.path("/sys/fs/bpf/mine").exists()
    assert not two.path("/run/mine").exists()
    assert not Path("/sys/fs/bpf/mine").exists()
    assert "eth0" in os.listdir(one.path("/sys/class/net"))


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_nothing_outlives_its_run(binaries: Path, end: str, tmp_path: Path) -> None:
    """A whole cluster in namespaces of its own, within ours: no process, no group and no mount is left of it."""
    mounts = Path("/proc/self/mountinfo").read_text()
    line = ("scripts/isolated", sys.executable, "-m", "tests.cluster.brief", binaries)
    with (tmp_path / "log").open("w") as log:
        run_of_its_own = start(*line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        assert run_of_its_own.stdout is not None
        group = run_of_its_own.stdout.readline().strip()
        assert group.startswith(PREFIX), (tmp_path / "log").read_text()
        assert len(_members(group)) > 3  # containerd, kubelet, kube-proxy, a pod
        if end == "killed":
            run_of_its_own.kill()
            wait_until(lambda: not _members(group), what=f"processes in {group}")
            Groups().remove()  # the next cluster's
        else:
            assert run_of_its_own.communicate(timeout=60)[0] == ""
            assert run_of_its_own.returncode == 0, (tmp_path / "log").read_text()
    assert not [top for top in hierarchies() if (top / group).exists()]
    assert Path("/proc/self/mountinfo").read_text() == mounts


def _members(group: str) -> list[str]:
    """Pids of a run's processes, as its control groups have them."""
    files = (hierarchies()[0] / group).rglob("cgroup.procs")
    return [pid for file in files for pid in file.read_text().split()]
