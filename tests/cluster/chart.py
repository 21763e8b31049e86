"""The chart's documents, for tests that need the API and no pods of ours: definitions, roles, policies."""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import yaml

from tests.cluster.api import ApiError, Document
from tests.cluster.lab import Cluster

CHART = Path(__file__).parents[2] / "deploy/helm/sniffer"
NAMESPACE = "sniffer-system"
_PODS = frozenset({"DaemonSet", "Deployment", "PodDisruptionBudget"})


def rendered(helm: Path, *options: str, hooks: bool = False) -> list[Document]:
    """What `helm template` makes of the chart for a new enough cluster. `options`: --set NAME=VALUE and so on.

    `hooks`: with those documents that Helm applies only at some event.
    """
    line = [helm, "template", "sniffer", CHART, "--include-crds", "--namespace", NAMESPACE]
    words = [*line, "--kube-version", "1.36.0", *options]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    documents = [one for one in yaml.safe_load_all(done.stdout) if one]
    return [one for one in documents if hooks or "helm.sh/hook" not in one["metadata"].get("annotations", {})]


@contextlib.contextmanager
def applied(cluster: Cluster, documents: Sequence[Document]) -> Iterator[None]:
    """These documents in the cluster; those that nobody else had put there are deleted in the end."""
    made = [one for one in documents if not _is_there(cluster, one)]
    definitions = [one for one in documents if one["kind"] == "CustomResourceDefinition"]
    try:
        cluster.apply(*documents)
        for one in definitions:
            cluster.wait(partial(_is_served, cluster, one), what=f"{one['metadata']['name']} served")
        yield
    finally:
        for one in reversed(made):
            cluster.delete(one["kind"], one["metadata"]["name"], one["metadata"].get("namespace"))


@contextlib.contextmanager
def api_of_chart(cluster: Cluster) -> Iterator[None]:
    """Everything of the chart that runs nothing, in a namespace of its own name."""
    documents = [one for one in rendered(cluster.binaries / "helm4") if one["kind"] not in _PODS]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    with applied(cluster, [namespace, *documents]):
        yield


def _is_there(cluster: Cluster, document: Document) -> bool:
    metadata = document["metadata"]
    try:
        cluster.get(document["kind"], metadata["name"], metadata.get("namespace"))
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return True


def _is_served(cluster: Cluster, definition: Document) -> bool:
    spec = definition["spec"]
    status, _ = cluster.api.request(
        "GET", f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
    )
    return status == 200
