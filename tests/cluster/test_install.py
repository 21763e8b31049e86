"""sniffer as an administrator installs it."""

import re
from pathlib import Path

from tests.cluster import install
from tests.cluster.following import follow
from tests.cluster.install import NAMESPACE, RELEASE, told
from tests.cluster.lab import Cluster


def test_an_agent_on_every_node_and_controllers(installed: Cluster) -> None:
    pods = installed.objects("Pod", NAMESPACE)
    places = [(pod["metadata"]["labels"]["app.kubernetes.io/component"], pod["spec"]["nodeName"]) for pod in pods]
    assert {place for place in places if place[0] == "agent"} == {("agent", node.name) for node in installed.nodes}
    assert len([place for place in places if place[0] == "controller"]) == 2
    restarts = [status["restartCount"] for pod in pods for status in pod["status"]["containerStatuses"]]
    assert not any(restarts)


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
