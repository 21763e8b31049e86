"""What a node's agent knows of the cluster, as the API server tells it: pods, namespaces, nodes, the policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address

from sniffer.model.selector import Labels, LabelSelector

PROTECTED_LABEL = "sniffer.dev/protected"
"""An administrator protects a namespace by this label, with any value but `false`."""
PROTECTED_ALWAYS = frozenset({"kube-system"})
Network = IPv4Network | IPv6Network
NAME_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of this node that has neither succeeded nor failed."""

    uid: str
    namespace: str
    name: str
    labels: Labels
    addresses: tuple[str, ...]
    """status.podIPs; () while it has none."""
    host_network: bool
    sandbox_ready: bool
    """Condition PodReadyToStartContainers, where there is one: the addresses are those of a sandbox that lives."""
    created: str
    """RFC 3339, to the second."""
    sandbox_since: str = ""
    """When that condition became true: another time is another sandbox."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Where copies may not go, by the administrator's words."""

    refused: Mapping[str, tuple[Network, ...]] = field(default_factory=dict)
    """By what they are (`the service range`, `the API server`, `a node`)."""
    allowed: tuple[Network, ...] = ()
    """Exceptions."""
    _answers: dict[str, str | None] = field(init=False, default_factory=dict, compare=False, repr=False)

    def objection(self, address: str) -> str | None:
        """What an address is that no target may have; None: it may."""
        if address not in self._answers:
            self._answers[address] = self._objection(address)
        return self._answers[address]

    def _objection(self, address: str) -> str | None:
        parsed = ip_address(address)
        if any(parsed in network for network in self.allowed):
            return None
        return next((what for what, networks in self.refused.items() if any(parsed in n for n in networks)), None)


@dataclass(frozen=True, slots=True)
class Cluster:
    """One look at what the API server has told."""

    node: str
    node_labels: Labels = field(default_factory=dict)
    namespaces: Mapping[str, Labels] = field(default_factory=dict)
    """Labels by name."""
    pods: tuple[Pod, ...] = ()
    node_addresses: frozenset[str] = frozenset()
    """Addresses of all nodes; empty while nobody needs them."""
    nodes_known: bool = True
    """Whether they were listed. Before that a mirror of a node's interface might copy the copies of others."""
    policy: Policy = Policy()

    def is_protected(self, namespace: str) -> bool:
        """Whether only ClusterTrafficMirrors that say so may mirror pods of this namespace; one not known yet is."""
        labels = self.namespaces.get(namespace)
        return namespace in PROTECTED_ALWAYS or labels is None or labels.get(PROTECTED_LABEL, "false") != "false"

    def selects(self, selector: LabelSelector, namespace: str) -> bool:
        """Whether a selector matches the labels of a namespace; none matches one that is not known yet."""
        labels = self.namespaces.get(namespace)
        return labels is not None and selector.matches(labels)


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a pod's traffic passes on this node."""

    interfaces: tuple[int, ...]
    """Ifindexes of host veths."""
    reason: str | None = None
    """Why there are none: HostNetwork, NoHostVeth, Ambiguous, NotYet."""
    inode: int | None = None
    """Of the pod's network namespace."""


REASONS = {
    "HostNetwork": "uses the node's network",
    "NoHostVeth": "has no interface on the node (macvlan, SR-IOV, ipvlan...)",
    "UnsupportedInterface": "its interface has no Ethernet header",
    "Ambiguous": "shares its address with another network namespace",
    "NotYet": "its network namespace was not found yet",
}
