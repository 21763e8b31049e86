"""The kinds of sniffer.dev/v1alpha1 as always-valid values: what a person may say, and nothing else."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from sniffer.model.base import Allowed, ClusterMetadata, Metadata, Model, NamespacedMetadata
from sniffer.model.identity import Identity
from sniffer.model.mirror import (
    FILTER_LENGTH,
    RULES_LENGTH,
    ClusterMirrorSpec,
    Direction,
    MirrorStatus,
    Rule,
    RuleAction,
    TargetRef,
    TrafficMirrorSpec,
    is_pattern,
)
from sniffer.model.node import NodeStatus
from sniffer.model.target import Encapsulation, Endpoint, Outer, Oversize, TargetSpec, TargetStatus

__all__ = [
    "API_VERSION",
    "FILTER_LENGTH",
    "KINDS",
    "RULES_LENGTH",
    "ClusterTrafficMirror",
    "Direction",
    "Encapsulation",
    "Endpoint",
    "Kind",
    "MirrorTarget",
    "Outer",
    "Oversize",
    "Rule",
    "RuleAction",
    "SnifferNode",
    "TargetRef",
    "TrafficMirror",
    "is_pattern",
]

GROUP, VERSION = "sniffer.dev", "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class Kind(Model):
    """What all kinds have in common."""

    plural: ClassVar[str]
    namespaced: ClassVar[bool] = False

    api_version: Annotated[Literal["sniffer.dev/v1alpha1"], Allowed(API_VERSION)] = "sniffer.dev/v1alpha1"
    metadata: Metadata

    @property
    def identity(self) -> Identity:
        """Kind, namespace, name."""
        return Identity(type(self).__name__, self.metadata.namespace, self.metadata.name)


class MirrorTarget(Kind):
    """Where copies go: a tunnel and its endpoints. Cluster-scoped, owned by administrators."""

    plural = "mirrortargets"

    kind: Literal["MirrorTarget"] = "MirrorTarget"
    metadata: ClusterMetadata
    spec: TargetSpec
    """Where copies go."""
    status: TargetStatus = TargetStatus()
    """What the controller makes of it."""


class TrafficMirror(Kind):
    """What to copy: traffic of pods in the mirror's own namespace."""

    plural = "trafficmirrors"
    namespaced = True

    kind: Literal["TrafficMirror"] = "TrafficMirror"
    metadata: NamespacedMetadata
    spec: TrafficMirrorSpec
    """What to copy, and to which targets."""
    status: MirrorStatus = MirrorStatus()
    """What the controller makes of it."""


class ClusterTrafficMirror(Kind):
    """What to copy: traffic of pods in any namespace, or of interfaces of nodes. Cluster-scoped."""

    plural = "clustertrafficmirrors"

    kind: Literal["ClusterTrafficMirror"] = "ClusterTrafficMirror"
    metadata: ClusterMetadata
    spec: ClusterMirrorSpec
    """What to copy, and to which targets."""
    status: MirrorStatus = MirrorStatus()
    """What the controller makes of it."""


class SnifferNode(Kind):
    """What one node's agent reports."""

    plural = "sniffernodes"

    kind: Literal["SnifferNode"] = "SnifferNode"
    metadata: ClusterMetadata
    status: NodeStatus = NodeStatus()
    """What the agent says."""


Mirror = TrafficMirror | ClusterTrafficMirror
Written = MirrorTarget | TrafficMirror | ClusterTrafficMirror
"""What people write."""
WrittenKind = type[MirrorTarget] | type[TrafficMirror] | type[ClusterTrafficMirror]

KINDS: Mapping[str, WrittenKind] = {
    "ClusterTrafficMirror": ClusterTrafficMirror,
    "MirrorTarget": MirrorTarget,
    "TrafficMirror": TrafficMirror,
}
"""By name; SnifferNode is not for people to write."""
MIRROR_KINDS = frozenset({TrafficMirror.__name__, ClusterTrafficMirror.__name__})
