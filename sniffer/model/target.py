"""MirrorTarget: where copies go. Nothing is coerced ("80" is not 80); `Allowed` beside a type has an error's words."""

from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator

from sniffer.model.base import Allowed, Cel, Model, Name, Namespace, one_of, refused
from sniffer.model.conditions import Condition, Conditions
from sniffer.model.limit import RateLimit
from sniffer.model.selector import LabelSelector

DURATION_MAX_S = 366 * 86400
ENDPOINTS_LENGTH = 8


_ADDRESS = "an IP address as in 10.0.9.5 or fd00::9:5, without a prefix length"


def _analyzer_address(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        raise refused("", _ADDRESS) from None
    mapped = address.version == 6 and address.ipv4_mapped
    if mapped or str(address) != text or "%" in text:
        raise refused("", f"{_ADDRESS}, in its canonical form")
    kinds = {
        "unspecified": address.is_unspecified or (address.version == 4 and address.packed[0] == 0),
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
    Field(max_length=39),
    AfterValidator(_analyzer_address),
    Cel(
        "isIP(self) && ip.isCanonical(self) && ip(self).isGlobalUnicast() && !self.startsWith('0.')",
        "an IP address in its canonical form that another machine can have: not unspecified, loopback, link-local, "
        "multicast or broadcast",
    ),
    Allowed("an IP address as in 10.0.9.5 or fd00::9:5"),
]
UdpPort = Annotated[int, Field(ge=1, le=65535), Allowed("1..65535")]
SnapLimit = Annotated[int, Field(ge=14, le=65535), Allowed("14..65535")]
DurationSeconds = Annotated[int, Field(ge=1, le=DURATION_MAX_S), Allowed(f"1..{DURATION_MAX_S} seconds")]


Vni = Annotated[int, Field(ge=0, le=(1 << 24) - 1), Allowed("0..16777215")]


class Vxlan(Model):
    """VXLAN (RFC 7348)."""

    vni: Vni
    """The VXLAN network identifier."""
    port: UdpPort = 4789
    """The analyzer's UDP port."""


class Gre(Model):
    """GRE (RFC 2784) with Ethernet inside; with a key, RFC 2890."""

    key: Annotated[int, Field(ge=0, le=(1 << 32) - 1), Allowed("0..4294967295")] | None = None
    """The GRE key; without it the header has none."""
    sequence: Annotated[bool, Allowed("true, false")] = False
    """Whether each copy has a sequence number (RFC 2890)."""


class Geneve(Model):
    """GENEVE (RFC 8926), with options that say where a copy comes from (docs/geneve-options.md)."""

    vni: Vni
    """The virtual network identifier."""
    port: UdpPort = 6081
    """The analyzer's UDP port."""


class Erspan(Model):
    """ERSPAN (draft-foschiano-erspan-03), with sequence numbers."""

    version: Annotated[int, Field(ge=2, le=3), Allowed("2, 3")]
    """2: type II; 3: type III, with timestamps."""
    session_id: Annotated[int, Field(ge=0, le=1023), Allowed("0..1023")]
    """The session."""


_ONE_TUNNEL = (
    "exactly one of vxlan: {vni, port}, gre: {key, sequence}, geneve: {vni, port} and erspan: {version, sessionId}"
)


class Encapsulation(Model):
    """How copies are wrapped: exactly one of the tunnels."""

    cel = (
        Cel(
            "[has(self.vxlan), has(self.gre), has(self.geneve), has(self.erspan)].filter(given, given).size() == 1",
            _ONE_TUNNEL,
        ),
    )

    vxlan: Vxlan | None = None
    """VXLAN (RFC 7348)."""
    gre: Gre | None = None
    """GRE (RFC 2784, RFC 2890) with Ethernet inside."""
    geneve: Geneve | None = None
    """GENEVE (RFC 8926) with Ethernet inside."""
    erspan: Erspan | None = None
    """ERSPAN type II or III."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in ("vxlan", "gre", "geneve", "erspan") if getattr(self, name)]
        if len(given) != 1:
            words = " and ".join(given)
            raise refused(f"both {words}" if len(given) == 2 else words or "none of them", _ONE_TUNNEL)
        return self

    @property
    def tunnel(self) -> Vxlan | Gre | Geneve | Erspan:
        """The one that is given."""
        found = self.vxlan or self.gre or self.geneve or self.erspan
        assert found is not None
        return found


class Oversize(StrEnum):
    """What becomes of a copy that does not fit the underlay's MTU."""

    SEGMENT = "Segment"
    DROP = "Drop"
    TRUNCATE = "Truncate"


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
    """An IP address."""
    service: Service | None = None
    """A Service; copies go to its ready endpoints, up to 8 in all."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.address is None) == (self.service is None):
            given = "neither address nor service" if self.address is None else "both address and service"
            raise refused(given, _ONE_PLACE)
        return self


DSCP_COPY: Literal["Copy"] = "Copy"
_DSCP = "0..63, Copy"


def _dscp(value: object) -> int | str:
    if value == DSCP_COPY or (type(value) is int and 0 <= value <= 63):
        return value
    raise refused("", _DSCP)


Dscp = Annotated[
    int | str,
    PlainValidator(_dscp),
    WithJsonSchema({"x-kubernetes-int-or-string": True}),
    Cel(f"type(self) == int ? self >= 0 && self <= 63 : self == '{DSCP_COPY}'", _DSCP),
    Allowed(_DSCP),
]


class Outer(Model):
    """The outer IP header."""

    ttl: Annotated[int, Field(ge=1, le=255), Allowed("1..255")] = 64
    """Time to live."""
    dscp: Dscp = 0
    """Differentiated services code point, 0..63; or Copy: that of the packet inside."""
    dont_fragment: Annotated[bool, Allowed("true, false")] = False
    """Never in fragments: a copy that does not fit the underlay's MTU is dropped and counted."""
    udp_checksum: Annotated[bool, Allowed("true, false")] = False
    """A checksum in the outer UDP header, which costs a walk over each copy. Only with vxlan or geneve."""


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


_NO_UDP = "false, or vxlan or geneve: no other tunnel has an outer UDP header"


class TargetSpec(Model):
    """Where copies go."""

    cel = (
        Cel(
            "has(self.encapsulation.vxlan) || has(self.encapsulation.geneve) || !has(self.outer) || "
            "!has(self.outer.udpChecksum) || !self.outer.udpChecksum",
            f"outer.udpChecksum: {_NO_UDP}",
        ),
    )

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
    """Of a copy that does not fit. Segment: cut anew or fragmented; Truncate: cut to what fits; Drop: dropped."""
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

    @model_validator(mode="after")
    def _checksum_of_udp(self) -> Self:
        if self.outer.udp_checksum and not (self.encapsulation.vxlan or self.encapsulation.geneve):
            raise refused("outer.udpChecksum: true", _NO_UDP)
        return self


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
