"""sniffer as an administrator installs it."""

import re
from pathlib import Path

from tests.cluster import install
from tests.cluster.api import Document
from tests.cluster.following import follow
from tests.cluster.install import NAMESPACE, RELEASE, told
from tests.cluster.lab import Cluster
from tests.cluster.node import Node

CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF = 12, 38, 39


def test_an_agent_on_every_node_and_controllers(installed: Cluster) -> None:
    pods = installed.objects("Pod", NAMESPACE)
    places = [(pod["metadata"]["labels"]["app.kubernetes.io/component"], pod["spec"]["nodeName"]) for pod in pods]
    assert {place for place in places if place[0] == "agent"} == {("agent", node.name) for node in installed.nodes}
    assert len([place for place in places if place[0] == "controller"]) == 2
    restarts = [status["restartCount"] for pod in pods for status in pod["status"]["containerStatuses"]]
    assert not any(restarts)


def test_kernel_s_limits_of_who_runs(installed: Cluster) -> None:
    """Of what the chart asks for, what the kernel has: filtered system calls, three capabilities or none."""
    three = sum(1 << number for number in (CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF))
    expected = {"agent": (three, "0"), "controller": (0, "65532")}
    pods = installed.objects("Pod", NAMESPACE, labelSelector=f"app.kubernetes.io/component in ({','.join(expected)})")
    assert len(pods) == 4
    for pod in pods:
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        capabilities, user = expected[component]
        [status] = statuses(installed.node_named(pod["spec"]["nodeName"]), pod["metadata"]["uid"])
        assert (status["Seccomp"], status["NoNewPrivs"], status["Uid"].split()) == ("2", "1", [user] * 4)
        found = [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")]
        assert found == [capabilities] * 3, component
        assert not int(status["CapAmb"], 16)


def statuses(node: Node, uid: str) -> list[dict[str, str]]:
    """What the kernel says of each process of sniffer in a pod."""
    found = []
    for pid in node.pids(f"**/*{uid}*/**"):
        process = Path(f"/proc/{pid}")
        if b"sniffer" in (process / "cmdline").read_bytes():
            lines = (line.split(":", 1) for line in (process / "status").read_text().splitlines())
            found.append({name: value.strip() for name, value in lines})
    return found


def test_a_disruption_takes_one_controller_at_a_time(installed: Cluster) -> None:
    """They are on two nodes; who drains both nodes waits until the first has come again elsewhere."""

    def controllers() -> list[Document]:
        found = installed.objects("Pod", NAMESPACE, labelSelector="app.kubernetes.io/component=controller")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def evict(pod: Document) -> tuple[int, str]:
        name = pod["metadata"]["name"]
        path = installed.api.path("Pod", name, NAMESPACE)
        metadata = {"name": name, "namespace": NAMESPACE}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        status, answer = installed.api.request("POST", f"{path}/eviction", eviction)
        return status, str(answer.get("message"))

    first, second = controllers()
    assert {pod["spec"]["nodeName"] for pod in (first, second)} == {node.name for node in installed.nodes}
    budget = ("PodDisruptionBudget", "sniffer-controller", NAMESPACE)
    installed.wait(lambda: installed.get(*budget)["status"]["disruptionsAllowed"] == 1, what="a disruption allowed")
    assert evict(first)[0] == 201
    status, words = evict(second)
    assert status == 429
    assert "disruption budget" in words
    install.wait(installed)
    installed.wait(lambda: installed.get(*budget)["status"]["disruptionsAllowed"] == 1, what="the next one allowed")
    found = controllers()
    assert second["metadata"]["uid"] in {pod["metadata"]["uid"] for pod in found}
    assert {pod["spec"]["nodeName"] for pod in found} == {node.name for node in installed.nodes}


def test_what_the_notes_tell_one_to_run(installed: Cluster, tmp_path: Path) -> None:
    """Every command, in order, with a pod to mirror. What grants rights is asked for them in test_chart.py."""
    notes = install.helm(installed, "get", "notes", RELEASE).stdout
    with installed.namespace("theirs") as namespace:
        web = installed.pod("web", "default", labels={"app": "web"})
        commands = told(notes, installed.analyzer.address, "ada", namespace)
        assert len(commands) == len(re.findall(r"\b(?:kubectl|helm) (?!uninstall)", notes)) == 8
        try:
            said = follow(installed, "\n".join(commands), tmp_path).stdout
        finally:
            installed.delete("TrafficMirror", "web", "default")
            installed.delete("MirrorTarget", "analyzer")
            web.delete(grace_s=0, wait=False)
    assert "Phase:          Succeeded" in said
    assert "trafficmirror.sniffer.dev/web condition met" in said
