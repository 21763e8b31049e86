"""What an agent is told beside the resources: to clean its node (plan/order.py), and whether its node is left for good.

Mirroring depends on none of it: what cannot be read orders nothing.
"""

import logging
import threading
from collections.abc import Callable

from sniffer.cluster.client import Client
from sniffer.cluster.reflector import Object, Reflector, Watched
from sniffer.errors import ApiError
from sniffer.plan.departure import leaves, owner
from sniffer.plan.order import CONFIG_MAP, order_of

ANSWER_S = 0.4
"""For one question to the API server while the kubelet waits for us to end."""
LEAVE_S = 0.7
"""For all of them."""

log = logging.getLogger(__name__)


class Orders:
    """Followed from the start, until `close`."""

    def __init__(self, client: Client, namespace: str, pod: str | None, node: str, changed: Callable[[], None]) -> None:
        """pod: our own, in the namespace; None: not in a pod. changed: as of Reflector."""
        self._client = client
        self._namespace = namespace
        self._pod = pod
        self._node = node
        self._order: str | None = None
        watched = Watched(
            f"/api/v1/namespaces/{namespace}/configmaps",
            {"fieldSelector": f"metadata.name={CONFIG_MAP}"},
            prune=_pruned,
        )
        self._reflector = Reflector(client, watched, changed)
        self._reflector.start()

    @property
    def known(self) -> bool:
        """Whether there was an answer to what is ordered, be it a refusal."""
        return self._reflector.synced or self._reflector.fault is not None

    def order(self) -> str | None:
        """The order that is in force; None: none is. One that is gone is not lifted: the release goes with it."""
        for found in self._reflector.objects().values():
            self._order = order_of(found)
        return self._order

    def leaves(self) -> bool:
        """Asks whether no agent is wanted on this node any more; a second at most. False: not known."""
        found: list[bool] = []
        asking = threading.Thread(target=lambda: found.append(self._asked()), name="leave", daemon=True)
        asking.start()
        asking.join(LEAVE_S)
        return found == [True]

    def close(self) -> None:
        """Ends the thread, and waits for none."""
        self._reflector.stop(wait_s=0)

    def _asked(self) -> bool:
        if self._pod is None:
            return False
        try:
            pod = self._get(f"/api/v1/namespaces/{self._namespace}/pods/{self._pod}")
            name = owner(pod).get("name") if pod else None
            if pod is None or name is None or not pod["metadata"].get("deletionTimestamp"):
                return False
            daemon_set = self._get(f"/apis/apps/v1/namespaces/{self._namespace}/daemonsets/{name}")
            return leaves(pod, daemon_set, self._get(f"/api/v1/nodes/{self._node}"))
        except ApiError as error:
            log.info("whether another agent is to come is not known: %s", error)
            return False

    def _get(self, path: str) -> Object | None:
        """None: it is not there."""
        try:
            return self._client.get(path, timeout_s=ANSWER_S)
        except ApiError as error:
            if error.status == 404:
                return None
            raise


def _pruned(item: Object) -> Object:
    return {"metadata": {"uid": item["metadata"].get("uid")}, "data": item.get("data") or {}}
