"""The cluster's state -> the status of each mirror and target.

Told one change at a time, it knows whose status may be another one now; a status is worked out when it is asked for.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from sniffer.model.identity import Identity
from sniffer.model.resources import ClusterTrafficMirror, Mirror, MirrorTarget, TrafficMirror
from sniffer.model.selector import Labels, has_all
from sniffer.plan import admission, verdict
from sniffer.plan.admission import Refusal
from sniffer.plan.cluster import Cluster, Policy
from sniffer.plan.endpoints import ServiceKey
from sniffer.plan.membership import Change, Membership
from sniffer.plan.nodes import Nodes, Tally
from sniffer.plan.said import Note, Outcome, acceptance, conditions, instant
from sniffer.plan.targets import Names, Targets
from sniffer.plan.views import Key, Object, PlacedPod, Report, Stored

MIRROR_TARGET = MirrorTarget.__name__


class Rollup:
    """What the controller knows."""

    def __init__(self, policy: Policy) -> None:
        """policy: without the addresses of nodes, which are told."""
        self.dirty: set[Identity] = set()
        """Mirrors and targets whose status may have changed; whoever asks for one takes it out."""
        self.left: dict[Identity, set[str]] = defaultdict(set)
        """ClusterTrafficMirrors that lost running pods by a change of labels, and which; as dirty."""
        self._targets = Targets(policy)
        self._namespaces: dict[str, Labels] = {}
        self._cluster = Cluster("", namespaces=self._namespaces, policy=policy)
        self._members = Membership(lambda: self._cluster)
        self._nodes = Nodes()
        self._mirrors: dict[Identity, Stored] = {}
        self._by_uid: dict[str, Identity] = {}
        self._by_target: dict[str, set[Identity]] = defaultdict(set)
        self._refusals: dict[Identity, Refusal | None] = {}
        self._ends: dict[Identity, datetime] = {}

    def stored(self, identity: Identity) -> Stored | None:
        """What was told last of a mirror or target."""
        if identity.kind == MIRROR_TARGET:
            return self._targets.stored.get(identity.name)
        return self._mirrors.get(identity)

    @property
    def services(self) -> frozenset[ServiceKey]:
        """The Services that targets name."""
        return self._targets.services

    @property
    def node_count(self) -> int:
        """Nodes of the cluster."""
        return len(self._nodes.labels)

    def recall(self) -> None:
        """Everything is dirty: whoever asks now has not asked before."""
        self.dirty |= self._mirrors.keys() | self._targets.identities

    # What is told

    def policy(self, policy: Policy) -> None:
        """What no target may have, without the addresses of nodes."""
        self._touch_targets(self._targets.limit(policy))

    def namespace(self, name: str, labels: Labels | None) -> None:
        """A namespace came, changed its labels, or (None) went."""
        before = Cluster("", namespaces={name: self._namespaces.pop(name)} if name in self._namespaces else {})
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
        self._touch_targets(self._targets.node(name, addresses))

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
        self._touch_targets(self._targets.service(key, ready))

    def mirror(self, identity: Identity, stored: Stored | None) -> None:
        """A mirror came, changed, or (None) went."""
        former = self._mirrors.pop(identity, None)
        self.dirty.add(identity)
        if stored:
            self._mirrors[identity] = stored
        if former and stored and former.reads_as(stored):
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
        self._touch_targets(self._targets.put(name, stored))
        if stored:
            self.dirty.add(stored.identity)

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

    def _touch_targets(self, names: Names) -> None:
        if self._cluster.policy is not self._targets.policy:
            self._cluster = replace(self._cluster, policy=self._targets.policy)
        for name in names:
            users = self._by_target[name]
            for identity in users:
                self._refusals.pop(identity, None)
            self.dirty |= users
            if name in self._targets.stored:
                self.dirty.add(self._targets.stored[name].identity)

    # What is asked

    def outcome(self, identity: Identity, status: Object, now: datetime) -> Outcome | None:
        """What the status of a mirror or target should be, given what it is; None: there is no such object."""
        stored = self.stored(identity)
        if stored is None:
            return None
        if identity.kind == MIRROR_TARGET:
            return self._targets.outcome(stored, status, now)
        return self._of_mirror(stored, status, now)

    def _of_mirror(self, stored: Stored, status: Object, now: datetime) -> Outcome:
        identity, mirror = stored.identity, _mirror(stored)
        if mirror is None:
            refused: Refusal | None = Refusal("Invalid", stored.problem)
        else:
            refused = self._refusal(identity, mirror)
        stop = None if refused or mirror is None else self._stop(identity, mirror, now)
        counts = self._counts(mirror) if mirror else {}
        tally = Tally() if refused or stop else self._nodes.tally(counts, stored.uid, stored.generation)
        said = verdict.of_mirror(mirror, refused, stop, tally, self._of_host_network(mirror) if mirror else ())
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
            self._refusals[identity] = admission.refusal(mirror, self._targets.valid, self._cluster)
        return self._refusals[identity]

    def _stop(self, identity: Identity, mirror: Mirror, now: datetime) -> Refusal | None:
        """Why an accepted mirror should not be carried out."""
        end = admission.expiry(mirror, self._targets.valid)
        if end and end <= now:
            return Refusal("Expired", f"it ended at {instant(end)}")
        if end:
            self._ends[identity] = end
        if mirror.spec.suspend:
            return Refusal("Suspended", "spec.suspend is true")
        if all(self._targets.valid[ref.name].spec.suspend for ref in mirror.spec.target_refs):
            return Refusal("Suspended", "every target is suspended")
        return None

    def _counts(self, mirror: Mirror) -> Mapping[str, int]:
        """The nodes that should carry it out, with the pods selected there; 0 where interfaces are named."""
        selected = self._members.of(mirror.identity).nodes
        if isinstance(mirror, TrafficMirror):
            return selected
        if mirror.spec.interfaces is not None:
            wanted = mirror.spec.node_selector
            return {node: 0 for node, given in self._nodes.labels.items() if has_all(given, wanted)}
        return {node: pods for node, pods in selected.items() if self._is_wanted(mirror, node)}

    def _of_host_network(self, mirror: Mirror) -> list[Key]:
        """Pods there that it selects, and that cannot be mirrored."""
        found = self._members.of(mirror.identity).host_network
        return [key for key, node in found.items() if self._is_wanted(mirror, node)]

    def _is_wanted(self, mirror: Mirror, node: str) -> bool:
        """Whether its nodeSelector selects a node, if it has one."""
        wanted = mirror.spec.node_selector if isinstance(mirror, ClusterTrafficMirror) else {}
        return not wanted or has_all(self._nodes.labels.get(node, {}), wanted)

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


def _chooses_nodes(stored: Stored) -> bool:
    mirror = _mirror(stored)
    if not isinstance(mirror, ClusterTrafficMirror):
        return False
    return mirror.spec.interfaces is not None or bool(mirror.spec.node_selector)
