"""TrafficMirror and ClusterTrafficMirror: what to copy. Nothing is coerced; `Allowed` has the words of an error."""

import re
from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from sniffer.model.base import Allowed, ByKey, Cel, Instant, LabelMap, Model, Name, one_of, refused
from sniffer.model.conditions import Conditions
from sniffer.model.limit import RateLimit, Sampling
from sniffer.model.selector import LabelSelector
from sniffer.model.target import DurationSeconds, once

FILTER_LENGTH = 4096
RULES_LENGTH = 64
RULES_TEXT_LENGTH = 1 << 16
"""Characters of all filters together: what the API server can compare with each other within its limits."""
TARGETS_LENGTH = 4


class Direction(StrEnum):
    """Seen from the pod; of the interface, where interfaces are named."""

    INGRESS = "Ingress"
    EGRESS = "Egress"
    BOTH = "Both"


class RuleAction(StrEnum):
    """What a frame that matches becomes."""

    MIRROR = "Mirror"
    SKIP = "Skip"


_SIGN = "[!-~]"
"""What a filter has at least one of: ASCII that is no space."""


def _not_blank(text: str) -> str:
    if not re.search(_SIGN, text):
        raise refused("", "a pcap-filter(7) expression; without the field every frame matches")
    return text


Filter = Annotated[
    str,
    Field(max_length=FILTER_LENGTH, json_schema_extra={"pattern": _SIGN}),
    AfterValidator(_not_blank),
    Allowed(f"a pcap-filter(7) expression of at most {FILTER_LENGTH} characters"),
]


class Rule(Model):
    """The first rule whose filter matches decides; no filter matches every frame."""

    action: Annotated[RuleAction, Field(strict=False), one_of(RuleAction)]
    """What becomes of a frame that matches."""
    filter: Filter | None = None
    """A pcap-filter(7) expression; without it every frame matches."""


INTERFACE_LENGTH = 15
_WILDCARDS = frozenset("*?[")


_INTERFACE = "an interface's name or pattern, as in eth0 or bond*, without spaces, / and :"
# ASCII but spaces, / and :, and letters of any script.
_SIGNS = r"^[!-.0-9;-~\p{L}\p{M}\p{N}]+$"


def is_pattern(interface: str) -> bool:
    """Whether an item of `spec.interfaces` is for fnmatch, and not the name of one interface."""
    return not _WILDCARDS.isdisjoint(interface)


def _interface(text: str) -> str:
    if text in (".", ".."):
        raise refused("", _INTERFACE)
    if not is_pattern(text) and len(text.encode()) > INTERFACE_LENGTH:
        raise refused("", f"an interface's name of at most {INTERFACE_LENGTH} bytes")
    return text


Interface = Annotated[
    str,
    Field(min_length=1, max_length=64, pattern=_SIGNS),
    AfterValidator(_interface),
    Cel("!(self in ['.', '..'])", _INTERFACE),
    Cel(
        "bytes(self).size() <= 15 || self.contains('*') || self.contains('?') || self.contains('[')",
        f"an interface's name of at most {INTERFACE_LENGTH} bytes",
    ),
    Allowed(_INTERFACE),
]


class TargetRef(Model):
    """A MirrorTarget, by name."""

    name: Name
    """The MirrorTarget's name."""


