"""Many nodes that are nothing but objects, with agents that do nothing but report, as agents do it."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self

from sniffer.cluster.client import Client
from sniffer.cluster.report import Reporter
from tests.cluster.api import Document
from tests.cluster.chart import NAMESPACE
from tests.cluster.controllers import AGENT_LABELS
from tests.cluster.lab import Cluster
from tests.cluster.pod import document

READY = [{"type": "Ready", "status": "True"}]
LABEL = {"fleet": "true"}


class Connection(Client):
    """That of all agents; `reported`: when each of their reports was answered."""

    reported: list[float]

    @classmethod
    def of(cls, cluster: Cluster) -> Self:
        """As an administrator: what an agent's token may is shown elsewhere."""
        made = cls.load(cluster.kubeconfig)
        made.reported = []
        return made

    def patch(self, path: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        answer = super().patch(path, *arguments, **options)
        if path.endswith("/status"):
            self.reported.append(time.monotonic())
        return answer


@contextmanager
def fleet(cluster: Cluster, count: int) -> Iterator[dict[str, str]]:
    """Nodes, each with a pod of an agent that is Ready: their uids by name. The nodes are gone in the end."""
    names = [f"fleet{number}" for number in range(count)]
    try:
        with ThreadPoolExecutor(4) as pool:
            yield dict(zip(names, pool.map(lambda name: _join(cluster, name), names), strict=True))
    finally:
        for kind, query in (("Node", {}), ("Pod", {"namespace": NAMESPACE, "gracePeriodSeconds": "0"})):
            cluster.api.ask("DELETE", cluster.api.path(kind, labelSelector="fleet=true", **query))


def _join(cluster: Cluster, name: str) -> str:
    api = cluster.api
    taint = {"key": "fleet", "effect": "NoSchedule"}
    metadata = {"name": name, "labels": LABEL}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": [taint]}}
    uid = str(api.ask("POST", api.path("Node"), node)["metadata"]["uid"])
    pod = document(f"agent-{name}", NAMESPACE, name, AGENT_LABELS | LABEL)
    api.ask("POST", api.path("Pod", namespace=NAMESPACE), pod)
    path = f"{api.path('Pod', f'agent-{name}', NAMESPACE)}/status"
    status = {"status": {"phase": "Running", "conditions": READY}}
    api.ask("PATCH", path, status, content_type="application/merge-patch+json")
    return uid


@contextmanager
def reporters(connection: Connection, nodes: dict[str, str]) -> Iterator[list[Reporter]]:
    """The part of each node's agent that writes, all started at once."""
    made = [Reporter(connection, name, lambda uid=uid: uid, NAMESPACE) for name, uid in nodes.items()]
    try:
        yield made
    finally:
        for one in made:
            one.close()


def programmed(mirrors: Sequence[Document]) -> dict[str, Any]:
    """What an agent says when it carries out all of these, none in a namespace."""
    rows = [
        {
            "kind": one["kind"],
            "name": one["metadata"]["name"],
            "uid": one["metadata"]["uid"],
            "generation": one["metadata"]["generation"],
            "state": "Programmed",
        }
        for one in mirrors
    ]
    return {"state": "Running", "version": "0", "mirrors": rows}


def most_in_a_second(moments: Sequence[float]) -> int:
    """The fullest second."""
    ordered = sorted(moments)
    return max(sum(first <= one < first + 1 for one in ordered) for first in ordered)
