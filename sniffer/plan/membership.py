"""Which pods each mirror selects, kept up to date one change at a time.

Of each mirror only counts are kept, by node: 20,000 pods under 1,000 mirrors would be too many names. A mirror that
comes or changes costs a pass over the pods that it may select, a pod that changes a pass over the mirrors that may
select it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sniffer.model.identity import Identity
from sniffer.model.resources import ClusterTrafficMirror, Mirror, TrafficMirror
from sniffer.model.selector import Labels, LabelSelector
from sniffer.plan.cluster import Cluster
from sniffer.plan.views import Key, PlacedPod

Matcher = Callable[[Labels], bool]


@dataclass(slots=True)
class Selected:
    """What a mirror selects."""

    nodes: Counter[str] = field(default_factory=Counter)
    """How many pods on each node; nodes with none are not there."""
    host_network: dict[Key, str] = field(default_factory=dict)
    """Pods that use their node's network, each with that node: selected, and never mirrored."""

    def count(self, pod: PlacedPod, by: int) -> None:
        """Adds a pod (by 1) or takes it away (by -1)."""
        key = (pod.namespace, pod.name)
        if pod.host_network:
            if by > 0:
                self.host_network[key] = pod.node
            else:
                self.host_network.pop(key, None)
            return
        self.nodes[pod.node] += by
        if not self.nodes[pod.node]:
            del self.nodes[pod.node]


@dataclass(frozen=True, slots=True)
class Change:
    """What a change of pods or namespaces did."""

    touched: frozenset[Identity] = frozenset()
    """Mirrors that select otherwise than before."""
    left: tuple[Identity, ...] = ()
    """ClusterTrafficMirrors that lost a running pod by a change of labels: somebody may be hiding it."""


@dataclass(frozen=True, slots=True)
class _Rule:
    mirror: Mirror
    matches: Matcher


def _matcher(selector: LabelSelector | None) -> Matcher:
    """As LabelSelector.matches, several times faster: it is asked of all pods for all mirrors."""
    wanted, requirements = (selector.match_labels.items(), selector.match_expressions) if selector else ({}.items(), ())
    if requirements:
        return lambda labels: labels.items() >= wanted and all(r.matches(labels) for r in requirements)
    return lambda labels: labels.items() >= wanted


class Membership:
    """The selections of all mirrors."""

    def __init__(self, cluster: Callable[[], Cluster]) -> None:
        """cluster: the namespaces, as they are when it is called."""
        self._cluster = cluster
        self._pods: dict[str, dict[str, PlacedPod]] = defaultdict(dict)
        self._rules: dict[Identity, _Rule] = {}
        self._by_namespace: dict[str | None, set[Identity]] = defaultdict(set)
        self._selected: dict[Identity, Selected] = {}

    def of(self, identity: Identity) -> Selected:
        """What a mirror selects now; nothing, for one that is not known."""
        return self._selected.get(identity) or Selected()

    def mirror(self, identity: Identity, mirror: Mirror | None) -> None:
        """A mirror came, changed, or (None) went, or is not valid."""
        self._rules.pop(identity, None)
        self._selected.pop(identity, None)
        self._by_namespace[identity.namespace].discard(identity)
        if mirror is None or (isinstance(mirror, ClusterTrafficMirror) and mirror.spec.interfaces is not None):
            return
        self._rules[identity] = _Rule(mirror, _matcher(mirror.spec.pod_selector))
        self._by_namespace[identity.namespace].add(identity)
        self._selected[identity] = self._count(self._rules[identity])

    def pod(self, key: Key, pod: PlacedPod | None) -> Change:
        """A pod came, changed or (None) went."""
        namespace, name = key
        former = self._pods[namespace].pop(name, None)
        if pod:
            self._pods[namespace][name] = pod
        if former == pod:
            return Change()
        relabelled = former and pod and former.uid == pod.uid and former.labels != pod.labels
        touched, left = set(), []
        for identity, rule in self._rules_for(namespace):
            before = bool(former and rule.matches(former.labels))
            after = bool(pod and rule.matches(pod.labels))
            if before and former:
                self._selected[identity].count(former, -1)
            if after and pod:
                self._selected[identity].count(pod, 1)
            if before or after:
                touched.add(identity)
            if relabelled and before and not after and identity.namespace is None:
                left.append(identity)
        return Change(frozenset(touched), tuple(left))

    def namespace(self, name: str, before: Cluster, after: Cluster) -> Change:
        """A namespace came, went or changed its labels; `cluster` tells of it as in `after` by now."""
        pods = self._pods.get(name) or {}
        touched, left = set(), []
        for identity in self._by_namespace[None] if pods else ():
            rule = self._rules[identity]
            was, now = _reaches(rule.mirror, name, before), _reaches(rule.mirror, name, after)
            matched = [pod for pod in pods.values() if rule.matches(pod.labels)] if was != now else []
            for pod in matched:
                self._selected[identity].count(pod, 1 if now else -1)
            if matched:
                touched.add(identity)
                left += [identity] if was else []
        return Change(frozenset(touched), tuple(left))

    def _rules_for(self, namespace: str) -> Iterator[tuple[Identity, _Rule]]:
        for identity in self._by_namespace.get(namespace, ()):
            yield identity, self._rules[identity]
        cluster = self._cluster()
        for identity in self._by_namespace[None]:
            rule = self._rules[identity]
            if _reaches(rule.mirror, namespace, cluster):
                yield identity, rule

    def _count(self, rule: _Rule) -> Selected:
        selected = Selected()
        cluster = self._cluster()
        for namespace, pods in self._pods.items():
            if _reaches(rule.mirror, namespace, cluster):
                for pod in pods.values():
                    if rule.matches(pod.labels):
                        selected.count(pod, 1)
        return selected


def _reaches(mirror: Mirror, namespace: str, cluster: Cluster) -> bool:
    """Whether a mirror means pods of this namespace at all."""
    if isinstance(mirror, TrafficMirror):
        return mirror.metadata.namespace == namespace
    if not mirror.spec.include_protected_namespaces and cluster.is_protected(namespace):
        return False
    selector = mirror.spec.namespace_selector
    return selector is None or cluster.selects(selector, namespace)
