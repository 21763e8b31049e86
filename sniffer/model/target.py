"""MirrorTarget: where copies go. Nothing is coerced ("80" is not 80); `Allowed` beside a type has an error's words."""

from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from sniffer.model.base import Allowed, Cel, Model, Name, Namespace, one_of, refused
from sniffer.model.conditions import Condition, Conditions
from sniffer.model.limit import RateLimit
from sniffer.model.selector import LabelSelector

DURATION_MAX_S = 366 * 86400
ENDPOINTS_LENGTH = 8


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


Address = Annotated[
    str,
    Field(max_length=15),
    AfterValidator(_analyzer_address),
    Cel(
        "isIP(self) && ip(self).family() == 4 && ip(self).isGlobalUnicast() && !self.startsWith('0.')",
        "an IPv4 address that another machine can have: not unspecified, loopback, link-local, multicast or broadcast",
    ),
    Allowed("an IPv4 address as in 10.0.9.5"),
]
UdpPort = Annotated[int, Field(ge=1, le=65535), Allowed("1..65535")]
SnapLimit = Annotated[int, Field(ge=14, le=65535), Allowed("14..65535")]
DurationSeconds = Annotated[int, Field(ge=1, le=DURATION_MAX_S), Allowed(f"1..{DURATION_MAX_S} seconds")]


class Vxlan(Model):
    """VXLAN (RFC 7348)."""

    vni: Annotated[int, Field(ge=0, le=(1 << 24) - 1), Allowed("0..16777215")]
    """The VXLAN network identifier."""
    port: UdpPort = 4789
    """The analyzer's UDP port."""


class Gre(Model):
    """GRE (RFC 2784) with Ethernet inside; with a key, RFC 2890."""

    key: Annotated[int, Field(ge=0, le=(1 << 32) - 1), Allowed("0..4294967295")] | None = None
    """The GRE key; without it the header has none."""


_ONE_TUNNEL = "exactly one of vxlan: {vni, port} and gre: {key}"


class Encapsulation(Model):
    """How copies are wrapped: exactly one of the tunnels."""

    cel = (Cel("has(self.vxlan) != has(self.gre)", _ONE_TUNNEL),)

    vxlan: Vxlan | None = None
    """VXLAN (RFC 7348)."""
    gre: Gre | None = None
    """GRE (RFC 2784, RFC 2890) with Ethernet inside."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if self.vxlan and self.gre:
            raise refused("both vxlan and gre", _ONE_TUNNEL)
        if not self.vxlan and not self.gre:
            raise refused("neither vxlan nor gre", _ONE_TUNNEL)
        return self


class Oversize(StrEnum):
    """What becomes of a copy that does not fit the underlay's MTU."""

    SEGMENT = "Segment"
    DROP = "Drop"


class Service(Model):
    """A Service whose ready endpoints are the analyzer; the controller follows them."""

    namespace: Namespace
    """The Service's namespace."""
    name: Name
    """The Service's name."""


_ONE_PLACE = "exactly one of address and service: {namespace, name}"


class Endpoint(Model):
    """One analyzer: an address, or a Service."""

    cel = (Cel("has(self.address) != has(self.service)", _ONE_PLACE),)

    address: Address | None = None
    """An IPv4 address."""
    service: Service | None = None
    """A Service; copies go to its ready endpoints, up to 8 in all."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.address is None) == (self.service is None):
            given = "neither address nor service" if self.address is None else "both address and service"
            raise refused(given, _ONE_PLACE)
        return self


class Outer(Model):
    """The outer IP header."""

    ttl: Annotated[int, Field(ge=1, le=255), Allowed("1..255")] = 64
    """Time to live."""
    dscp: Annotated[int, Field(ge=0, le=63), Allowed("0..63")] = 0
    """Differentiated services code point."""


class Limits(Model):
    """What an administrator allows the mirrors of a target at most."""

    max_snap_length: SnapLimit | None = None
    """Bytes of each frame at most, whatever a mirror asks for."""
    max_duration_seconds: DurationSeconds | None = None
    """How long after its creation a mirror may last."""


def _different_endpoints(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    addresses = [endpoint.address for endpoint in endpoints if endpoint.address]
    services = [f"{e.service.namespace}/{e.service.name}" for e in endpoints if e.service]
    once(addresses, "address")
    once(services, "service")
    return endpoints


def once(names: list[str], what: str) -> None:
    """Raises for a name that a list has twice."""
    for at, name in enumerate(names):
        if name in names[:at]:
            raise refused(f'"{name}" twice', f"each {what} once")


class TargetSpec(Model):
    """Where copies go."""

    encapsulation: Encapsulation
    """How copies are wrapped."""
    endpoints: Annotated[
        tuple[Endpoint, ...],
        Field(strict=False, min_length=1, max_length=ENDPOINTS_LENGTH),
        AfterValidator(_different_endpoints),
        Cel("self == oldSelf", "what it was: endpoints cannot be changed, make a new target"),
        Cel("self.all(a, self.exists_one(b, a == b))", "each address and each service once"),
        Allowed(f"a list of 1..{ENDPOINTS_LENGTH} endpoints"),
    ]
    """The analyzers; each flow goes to one of them, in both directions. Cannot be changed: make a new target."""
    oversize: Annotated[Oversize, Field(strict=False), one_of(Oversize)] = Oversize.SEGMENT
    """Segment: a copy that does not fit is cut or fragmented; Drop: it is dropped and counted."""
    outer: Outer = Outer()
    """The outer IP header."""
    allowed_namespaces: LabelSelector | None = None
    """Namespaces whose TrafficMirrors may use this target. Without it none may; {} grants it to all."""
    limits: Limits = Limits()
    """What the mirrors that use this target may ask for at most."""
    rate_limit: RateLimit | None = None
    """What each node sends to this target at most, of all mirrors together."""
    suspend: Annotated[bool, Allowed("true, false")] = False
    """While true nothing is sent to this target."""


class ResolvedEndpoint(Model):
    """What a Service of the spec stands for now."""

    service: Service
    """The Service."""
    addresses: Annotated[
        tuple[Address, ...], Field(strict=False, max_length=ENDPOINTS_LENGTH), Allowed("a list of addresses")
    ] = ()
    """Its ready endpoints."""


class TargetStatus(Model):
    """Written by the controller."""

    conditions: Conditions = ()
    """Accepted: whether mirrors can use this target."""
    endpoints: Annotated[
        tuple[ResolvedEndpoint, ...], Field(strict=False, max_length=ENDPOINTS_LENGTH), Allowed("a list")
    ] = ()
    """What the Services among the endpoints stand for."""

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type."""
        return next((condition for condition in self.conditions if condition.type == kind), None)
