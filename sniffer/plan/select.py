"""Which interfaces of this node a mirror means, and in which directions."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sniffer.abi.limits import Direction
from sniffer.model import resources
from sniffer.model.resources import ClusterTrafficMirror, Mirror, TrafficMirror, is_pattern
from sniffer.model.selector import LabelSelector, has_all
from sniffer.plan.cluster import REASONS, Binding, Cluster, Pod
from sniffer.plan.facts import Link

ARPHRD_ETHER = 1
RELAY_LINKS = ("sniffer-tx", "sniffer-rx")
PODS_NAMED = 5
"""In a message."""

_BOTH = (Direction.INGRESS, Direction.EGRESS)
_OF_INTERFACE = {
    resources.Direction.INGRESS: (Direction.INGRESS,),
    resources.Direction.EGRESS: (Direction.EGRESS,),
    resources.Direction.BOTH: _BOTH,
}
# What a pod receives leaves the host by the host's end of its veth.
_OF_POD = {
    resources.Direction.INGRESS: (Direction.EGRESS,),
    resources.Direction.EGRESS: (Direction.INGRESS,),
    resources.Direction.BOTH: _BOTH,
}
_UNBOUND = Binding((), "NotYet")


@dataclass(frozen=True, slots=True)
class Selection:
    """What a mirror means on this node."""

    links: tuple[Link, ...] = ()
    """In the order of their names."""
    selected: int = 0
    """Pods."""
    pods: int = 0
    """Those of them that are bound to an interface."""
    reason: str | None = None
    message: str | None = None
    """Why it is not all that could be meant."""
    fault: str | None = None
    """Rejected or Pending: none of it can be mirrored."""
    waits: bool = False
    """Some pod's interface is not known yet."""


def hook_directions(mirror: Mirror) -> tuple[Direction, ...]:
    """The interface's directions. The one place where a pod's point of view becomes the interface's."""
    return (_OF_INTERFACE if is_named(mirror) else _OF_POD)[mirror.spec.direction]


def is_named(mirror: Mirror) -> bool:
    """Whether a mirror names interfaces of nodes, and selects no pods."""
    return isinstance(mirror, ClusterTrafficMirror) and mirror.spec.interfaces is not None


class Selector:
    """Selections of many mirrors on the same node."""

    def __init__(self, links: Iterable[Link], cluster: Cluster | None, bindings: Mapping[str, Binding]) -> None:
        self._links = {link.index: link for link in links if link.name not in RELAY_LINKS}
        self._cluster = cluster
        self._bindings = bindings
        self._pods: dict[str, list[Pod]] = defaultdict(list)
        self._labelled: dict[tuple[str, str, str], list[Pod]] = defaultdict(list)
        """By namespace, key, value."""
        for pod in cluster.pods if cluster else ():
            self._pods[pod.namespace].append(pod)
            for key, value in pod.labels.items():
                self._labelled[pod.namespace, key, value].append(pod)

    def select(self, mirror: Mirror) -> Selection | None:
        """None: the mirror is not for this node."""
        if isinstance(mirror, TrafficMirror):
            pods = self._in([mirror.metadata.namespace], mirror.spec.pod_selector)
            return self._of_pods(pods)
        labels = self._cluster.node_labels if self._cluster else {}
        if self._cluster and not has_all(labels, mirror.spec.node_selector):
            return None
        if mirror.spec.interfaces is not None:
            return self._named(mirror.spec.interfaces)
        return self._of_pods(self._in(self._namespaces(mirror), mirror.spec.pod_selector))

    def _namespaces(self, mirror: ClusterTrafficMirror) -> list[str]:
        cluster, selector = self._cluster, mirror.spec.namespace_selector
        return [
            name
            for name in self._pods
            if cluster
            and (mirror.spec.include_protected_namespaces or not cluster.is_protected(name))
            and (selector is None or cluster.selects(selector, name))
        ]

    def _in(self, namespaces: Iterable[str], selector: LabelSelector | None) -> list[Pod]:
        """Only pods with the first of the labels asked for are looked at."""
        if selector is None:
            return [pod for name in namespaces for pod in self._pods.get(name, ())]
        for key, value in selector.match_labels.items():
            pods = [pod for name in namespaces for pod in self._labelled.get((name, key, value), ())]
            break
        else:
            pods = [pod for name in namespaces for pod in self._pods.get(name, ())]
        return [pod for pod in pods if selector.matches(pod.labels)]

    def _of_pods(self, pods: list[Pod]) -> Selection:
        if not pods:
            return Selection(reason="NoPods", message="no pod of this node is selected")
        links: dict[int, Link] = {}
        unbound: dict[str, list[str]] = defaultdict(list)
        for pod in pods:
            binding = self._bindings.get(pod.uid, _UNBOUND)
            there = [self._links[index] for index in binding.interfaces if index in self._links]
            found = [link for link in there if link.arphrd == ARPHRD_ETHER]
            links |= {link.index: link for link in found}
            if not found:
                why = "UnsupportedInterface" if there else binding.reason or "NotYet"
                unbound[why].append(f"{pod.namespace}/{pod.name}")
        bound = len(pods) - sum(map(len, unbound.values()))
        reason = next((name for name in REASONS if name in unbound), None)
        message = "; ".join(_unbound(unbound[name], REASONS[name]) for name in REASONS if name in unbound) or None
        fault = "Pending" if unbound and not bound else None
        return Selection(_by_name(links), len(pods), bound, reason, message, fault, "NotYet" in unbound)

    def _named(self, items: tuple[str, ...]) -> Selection:
        """Ethernet interfaces only."""
        found: dict[int, Link] = {}
        for item in items:
            pattern = is_pattern(item)
            for link in self._links.values():
                if not (fnmatchcase(link.name, item) if pattern else link.name == item):
                    continue
                if link.arphrd == ARPHRD_ETHER:
                    found[link.index] = link
                elif not pattern:
                    message = f"{item} has no Ethernet header"
                    return Selection(reason="UnsupportedInterface", message=message, fault="Rejected")
        if not found:
            return Selection(reason="NoInterface", message=f"no interface {', '.join(items)}", fault="Pending")
        return Selection(_by_name(found))


def _by_name(links: Mapping[int, Link]) -> tuple[Link, ...]:
    return tuple(sorted(links.values(), key=lambda link: link.name))


def _unbound(pods: list[str], why: str) -> str:
    more = f" and {len(pods) - PODS_NAMED} more" if len(pods) > PODS_NAMED else ""
    return f"{', '.join(sorted(pods)[:PODS_NAMED])}{more}: {why}"
