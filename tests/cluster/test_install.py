"""sniffer as an administrator installs it."""

from tests.cluster.install import NAMESPACE
from tests.cluster.lab import Cluster


def test_an_agent_on_every_node_and_controllers(installed: Cluster) -> None:
    pods = installed.objects("Pod", NAMESPACE)
    places = [(pod["metadata"]["labels"]["app.kubernetes.io/component"], pod["spec"]["nodeName"]) for pod in pods]
    assert {place for place in places if place[0] == "agent"} == {("agent", node.name) for node in installed.nodes}
    assert len([place for place in places if place[0] == "controller"]) == 2
    restarts = [status["restartCount"] for pod in pods for status in pod["status"]["containerStatuses"]]
    assert not any(restarts)
