"""The agents' jitter, published in the ConfigMap `sniffer` of our own namespace."""

from sniffer.cluster.client import Client
from sniffer.cluster.report import CONFIG, JITTER_KEY
from sniffer.errors import ApiError
from sniffer.plan.jitter import jitter_s

CHECK_S = 300.0
"""Somebody may have changed it: looked at so often."""
RETRY_S = 10.0


class Jitter:
    """`is_due`, then `write`."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._collection = f"/api/v1/namespaces/{namespace}/configmaps"
        self._published: int | None = None
        self._checked_s = float("-inf")

    def is_due(self, nodes: int, now_s: float) -> bool:
        """now_s: monotonic."""
        since_s = now_s - self._checked_s
        return since_s > CHECK_S or (since_s > RETRY_S and jitter_s(nodes) != self._published)

    def forget(self) -> None:
        """Another may have written it."""
        self._checked_s = float("-inf")

    def write(self, nodes: int, now_s: float) -> bool:
        """Brings it to what so many nodes need; whether that took a write. ApiError."""
        wanted = jitter_s(nodes)
        path, body = f"{self._collection}/{CONFIG}", {"data": {JITTER_KEY: str(wanted)}}
        self._checked_s = now_s
        try:
            found = (self._client.get(path).get("data") or {}).get(JITTER_KEY)
        except ApiError as error:
            if error.status != 404:
                raise
            head = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG}}
            self._client.create(self._collection, {**head, **body})
            found = None
        else:
            if found != str(wanted):
                self._client.patch(path, body)
        self._published = wanted
        return found != str(wanted)
