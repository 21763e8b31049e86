"""Telling every agent of the cluster to clean its node, and waiting until each has said that it did."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from sniffer.cluster.client import Client
from sniffer.cluster.report import jitter_of
from sniffer.errors import ApiError
from sniffer.model.resources import API_VERSION, SnifferNode
from sniffer.plan.cleaning import Progress, progress
from sniffer.plan.order import CONFIG_MAP, clean_order, order_of

LOOK_S = 0.5
PAGE = 500

Object = Mapping[str, Any]


class Cleaning:
    """`order`, then `wait`."""

    def __init__(self, client: Client, namespace: str) -> None:
        """namespace: sniffer's own."""
        self._client = client
        self._namespace = namespace
        self._order = ""

    def order(self) -> None:
        """Orders it. ApiError."""
        collection = f"/api/v1/namespaces/{self._namespace}/configmaps"
        path = f"{collection}/{CONFIG_MAP}"
        try:
            found = self._client.get(path)
        except ApiError as error:
            if error.status != 404:
                raise
            found = {}
        head = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG_MAP}}
        # Of the object, only this field is ours: the chart owns the rest.
        written = self._client.patch(path, {**head, "data": clean_order(found)}, "apply", "sniffer-cleanup")
        self._order = order_of(written) or ""

    def wait(self, patience_s: float, tell: Callable[[Progress], None]) -> Progress:
        """How it stands when every node is clean, or cannot become so, or after that time and the reports' jitter.

        tell: called with each look. ApiError.
        """
        ends_s = time.monotonic() + patience_s + self._jitter_s()
        while True:
            now = self._look()
            tell(now)
            if not now.waits or time.monotonic() >= ends_s:
                return now
            time.sleep(LOOK_S)

    def _look(self) -> Progress:
        pods = self._all(
            f"/api/v1/namespaces/{self._namespace}/pods", labelSelector="app.kubernetes.io/component=agent"
        )
        nodes = self._all("/api/v1/nodes")
        return progress(self._order, pods, nodes, self._all(f"/apis/{API_VERSION}/{SnifferNode.plural}"))

    def _jitter_s(self) -> float:
        try:
            return jitter_of(self._client, self._namespace)
        except (ApiError, ValueError, TypeError):
            return 0.0

    def _all(self, path: str, **parameters: str) -> list[Object]:
        found: list[Object] = []
        token = ""
        while True:
            page = self._client.get(path, {**parameters, "limit": PAGE, **({"continue": token} if token else {})})
            found += page["items"]
            token = page["metadata"].get("continue") or ""
            if not token:
                return found
