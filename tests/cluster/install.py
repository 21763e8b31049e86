"""sniffer, installed into a cluster from the chart as an administrator would."""

import re
import subprocess
from pathlib import Path

from tests.cluster.api import Document
from tests.cluster.configs import SERVICE_NETWORK
from tests.cluster.lab import Cluster

CHART = Path(__file__).parents[2] / "deploy/helm/sniffer"
NAMESPACE = "sniffer-system"
RELEASE = "sniffer"
ALLOWED = "10.200.0.12"
"""The node that targets may name."""
_COMMAND = re.compile(r"^ *((?:kubectl|helm) (?:[^\n]*<<EOF\n.*?^EOF|[^\n]*))$", re.MULTILINE | re.DOTALL)


def install(cluster: Cluster, image: str, *options: str, helm: str = "helm4", wait_s: float = 60.0) -> None:
    """`helm upgrade --install` with the image `NAME:TAG`, which the nodes have; waits until every pod is Ready.

    `options`: `--set lease=5` and so on.
    """
    repository, _, tag = image.rpartition(":")
    values = {
        "image.repository": repository,
        "image.tag": tag,
        "image.pullPolicy": "Never",
        "serviceCIDRs": f"{{{SERVICE_NETWORK}}}",
        "allowedTargetCIDRs": f"{{{ALLOWED}/32}}",
    }
    words = ["upgrade", "--install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace"]
    for name, value in values.items():
        words += ["--set", f"{name}={value}"]
    _helm(cluster, helm, *words, *options)
    wait(cluster, wait_s)


def wait(cluster: Cluster, wait_s: float = 60.0) -> None:
    """Waits until every pod is of the present revision, and Ready."""
    try:
        cluster.wait(lambda: all(_rolled_out(item) for item in workloads(cluster)), wait_s, "pods of sniffer Ready")
    except AssertionError as error:
        told = [cluster.kubectl("get", "pods", "-n", NAMESPACE, "-o", "wide")]
        for component in ("agent", "controller"):
            selector = f"app.kubernetes.io/component={component}"
            told.append(cluster.kubectl("logs", "-n", NAMESPACE, "-l", selector, "--prefix", check=False))
        raise AssertionError("\n".join([str(error), *told])) from None


def uninstall(cluster: Cluster, helm: str = "helm4", *options: str) -> str:
    """`helm uninstall`, and waits until the pods are gone; definitions and mirrors stay. What Helm has printed."""
    said = _helm(cluster, helm, "uninstall", RELEASE, "--namespace", NAMESPACE, *options)
    cluster.wait(lambda: not cluster.objects("Pod", NAMESPACE), 60, "pods of sniffer gone")
    return said.stdout + said.stderr


def helm(cluster: Cluster, *words: object, by: str = "helm4", check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Any other command about the release: `helm(cluster, "rollback", "sniffer", "1")`."""
    return _helm(cluster, by, *words, "--namespace", NAMESPACE, check=check)


def told(notes: str, analyzer: str, user: str, namespace: str) -> list[str]:
    """The commands that the chart's notes tell one to run, about an analyzer's address, a user and her namespace."""
    meant = {"ADDRESS-OF-YOUR-ANALYZER": analyzer, "NAME": user, "THEIRS": namespace, "CHART": str(CHART)}
    for word, meaning in meant.items():
        notes = re.sub(rf"\b{word}\b", meaning, notes)
    return _COMMAND.findall(notes)


def workloads(cluster: Cluster) -> list[Document]:
    """The DaemonSet of the agents and the Deployment of the controllers."""
    return [
        cluster.get("DaemonSet", "sniffer-agent", NAMESPACE),
        cluster.get("Deployment", "sniffer-controller", NAMESPACE),
    ]


def _rolled_out(workload: Document) -> bool:
    status, seen = workload.get("status", {}), workload["metadata"]["generation"]
    if workload["kind"] == "DaemonSet":
        counts = tuple(map(status.get, ("desiredNumberScheduled", "updatedNumberScheduled", "numberReady")))
    else:
        counts = (workload["spec"]["replicas"], status.get("updatedReplicas"), status.get("readyReplicas"))
    return status.get("observedGeneration") == seen and bool(counts[0]) and len(set(counts)) == 1


def probe(cluster: Cluster, helm: str = "helm4") -> tuple[int, str]:
    """`helm test`: its exit status, and all that it said."""
    done = _helm(cluster, helm, "test", RELEASE, "--namespace", NAMESPACE, check=False)
    return done.returncode, done.stdout + done.stderr


def _helm(cluster: Cluster, helm: str, *words: object, check: bool = True) -> "subprocess.CompletedProcess[str]":
    line = [str(cluster.binaries / helm), *map(str, words)]
    homes = {name: str(cluster.home / "helm") for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
    done = subprocess.run(line, capture_output=True, text=True, env=cluster.environment() | homes)
    assert not (check and done.returncode), f"{' '.join(line)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done
