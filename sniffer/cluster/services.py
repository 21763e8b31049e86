"""The ready endpoints of the Services that somebody asks for: a watch for each, while it is asked for."""

from collections.abc import Callable, Iterable

from sniffer.cluster.client import Client
from sniffer.cluster.reflector import Object, Reflector, Watched
from sniffer.plan.endpoints import ServiceKey
from sniffer.plan.views import ready_addresses

API_SERVER: ServiceKey = ("default", "kubernetes")


class Services:
    """`follow`, then `ready`."""

    def __init__(self, client: Client, changed: Callable[[], None]) -> None:
        """changed: as of Reflector."""
        self._client = client
        self._changed = changed
        self._reflectors: dict[ServiceKey, Reflector] = {}

    def follow(self, wanted: Iterable[ServiceKey]) -> None:
        """These, and no others."""
        wanted = frozenset(wanted)
        for key in wanted - self._reflectors.keys():
            self._reflectors[key] = Reflector(self._client, _watched(key), self._changed)
            self._reflectors[key].start()
        for key in self._reflectors.keys() - wanted:
            self._reflectors.pop(key).stop()

    def ready(self, key: ServiceKey) -> frozenset[str] | None:
        """Addresses that an analyzer can have; None: not known yet."""
        reflector = self._reflectors.get(key)
        return ready_addresses(reflector.objects().values()) if reflector and reflector.synced else None

    def close(self) -> None:
        """Ends the watches."""
        self.follow(())


def _watched(key: ServiceKey) -> Watched:
    namespace, name = key
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    return Watched(path, {"labelSelector": f"kubernetes.io/service-name={name}"}, prune=_pruned)


def _pruned(item: Object) -> Object:
    endpoints = [
        {
            "addresses": endpoint.get("addresses"),
            "conditions": {"ready": (endpoint.get("conditions") or {}).get("ready")},
        }
        for endpoint in item.get("endpoints") or ()
    ]
    return {"addressType": item.get("addressType"), "endpoints": endpoints}