def _different_rules(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    texts = [rule.filter for rule in rules]
    length = sum(len(text) for text in texts if text)
    if length > RULES_TEXT_LENGTH:
        raise refused(f"filters of {length} characters in all", _FILTERS_LENGTH)
    for at, text in enumerate(texts):
        if text in texts[:at]:
            given = f"the same filter in rules {texts.index(text)} and {at}"
            raise refused(given, "each filter once: the first decides")
    return rules


def _different_targets(refs: tuple[TargetRef, ...]) -> tuple[TargetRef, ...]:
    once([ref.name for ref in refs], "target")
    return refs


def _snap_length(length: int) -> int:
    if length and not 14 <= length <= 65535:
        raise ValueError
    return length


_SNAP = "0 (the whole frame) or 14..65535"
SnapLength = Annotated[
    int,
    Field(ge=0, le=65535),
    AfterValidator(_snap_length),
    Cel("self == 0 || self >= 14", _SNAP),
    Allowed(_SNAP),
]


_FILTERS_LENGTH = f"filters of at most {RULES_TEXT_LENGTH} characters in all"
_TEXTS_FIT = f"self.map(rule, has(rule.filter) ? size(rule.filter) : 0).sum() <= {RULES_TEXT_LENGTH}"
_EACH_FILTER_ONCE = (
    "self.all(a, self.exists_one(b, has(a.filter) == has(b.filter) && (!has(a.filter) || a.filter == b.filter)))"
)
_FILTER_OR_RULES = "one of filter and rules, or none of them"


class MirrorSpec(Model):
    """What both kinds of mirrors say."""

    cel: ClassVar[tuple[Cel, ...]] = (Cel("!has(self.filter) || !has(self.rules)", _FILTER_OR_RULES),)

    direction: Annotated[Direction, Field(strict=False), one_of(Direction)] = Direction.BOTH
    """Which traffic: seen from the pod; of the interface, where interfaces are named."""
    filter: Filter | None = None
    """A pcap-filter(7) expression; without it, and without rules, everything. Host names are not looked up."""
    rules: (
        Annotated[
            tuple[Rule, ...],
            Field(strict=False, min_length=1, max_length=RULES_LENGTH),
            AfterValidator(_different_rules),
            Cel(_TEXTS_FIT, _FILTERS_LENGTH),
            Cel(_EACH_FILTER_ONCE, "each filter once: the first decides"),
            Allowed(f"a list of 1..{RULES_LENGTH} rules; without the field every frame matches"),
        ]
        | None
    ) = None
    """Instead of filter: tried in order, the first whose filter matches decides; what none matches is not mirrored."""
    snap_length: SnapLength = 0
    """Bytes of each frame to copy, tags included; 0 is the whole frame."""
    sampling: Sampling | None = None
    """One in so many of the frames that match; without it every one."""
    rate_limit: RateLimit | None = None
    """On each node: how much of what matches is copied at most; one frame counts once, to however many targets."""
    target_refs: Annotated[
        tuple[TargetRef, ...],
        Field(strict=False, min_length=1, max_length=TARGETS_LENGTH),
        AfterValidator(_different_targets),
        ByKey("name"),
        Allowed(f"a list of 1..{TARGETS_LENGTH} targets, as in [{{name: zeek}}]"),
    ]
    """Where copies go: to each of these MirrorTargets."""
    suspend: Annotated[bool, Allowed("true, false")] = False
    """While true nothing is mirrored."""
    duration_seconds: DurationSeconds | None = None
    """How long after its creation the mirror lasts."""
    expire_time: Instant | None = None
    """When the mirror ends, at the latest."""

    @model_validator(mode="after")
    def _filter_or_rules(self) -> Self:
        if self.filter is not None and self.rules is not None:
            raise refused("both filter and rules", _FILTER_OR_RULES)
        return self


class TrafficMirrorSpec(MirrorSpec):
    """What to copy of pods in the mirror's own namespace, and to which targets."""

    pod_selector: LabelSelector
    """Pods of the mirror's namespace; {} selects all of them."""


_INTERFACES_OR_PODS = "either interfaces, or namespaceSelector and podSelector (one of them, or both)"


class ClusterMirrorSpec(MirrorSpec):
    """What to copy of pods in any namespace, or of interfaces of nodes, and to which targets."""

    cel = (
        *MirrorSpec.cel,
        Cel("has(self.interfaces) != (has(self.namespaceSelector) || has(self.podSelector))", _INTERFACES_OR_PODS),
    )

    interfaces: (
        Annotated[
            tuple[Interface, ...],
            Field(strict=False, min_length=1, max_length=64),
            Allowed("a list of 1..64 interface names or patterns"),
        ]
        | None
    ) = None
    """Interfaces of nodes, by name or pattern (eth0, bond*); those that come later, too."""
    namespace_selector: LabelSelector | None = None
    """Namespaces whose pods are meant; without it, all. Protected ones only with includeProtectedNamespaces."""
    pod_selector: LabelSelector | None = None
    """Pods of these namespaces; without it, all."""
    node_selector: LabelMap = Field(default_factory=dict)
    """Only on nodes with all of these labels."""
    include_protected_namespaces: Annotated[bool, Allowed("true, false")] = False
    """Whether pods in kube-system, and in other namespaces that an administrator protects, are meant too."""

    @model_validator(mode="after")
    def _interfaces_or_pods(self) -> Self:
        pods = self.namespace_selector is not None or self.pod_selector is not None
        if self.interfaces is not None and pods:
            raise refused("interfaces and a selector of pods", _INTERFACES_OR_PODS)
        if self.interfaces is None and not pods:
            raise refused("neither interfaces nor a selector of pods", _INTERFACES_OR_PODS)
        return self


class MirrorStatus(Model):
    """Written by the controller."""

    conditions: Conditions = ()
    """Accepted: the mirror is valid and allowed; Programmed: nodes carry it out; Ready: all that should do."""
    pods: Annotated[int, Field(ge=0), Allowed("a number from 0")] = 0
    """Pods that are selected and can be mirrored."""
    nodes: Annotated[int, Field(ge=0), Allowed("a number from 0")] = 0
    """Nodes that should carry it out."""
    ready_nodes: Annotated[int, Field(ge=0), Allowed("a number from 0")] = 0
    """Nodes that do carry out this generation."""
