"""The cluster's state -> the status of each mirror and target.

Told one change at a time, it knows whose status may be another one now; a status is worked out when it is asked for.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import IPv4Network
from typing import Any

from sniffer.model.identity import Identity
from sniffer.model.resources import ClusterTrafficMirror, Mirror, MirrorTarget, TrafficMirror
from sniffer.model.selector import Labels, has_all
from sniffer.model.target import TargetStatus
from sniffer.plan import admission, verdict
from sniffer.plan.admission import Refusal
from sniffer.plan.cluster import Cluster, Policy
from sniffer.plan.endpoints import ServiceKey, resolve, services
from sniffer.plan.membership import Change, Membership
from sniffer.plan.nodes import Nodes, Tally
from sniffer.plan.said import Note, acceptance, conditions, instant
from sniffer.plan.views import Key, Object, PlacedPod, Report, Stored

MIRROR_TARGET = MirrorTarget.__name__


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an object's status should be, and what is news in it."""

    status: Mapping[str, Any]
    notes: tuple[Note, ...] = ()


class Rollup:
    """What the controller knows."""

    def __init__(self, policy: Policy) -> None:
        """policy: without the addresses of nodes, which are told."""
        self.dirty: set[Identity] = set()
        """Mirrors and targets whose status may have changed; whoever asks for one takes it out."""
        self.left: dict[Identity, set[str]] = defaultdict(set)
        """ClusterTrafficMirrors that lost running pods by a change of labels, and which; as dirty."""
        self._policy = policy
        self._namespaces: dict[str, Labels] = {}
        self._cluster = Cluster("", namespaces=self._namespaces, policy=policy)
        self._members = Membership(lambda: self._cluster)
        self._nodes = Nodes()
        self._addresses: dict[str, frozenset[str]] = {}
        self._mirrors: dict[Identity, Stored] = {}
        self._by_uid: dict[str, Identity] = {}
        self._by_target: dict[str, set[Identity]] = defaultdict(set)
        self._refusals: dict[Identity, Refusal | None] = {}
        self._ends: dict[Identity, datetime] = {}
        self._targets: dict[str, Stored] = {}
        self._valid: dict[str, MirrorTarget] = {}
        self._used: set[str] = set()
        self._own: tuple[IPv4Network, ...] = ()
        self._ready: dict[ServiceKey, frozenset[str]] = {}

    def stored(self, identity: Identity) -> Stored | None:
        """What was told last of a mirror or target."""
        return self._targets.get(identity.name) if identity.kind == MIRROR_TARGET else self._mirrors.get(identity)

    @property
    def services(self) -> frozenset[ServiceKey]:
        """The Services that targets name."""
        return frozenset(key for target in self._valid.values() for key in services(target))

    @property
    def node_count(self) -> int:
        """Nodes of the cluster."""
        return len(self._nodes.labels)

    def recall(self) -> None:
        """Everything is dirty: whoever asks now has not asked before."""
        self.dirty |= {*self._mirrors, *(stored.identity for stored in self._targets.values())}

    # What is told

    def policy(self, policy: Policy) -> None:
        """What no target may have, without the addresses of nodes."""
        if policy != self._policy:
            self._policy = policy
            self._set_policy()
            for name in self._targets:
                self._touch_target(name)

    def namespace(self, name: str, labels: Labels | None) -> None:
        """A namespace came, changed its labels, or (None) went."""
        before = Cluster("", namespaces={name: self._namespaces.pop(name, {})})
        if labels is not None:
            self._namespaces[name] = labels
        self._changed(self._members.namespace(name, before, self._cluster), f"namespace {name}")
        for identity in self._mirrors:
            if identity.namespace == name:
                self._refusals.pop(identity, None)
                self.dirty.add(identity)

    def pod(self, key: Key, pod: PlacedPod | None) -> None:
        """A pod came, changed, or (None) went."""
        self._changed(self._members.pod(key, pod), f"pod {key[0]}/{key[1]}")

    def node(self, name: str, labels: Labels | None, addresses: frozenset[str] = frozenset()) -> None:
        """A Node came, changed, or (None) went."""
        if self._nodes.node(name, labels):
            self.dirty |= {identity for identity, stored in self._mirrors.items() if _chooses_nodes(stored)}
        changed = addresses ^ self._addresses.pop(name, frozenset())
        if labels is not None:
            self._addresses[name] = addresses
        if not changed.isdisjoint(self._used):
            self._refuse_nodes()

    def agent(self, pod: Key, place: tuple[str, bool] | None, now: datetime) -> None:
        """An agent's pod: its node, and whether it is Ready; None: it is gone."""
        node = self._nodes.agent(pod, place, now)
        if node:
            self._touch(node)

    def report(self, node: str, report: Report | None) -> None:
        """What the agent of a node says; None: nothing."""
        self.dirty |= {self._by_uid[uid] for uid in self._nodes.report(node, report) if uid in self._by_uid}

    def service(self, key: ServiceKey, ready: frozenset[str] | None) -> None:
        """The addresses of a Service's ready endpoints; None: not known, what the status says holds."""
        if self._ready.get(key) == ready:
            return
        self._ready.pop(key, None)
        if ready is not None:
            self._ready[key] = ready
        for name in [name for name, target in self._valid.items() if key in services(target)]:
            self._set_target(name)

    def mirror(self, identity: Identity, stored: Stored | None) -> None:
        """A mirror came, changed, or (None) went."""
        former = self._mirrors.pop(identity, None)
        if stored:
            self._mirrors[identity] = stored
            self.dirty.add(identity)
        if _same(former, stored):
            return
        if former:
            self._by_uid.pop(former.uid, None)
            for name in _target_names(former):
                self._by_target[name].discard(identity)
        self._refusals.pop(identity, None)
        self._ends.pop(identity, None)
        self._members.mirror(identity, _mirror(stored))
        if stored:
            self._by_uid[stored.uid] = identity
            for name in _target_names(stored):
                self._by_target[name].add(identity)

    def target(self, name: str, stored: Stored | None) -> None:
        """A target came, changed, or (None) went."""
        former = self._targets.pop(name, None)
        if stored:
            self._targets[name] = stored
            self.dirty.add(stored.identity)
        if not _same(former, stored):
            self._set_target(name)

    def tick(self, now: datetime) -> None:
        """Time passed: mirrors end, and agents that were away for a moment are gone."""
        for node in self._nodes.lost(now):
            self._touch(node)
        for identity in [identity for identity, end in self._ends.items() if end <= now]:
            del self._ends[identity]
            self.dirty.add(identity)

    # What follows

    def _changed(self, change: Change, what: str) -> None:
        self.dirty |= change.touched
        for identity in change.left:
            self.left[identity].add(what)

    def _touch(self, node: str) -> None:
        self.dirty |= {identity for identity, stored in self._mirrors.items() if self._means(_mirror(stored), node)}

    def _set_target(self, name: str) -> None:
        """Its value, or its addresses, are others: so may be what its mirrors are told."""
        stored = self._targets.get(name)
        self._valid.pop(name, None)
        if stored and isinstance(stored.value, MirrorTarget):
            self._valid[name] = self._resolved(stored.value, stored.status)
        self._used = {address for target in self._valid.values() for address in admission.addresses(target)}
        self._touch_target(name)
        self._refuse_nodes()

    def _touch_target(self, name: str) -> None:
        users = self._by_target[name]
        for identity in users:
            self._refusals.pop(identity, None)
        self.dirty |= users
        if name in self._targets:
            self.dirty.add(self._targets[name].identity)

    def _refuse_nodes(self) -> None:
        """Of the nodes' addresses only those that targets have: each look goes through all that are refused."""
        owned = {address for addresses in self._addresses.values() for address in addresses if address in self._used}
        changed = {str(network.network_address) for network in self._own} ^ owned
        if not changed:
            return
        self._own = tuple(IPv4Network(address) for address in sorted(owned))
        self._set_policy()
        for name in [n for n, target in self._valid.items() if not changed.isdisjoint(admission.addresses(target))]:
            self._touch_target(name)

    def _set_policy(self) -> None:
        policy = Policy({**self._policy.refused, "a node": self._own}, self._policy.allowed)
        self._cluster = replace(self._cluster, policy=policy)

    def _resolved(self, target: MirrorTarget, status: Object) -> MirrorTarget:
        return target.model_copy(update={"status": TargetStatus(endpoints=resolve(target, status, self._ready))})

    # What is asked

    def outcome(self, identity: Identity, status: Object, now: datetime) -> Outcome | None:
        """What the status of a mirror or target should be, given what it is; None: there is no such object."""
        stored = self.stored(identity)
        if stored is None:
            return None
        return (self._of_target if identity.kind == MIRROR_TARGET else self._of_mirror)(stored, status, now)

    def _of_target(self, stored: Stored, status: Object, now: datetime) -> Outcome:
        target = stored.value if isinstance(stored.value, MirrorTarget) else None
        if target:
            target = self._resolved(target, status)
            refused = admission.target_refusal(target, self._cluster.policy)
        else:
            refused = Refusal("Invalid", stored.problem)
        said = verdict.of_target(target, refused)
        resolved = target.status.endpoints if target else ()
        written = {
            "conditions": conditions(said, stored.generation, status, now),
            "endpoints": [item.model_dump(by_alias=True, mode="json") for item in resolved],
        }
        return Outcome(written, acceptance(said[0], status))

    def _of_mirror(self, stored: Stored, status: Object, now: datetime) -> Outcome:
        identity, mirror = stored.identity, _mirror(stored)
        if mirror is None:
            refused: Refusal | None = Refusal("Invalid", stored.problem)
        else:
            refused = self._refusal(identity, mirror)
        stop = None if refused or mirror is None else self._stop(identity, mirror, now)
        counts = self._counts(mirror) if mirror else {}
        tally = Tally() if refused or stop else self._nodes.tally(counts, stored.uid, stored.generation)
        said = verdict.of_mirror(mirror, refused, stop, tally, self._members.of(identity).host_network)
        written = {
            "conditions": conditions(said, stored.generation, status, now),
            "pods": sum(counts.values()),
            "nodes": tally.nodes,
            "readyNodes": tally.ready,
        }
        remarks = (Note(reason, f"{reason} on {words}") for reason, words in tally.remarks)
        return Outcome(written, (*acceptance(said[0], status), *remarks))

    def _refusal(self, identity: Identity, mirror: Mirror) -> Refusal | None:
        """Kept, because filters are compiled for it."""
        if identity not in self._refusals:
            self._refusals[identity] = admission.refusal(mirror, self._valid, self._cluster)
        return self._refusals[identity]

    def _stop(self, identity: Identity, mirror: Mirror, now: datetime) -> Refusal | None:
        """Why an accepted mirror should not be carried out."""
        end = admission.expiry(mirror, self._valid)
        if end and end <= now:
            return Refusal("Expired", f"it ended at {instant(end)}")
        if end:
            self._ends[identity] = end
        if mirror.spec.suspend:
            return Refusal("Suspended", "spec.suspend is true")
        if all(self._valid[ref.name].spec.suspend for ref in mirror.spec.target_refs):
            return Refusal("Suspended", "every target is suspended")
        return None

    def _counts(self, mirror: Mirror) -> Mapping[str, int]:
        """The nodes that should carry it out, with the pods selected there; 0 where interfaces are named."""
        selected = self._members.of(mirror.identity).nodes
        if isinstance(mirror, TrafficMirror):
            return selected
        wanted, labels = mirror.spec.node_selector, self._nodes.labels
        if mirror.spec.interfaces is not None:
            return {node: 0 for node, given in labels.items() if has_all(given, wanted)}
        return {n: pods for n, pods in selected.items() if has_all(labels.get(n, {}), wanted)} if wanted else selected

    def _means(self, mirror: Mirror | None, node: str) -> bool:
        """Whether a node is among `_counts`."""
        if mirror is None:
            return False
        if isinstance(mirror, ClusterTrafficMirror):
            if not has_all(self._nodes.labels.get(node, {}), mirror.spec.node_selector):
                return False
            if mirror.spec.interfaces is not None:
                return node in self._nodes.labels
        return node in self._members.of(mirror.identity).nodes


def _mirror(stored: Stored | None) -> Mirror | None:
    value = stored.value if stored else None
    return value if isinstance(value, TrafficMirror | ClusterTrafficMirror) else None


def _target_names(stored: Stored) -> list[str]:
    mirror = _mirror(stored)
    return [ref.name for ref in mirror.spec.target_refs] if mirror else []


def _same(former: Stored | None, stored: Stored | None) -> bool:
    """Whether only what we do not read, or wrote ourselves, differs."""
    if former is None or stored is None:
        return False
    return (former.uid, former.problem) == (stored.uid, stored.problem) and former.value is stored.value


def _chooses_nodes(stored: Stored) -> bool:
    mirror = _mirror(stored)
    if not isinstance(mirror, ClusterTrafficMirror):
        return False
    return mirror.spec.interfaces is not None or bool(mirror.spec.node_selector)
