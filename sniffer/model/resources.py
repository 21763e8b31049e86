"""The resources of sniffer.dev/v1alpha1 as always-valid values: what a person may say, and nothing else.

Nothing is coerced ("80" is not 80) and unknown fields are errors. `Allowed` beside a type holds the words that an error
message uses for it.
"""

from collections.abc import Mapping
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sniffer.model.base import Allowed, ClusterMetadata, Model, Name, one_of, refused
from sniffer.model.identity import Identity

API_VERSION = "sniffer.dev/v1alpha1"
FILTER_LENGTH = 4096
RULES_LENGTH = 64

# MirrorTarget


def _analyzer_address(text: str) -> str:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        raise refused("", "an IPv4 address as in 10.0.9.5, without a prefix length") from None
    kinds = {
        "unspecified": address.packed[0] == 0,
        "loopback": address.is_loopback,
        "link-local": address.is_link_local,
        "multicast": address.is_multicast,
        "broadcast": address.packed == b"\xff\xff\xff\xff",
    }
    for kind, found in kinds.items():
        if found:
            raise refused("", f"an address that another machine can have (this one is {kind})")
    return text


Address = Annotated[str, AfterValidator(_analyzer_address), Allowed("an IPv4 address as in 10.0.9.5")]
UdpPort = Annotated[int, Field(ge=1, le=65535), Allowed("1..65535")]
SnapLimit = Annotated[int, Field(ge=14, le=65535), Allowed("14..65535")]


class Vxlan(Model):
    """RFC 7348."""

    vni: Annotated[int, Field(ge=0, le=(1 << 24) - 1), Allowed("0..16777215")]
    port: UdpPort = 4789


class Gre(Model):
    """RFC 2784 with Ethernet inside; with a key, RFC 2890."""

    key: Annotated[int, Field(ge=0, le=(1 << 32) - 1), Allowed("0..4294967295")] | None = None


class Encapsulation(Model):
    """Exactly one is not None."""

    vxlan: Vxlan | None = None
    gre: Gre | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        allowed = "exactly one of vxlan: {vni, port} and gre: {key}"
        if self.vxlan and self.gre:
            raise refused("both vxlan and gre", allowed)
        if not self.vxlan and not self.gre:
            raise refused("neither vxlan nor gre", allowed)
        return self


class Oversize(StrEnum):
    """What becomes of a copy that does not fit the underlay's MTU."""

    SEGMENT = "Segment"
    DROP = "Drop"


class Endpoint(Model):
    """One analyzer's address."""

    address: Address


class Outer(Model):
    """The outer IP header."""

    ttl: Annotated[int, Field(ge=1, le=255), Allowed("1..255")] = 64
    dscp: Annotated[int, Field(ge=0, le=63), Allowed("0..63")] = 0


class Limits(Model):
    """What an administrator allows the mirrors of a target at most."""

    max_snap_length: SnapLimit | None = None
    """Bytes."""


