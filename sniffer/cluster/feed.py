"""The API server -> the roll-up: every list that it needs is followed, and what has changed is told."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from sniffer.cluster.client import Client
from sniffer.cluster.reflector import Key, Object, Reflector, Watched
from sniffer.cluster.services import API_SERVER, Services
from sniffer.model.identity import Identity
from sniffer.model.resources import API_VERSION, GROUP, KINDS, SnifferNode
from sniffer.plan import views
from sniffer.plan.rollup import MIRROR_TARGET, Rollup

Changes = Iterator[tuple[Key, Object | None]]


class Feed:
    """`start`; then `take`, whenever `changed` was called."""

    def __init__(self, client: Client, namespace: str, changed: Callable[[], None]) -> None:
        """namespace: where agents run; changed: as of Reflector."""
        self._namespace = namespace
        self.services = Services(client, changed)
        # In this order they are told: a pod is read by its namespace's labels, a mirror counts the pods that are known.
        watched = {
            "Namespace": Watched("/api/v1/namespaces", metadata_only=True, prune=_labels),
            "Node": Watched("/api/v1/nodes", prune=_node),
            "Pod": Watched("/api/v1/pods", prune=_pod),
            **{kind: _ours(model.plural) for kind, model in KINDS.items()},
            SnifferNode.__name__: _ours(SnifferNode.plural),
        }
        self._reflectors = {kind: Reflector(client, one, changed) for kind, one in watched.items()}
        self._told: dict[str, Mapping[Key, Object]] = {kind: {} for kind in watched}

    def start(self) -> None:
        """Begins to follow, until `close`."""
        for reflector in self._reflectors.values():
            reflector.start()
        self.services.follow([API_SERVER])

    @property
    def synced(self) -> bool:
        """Whether everything was listed once: before that, what is not there may only not be known."""
        return all(reflector.synced for reflector in self._reflectors.values())

    @property
    def faults(self) -> dict[str, str]:
        """What is wrong with the watches now, in words, by kind."""
        return {kind: reflector.fault for kind, reflector in self._reflectors.items() if reflector.fault}

    def close(self) -> None:
        """Ends the threads."""
        for reflector in self._reflectors.values():
            reflector.stop()
        self.services.close()

    def take(self, rollup: Rollup, now: datetime) -> None:
        """Tells what has changed since the last call; nothing before everything is known."""
        if not self.synced:
            return
        for kind in self._reflectors:
            for key, item in self._changes(kind):
                self._tell(rollup, kind, key, item, now)
        self.services.follow(rollup.services | {API_SERVER})
        for service in rollup.services:
            rollup.service(service, self.services.ready(service))

    def _changes(self, kind: str) -> Changes:
        """What is not the very object of the last call; removals first."""
        former, now = self._told[kind], self._reflectors[kind].objects()
        self._told[kind] = now
        if now is former:
            return
        for key in former:
            if key not in now:
                yield key, None
        for key, item in now.items():
            if former.get(key) is not item:
                yield key, item

    def _tell(self, rollup: Rollup, kind: str, key: Key, item: Object | None, now: datetime) -> None:
        name = key[1]
        if kind == "Namespace":
            rollup.namespace(name, item["labels"] if item else None)
        elif kind == "Node":
            rollup.node(name, *((item["labels"], item["addresses"]) if item else (None,)))
        elif kind == "Pod":
            rollup.pod(key, views.placed_pod(item) if item else None)
            if key[0] == self._namespace:
                rollup.agent(key, views.ready_agent(item) if item else None, now)
        elif kind == SnifferNode.__name__:
            rollup.report(name, views.node_report(item) if item else None)
        else:
            identity = Identity(kind, key[0] or None, name)
            stored = views.stored(kind, item, rollup.stored(identity)) if item else None
            if kind == MIRROR_TARGET:
                rollup.target(name, stored)
            else:
                rollup.mirror(identity, stored)


def _ours(plural: str) -> Watched:
    return Watched(f"/apis/{API_VERSION}/{plural}", crd=f"{plural}.{GROUP}")


def _labels(item: Object) -> Object:
    return {"labels": item["metadata"].get("labels") or {}}


def _node(item: Object) -> Object:
    return {**_labels(item), "addresses": views.node_addresses(item)}


def _pod(item: Object) -> Object:
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    pruned: dict[str, Any] = {
        "metadata": {name: metadata[name] for name in ("namespace", "name", "uid", "labels") if name in metadata},
        "spec": {name: spec[name] for name in ("nodeName", "hostNetwork") if name in spec},
        "status": {"phase": status.get("phase")},
    }
    if views.ready_agent(item):
        ready = [one for one in status.get("conditions") or () if one.get("type") == "Ready"]
        pruned["status"]["conditions"] = [{"type": "Ready", "status": one.get("status")} for one in ready]
    return pruned
