"""Objects as the API server tells them, and a roll-up that is told them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sniffer.model.identity import Identity
from sniffer.plan.cluster import Policy
from sniffer.plan.rollup import Rollup
from sniffer.plan.views import Entry, Report, placed_pod, stored

Raw = dict[str, Any]

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
NO_POLICY = Policy()
CREATED = "2026-01-31T11:00:00Z"


def raw(kind: str, name: str, spec: Mapping[str, Any], namespace: str | None = None, generation: int = 1) -> Raw:
    metadata = {"name": name, "uid": f"{kind}-{namespace}-{name}", "generation": generation, "resourceVersion": "1"}
    metadata["creationTimestamp"] = CREATED
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": "sniffer.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": dict(spec)}


def target(name: str = "zeek", endpoints: Any = ({"address": "10.0.9.5"},), **spec: Any) -> Raw:
    spec = {"allowedNamespaces": {}, **spec}
    base = {"encapsulation": {"vxlan": {"vni": 1}}, "endpoints": list(endpoints)}
    return raw("MirrorTarget", name, {**base, **spec})


def mirror(name: str = "web", namespace: str = "shop", generation: int = 1, **spec: Any) -> Raw:
    base = {"podSelector": {"matchLabels": {"app": "web"}}, "targetRefs": [{"name": "zeek"}]}
    return raw("TrafficMirror", name, {**base, **spec}, namespace, generation)


def cluster_mirror(name: str = "all", generation: int = 1, **spec: Any) -> Raw:
    return raw("ClusterTrafficMirror", name, {"targetRefs": [{"name": "zeek"}], **spec}, None, generation)


def pod(
    name: str, node: str | None = "n1", namespace: str = "shop", labels: Mapping[str, str] | None = None, **more: Any
) -> Raw:
    spec: Raw = {"nodeName": node} if node else {}
    if more.get("host_network"):
        spec["hostNetwork"] = True
    metadata = {"name": name, "namespace": namespace, "uid": more.get("uid", f"{namespace}-{name}")}
    metadata["labels"] = {"app": "web"} if labels is None else dict(labels)
    return {"metadata": metadata, "spec": spec, "status": {"phase": more.get("phase", "Running")}}


class World:
    """A roll-up, told in raw objects."""

    def __init__(self, policy: Policy = NO_POLICY) -> None:
        self.rollup = Rollup(policy)

    def put(self, *objects: Raw) -> None:
        for item in objects:
            metadata, kind = item["metadata"], item.get("kind")
            if kind is None:
                key = metadata["namespace"], metadata["name"]
                self.rollup.pod(key, placed_pod(item))
                continue
            identity = Identity(kind, metadata.get("namespace"), metadata["name"])
            value = stored(kind, item, self.rollup.stored(identity))
            if kind == "MirrorTarget":
                self.rollup.target(identity.name, value)
            else:
                self.rollup.mirror(identity, value)

    def node(self, name: str, labels: Mapping[str, str] | None = None, alive: bool = True, **more: Any) -> None:
        """A node, with its agent."""
        self.rollup.node(name, dict(labels or {}), frozenset(more.get("addresses", ())))
        self.agent(name, alive, more.get("now", NOW))

    def agent(self, node: str, alive: bool = True, now: datetime = NOW) -> None:
        self.rollup.agent(("sniffer-system", f"agent-{node}"), (node, alive), now)

    def report(self, node: str, *mirrors: Raw, clean: bool = False, **entry: Any) -> None:
        """The node has programmed these mirrors, of these generations; entry: what else it says of all of them."""
        said = {
            item["metadata"]["uid"]: Entry(
                item["metadata"]["generation"],
                entry.get("state", "Programmed"),
                entry.get("reason", ""),
                entry.get("message", ""),
            )
            for item in mirrors
        }
        self.rollup.report(node, Report(clean, said))

    def status(self, item: Raw, now: datetime = NOW, stored_status: Mapping[str, Any] | None = None) -> Raw:
        metadata = item["metadata"]
        identity = Identity(item["kind"], metadata.get("namespace"), metadata["name"])
        outcome = self.rollup.outcome(identity, stored_status or {}, now)
        assert outcome is not None
        return dict(outcome.status)

    def condition(self, item: Raw, kind: str = "Ready", now: datetime = NOW) -> tuple[str, str, str]:
        """Status, reason, message."""
        found = next(c for c in self.status(item, now)["conditions"] if c["type"] == kind)
        return found["status"], found["reason"], found["message"]


def identity_of(item: Raw) -> Identity:
    return Identity(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"])
