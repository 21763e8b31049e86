"""The API server as the agent's source: what it says now, and what it said last while it says nothing."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import Enum
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

from sniffer.cluster import views
from sniffer.cluster.client import Client
from sniffer.cluster.orders import Orders
from sniffer.cluster.reflector import Object, Reflector, Watched
from sniffer.cluster.report import Reporter
from sniffer.model.resources import (
    API_VERSION,
    GROUP,
    ClusterTrafficMirror,
    Mirror,
    MirrorTarget,
    TrafficMirror,
    WrittenKind,
)
from sniffer.plan.cluster import Cluster, Network, Pod, Policy
from sniffer.plan.compile import Sources

POLL_S = 5.0
"""For safety only: whoever waits is called."""
FLUSH_S = 1.0
SERVICE_HOST = "KUBERNETES_SERVICE_HOST"

_NODES = "/api/v1/nodes"
_KINDS: tuple[WrittenKind, ...] = (TrafficMirror, ClusterTrafficMirror, MirrorTarget)


class _What(Enum):
    """What is followed beside the resources."""

    NAMESPACES = "namespaces"
    PODS = "pods of this node"
    OWN_NODE = "this node"
    API_SERVER = "addresses of the API server"
    NODES = "addresses of all nodes"


class ClusterSource:
    """`poll`, then `sources`. Its threads begin at once and end with `close`."""

    poll_s = POLL_S

    def __init__(
        self,
        client: Client,
        node: str,
        policy: Policy,
        changed: Callable[[], None],
        namespace: str = "sniffer-system",
        grace_s: float = 300,
        pod: str | None = None,
    ) -> None:
        """policy: what the administrator says; addresses of nodes and of the API server are added to it.

        changed: called from other threads when there is something to poll for; must not block.
        namespace: the agent's own. grace_s: how long some of the source may be silent while it still counts as fresh;
        from a quiet cluster a bookmark a minute is all that is heard. pod: the agent's; None: it runs in none.
        """
        self._client = client
        self._node = node
        self._policy = policy
        self._changed = changed
        self._grace_s = grace_s
        self._news = threading.Event()
        self._outdated = threading.Event()
        self._outdated.set()
        self._readings = {kind: views.Readings(kind) for kind in _KINDS}
        self._sources = Sources((), (), complete=False)
        self._reflectors: dict[_What | WrittenKind, Reflector] = {}
        for kind in _KINDS:
            self._follow(kind, _written(kind))
        own = {"fieldSelector": f"metadata.name={node}"}
        here = {"fieldSelector": f"spec.nodeName={node}"}
        self._follow(_What.NAMESPACES, Watched("/api/v1/namespaces", {}, True, views.of_namespace))
        self._follow(_What.PODS, Watched("/api/v1/pods", here, False, views.of_pod))
        self._follow(_What.OWN_NODE, Watched(_NODES, own, False, views.of_node))
        self._follow(_What.API_SERVER, _API_SERVER)
        self._orders = Orders(client, namespace, pod, node, self._heard)
        self._reporter = Reporter(client, node, self._own_uid, namespace)

    def poll(self) -> bool:
        """Whether anything is new since the last call."""
        news = self._news.is_set()
        self._news.clear()
        return news

    def sources(self) -> Sources:
        """What is in force; not complete before everything that is needed was listed once."""
        if self._outdated.is_set():
            self._outdated.clear()  # first: what comes while we look is looked at again
            self._sources = self._look()
        return self._sources

    def fresh(self) -> bool:
        """Whether everything was heard of within the grace."""
        return time.monotonic() - self.contact_s <= self._grace_s

    @property
    def contact_s(self) -> float:
        """Monotonic time until which everything that is followed was known; -inf before that."""
        return min(reflector.contact_s for reflector in self._reflectors.values())

    def faults(self) -> dict[str, str]:
        """What is wrong with the watches now, in words, by what they follow."""
        return {
            what.value if isinstance(what, _What) else what.plural: reflector.fault
            for what, reflector in self._reflectors.items()
            if reflector.fault
        }

    def report(self, status: Mapping[str, Any]) -> None:
        """Takes the status of this node's SnifferNode; written in its own time, and never in the way."""
        self._reporter.report(status)

    def order(self) -> str | None:
        """Which order to clean this node holds now; None: none does."""
        return self._orders.order()

    def leaves(self) -> bool:
        """Whether no agent is wanted on this node any more; a second at most. False: not known."""
        return self._orders.leaves()

    def flush(self) -> None:
        """Gives what was reported last a second to arrive."""
        self._reporter.flush(FLUSH_S)

    def close(self) -> None:
        """Ends the threads, and waits for none: one that waits for an answer ends after that, or with the process."""
        self._reporter.close()
        self._orders.close()
        for reflector in self._reflectors.values():
            reflector.stop(wait_s=0)

    def _follow(self, what: "_What | WrittenKind", watched: Watched, contact_s: float = float("-inf")) -> None:
        reflector = self._reflectors[what] = Reflector(self._client, watched, self._heard)
        reflector.contact_s = contact_s
        reflector.start()

    def _heard(self) -> None:
        self._outdated.set()
        self._news.set()
        self._changed()

    def _look(self) -> Sources:
        complete = all(reflector.synced for what, reflector in self._reflectors.items() if what is not _What.NODES)
        complete = complete and self._orders.known
        for kind, readings in self._readings.items():
            readings.take(self._reflectors[kind].objects())
        mirrors = tuple(
            value for kind in _KINDS for value in self._readings[kind].good() if not isinstance(value, MirrorTarget)
        )
        targets = tuple(value for value in self._readings[MirrorTarget].good() if isinstance(value, MirrorTarget))
        pods = tuple(pod for item in self._objects(_What.PODS) if (pod := views.pod(item)))
        self._follow_nodes(_names_interfaces(mirrors))
        return Sources(
            targets=targets,
            mirrors=mirrors,
            stale={identity: words for one in self._readings.values() for identity, words in one.stale().items()},
            refused={identity: words for one in self._readings.values() for identity, words in one.refused().items()},
            complete=complete,
            cluster=self._cluster(pods),
        )

    def _follow_nodes(self, needed: bool) -> None:
        """The addresses of all nodes, only while their copies are to be told from traffic."""
        if needed and _What.NODES not in self._reflectors:
            # The grace is for this one too: what has run so far goes on meanwhile.
            self._follow(_What.NODES, Watched(_NODES, {}, False, views.of_node), self.contact_s)
        elif not needed and _What.NODES in self._reflectors:
            self._reflectors.pop(_What.NODES).stop(wait_s=0)

    def _objects(self, what: _What) -> Iterable[Object]:
        return self._reflectors[what].objects().values() if what in self._reflectors else ()

    def _cluster(self, pods: tuple[Pod, ...]) -> Cluster:
        own = next(iter(self._objects(_What.OWN_NODE)), None)
        nodes = views.parsed(self._objects(_What.NODES))
        refused = {
            **self._policy.refused,
            "the API server": _networks(views.parsed(self._objects(_What.API_SERVER)) | _found_at(self._client.host)),
            "a node": _networks(nodes | views.parsed(self._objects(_What.OWN_NODE))),
        }
        return Cluster(
            node=self._node,
            node_labels=own["metadata"].get("labels", {}) if own else {},
            namespaces={
                name: item["labels"] for (_, name), item in self._reflectors[_What.NAMESPACES].objects().items()
            },
            pods=pods,
            node_addresses=nodes,
            nodes_known=_What.NODES in self._reflectors and self._reflectors[_What.NODES].synced,
            policy=replace(self._policy, refused=refused),
        )

    def _own_uid(self) -> str | None:
        own = next(iter(self._objects(_What.OWN_NODE)), None)
        return own["metadata"].get("uid") if own else None


_API_SERVER = Watched(
    "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
    {"labelSelector": "kubernetes.io/service-name=kubernetes"},
    False,
    views.of_slice,
)


def _written(kind: WrittenKind) -> Watched:
    prune = views.of_target if kind is MirrorTarget else views.of_mirror
    return Watched(f"/apis/{API_VERSION}/{kind.plural}", {}, False, prune, f"{kind.plural}.{GROUP}")


def _names_interfaces(mirrors: Iterable[Mirror]) -> bool:
    return any(isinstance(mirror, ClusterTrafficMirror) and mirror.spec.interfaces for mirror in mirrors)


def _found_at(host: str) -> frozenset[str]:
    """Where this client finds the API server, as far as it is an address."""
    return views.parsed([{"addresses": (urlsplit(host).hostname or "", os.environ.get(SERVICE_HOST, ""))}])


def _networks(addresses: Iterable[str]) -> tuple[Network, ...]:
    return tuple(ip_network(address) for address in sorted(addresses))