def _different_endpoints(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    _once([endpoint.address for endpoint in endpoints], "address")
    return endpoints


def _once(names: list[str], what: str) -> None:
    for at, name in enumerate(names):
        if name in names[:at]:
            raise refused(f'"{name}" twice', f"each {what} once")


class TargetSpec(Model):
    """Where copies go."""

    encapsulation: Encapsulation
    endpoints: Annotated[
        tuple[Endpoint, ...],
        Field(strict=False, min_length=1, max_length=8),
        AfterValidator(_different_endpoints),
        Allowed("a list of 1..8 endpoints"),
    ]
    oversize: Annotated[Oversize, Field(strict=False), one_of(Oversize)] = Oversize.SEGMENT
    outer: Outer = Outer()
    limits: Limits = Limits()
    suspend: Annotated[bool, Allowed("true, false")] = False


# ClusterTrafficMirror


class Direction(StrEnum):
    """Of the interface, where interfaces are named."""

    INGRESS = "Ingress"
    EGRESS = "Egress"
    BOTH = "Both"


class RuleAction(StrEnum):
    """What a frame that matches becomes."""

    MIRROR = "Mirror"
    SKIP = "Skip"


def _not_blank(text: str) -> str:
    if not text.strip():
        raise refused("", "a pcap-filter(7) expression; without the field every frame matches")
    return text


Filter = Annotated[
    str,
    Field(max_length=FILTER_LENGTH),
    AfterValidator(_not_blank),
    Allowed(f"a pcap-filter(7) expression of at most {FILTER_LENGTH} characters"),
]


class Rule(Model):
    """The first rule whose filter matches decides; no filter matches every frame."""

    action: Annotated[RuleAction, Field(strict=False), one_of(RuleAction)]
    filter: Filter | None = None


INTERFACE_LENGTH = 15
_WILDCARDS = frozenset("*?[")


def is_pattern(interface: str) -> bool:
    """Whether an item of `spec.interfaces` is for fnmatch, and not the name of one interface."""
    return not _WILDCARDS.isdisjoint(interface)


def _interface(text: str) -> str:
    if text in (".", "..") or not text.isprintable() or any(c in "/:" or c.isspace() for c in text):
        raise refused("", "an interface's name or pattern, without spaces, / and :")
    if not is_pattern(text) and len(text.encode()) > INTERFACE_LENGTH:
        raise refused("", f"an interface's name of at most {INTERFACE_LENGTH} bytes")
    return text


Interface = Annotated[
    str,
    Field(min_length=1, max_length=64),
    AfterValidator(_interface),
    Allowed("an interface's name or pattern, as in eth0 or bond*"),
]


class TargetRef(Model):
    """A MirrorTarget, by name."""

    name: Name


def _different_rules(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    texts = [rule.filter for rule in rules]
    for at, text in enumerate(texts):
        if text in texts[:at]:
            given = f"the same filter in rules {texts.index(text)} and {at}"
            raise refused(given, "each filter once: the first decides")
    return rules


def _different_targets(refs: tuple[TargetRef, ...]) -> tuple[TargetRef, ...]:
    _once([ref.name for ref in refs], "target")
    return refs


def _snap_length(length: int) -> int:
    if length and not 14 <= length <= 65535:
        raise ValueError
    return length


SnapLength = Annotated[int, AfterValidator(_snap_length), Allowed("0 (the whole frame) or 14..65535")]


class ClusterMirrorSpec(Model):
    """What to copy, and to which targets."""

    interfaces: Annotated[
        tuple[Interface, ...],
        Field(strict=False, min_length=1, max_length=64),
        Allowed("a list of 1..64 interface names or patterns"),
    ]
    direction: Annotated[Direction, Field(strict=False), one_of(Direction)] = Direction.BOTH
    filter: Filter | None = None
    rules: (
        Annotated[
            tuple[Rule, ...],
            Field(strict=False, min_length=1, max_length=RULES_LENGTH),
            AfterValidator(_different_rules),
            Allowed(f"a list of 1..{RULES_LENGTH} rules; without the field every frame matches"),
        ]
        | None
    ) = None
    snap_length: SnapLength = 0
    """Bytes of each frame to copy, tags included; 0 is the whole frame."""
    target_refs: Annotated[
        tuple[TargetRef, ...],
        Field(strict=False, min_length=1, max_length=4),
        AfterValidator(_different_targets),
        Allowed("a list of 1..4 targets, as in [{name: zeek}]"),
    ]
    suspend: Annotated[bool, Allowed("true, false")] = False

    @model_validator(mode="after")
    def _filter_or_rules(self) -> Self:
        if self.filter is not None and self.rules is not None:
            raise refused("both filter and rules", "one of filter and rules, or none of them")
        return self


# Kinds


class _Kind(Model):
    api_version: Annotated[Literal["sniffer.dev/v1alpha1"], Allowed(API_VERSION)] = "sniffer.dev/v1alpha1"
    metadata: ClusterMetadata

    @property
    def identity(self) -> Identity:
        """Kind, namespace, name."""
        return Identity(type(self).__name__, self.metadata.namespace, self.metadata.name)


class MirrorTarget(_Kind):
    """Where copies go: a tunnel and its endpoints. Cluster-scoped."""

    kind: Literal["MirrorTarget"] = "MirrorTarget"
    spec: TargetSpec


class ClusterTrafficMirror(_Kind):
    """What to copy: interfaces of nodes. Cluster-scoped."""

    kind: Literal["ClusterTrafficMirror"] = "ClusterTrafficMirror"
    spec: ClusterMirrorSpec


KINDS: Mapping[str, type[MirrorTarget] | type[ClusterTrafficMirror]] = {
    "ClusterTrafficMirror": ClusterTrafficMirror,
    "MirrorTarget": MirrorTarget,
}
