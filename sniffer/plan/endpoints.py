"""Services that a target names -> the addresses that its status publishes."""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from pydantic import ValidationError

from sniffer.model.resources import MirrorTarget
from sniffer.model.target import ENDPOINTS_LENGTH, ResolvedEndpoint, TargetStatus
from sniffer.plan.views import Object

ServiceKey = tuple[str, str]
"""Namespace, name."""


def services(target: MirrorTarget) -> list[ServiceKey]:
    """The Services among a target's endpoints, in their order."""
    return [(e.service.namespace, e.service.name) for e in target.spec.endpoints if e.service]


def resolve(
    target: MirrorTarget, status: Object, ready: Mapping[ServiceKey, frozenset[str]]
) -> tuple[ResolvedEndpoint, ...]:
    """Addresses for each Service, 8 in all with those that the target names itself.

    `status` is the target's so far: what it publishes of a Service that is not in `ready`, because nothing is known of
    it yet, holds.
    """
    room = ENDPOINTS_LENGTH - sum(endpoint.address is not None for endpoint in target.spec.endpoints)
    published = _published(status)
    resolved = []
    for endpoint in target.spec.endpoints:
        if endpoint.service:
            key = (endpoint.service.namespace, endpoint.service.name)
            former = published.get(key, ())
            chosen = choose(former, ready[key], room) if key in ready else former[:room]
            room -= len(chosen)
            resolved.append(ResolvedEndpoint(service=endpoint.service, addresses=chosen))
    return tuple(resolved)


def choose(former: Iterable[str], ready: frozenset[str], room: int) -> tuple[str, ...]:
    """At most `room` of the ready addresses, sorted; those in use stay, so that no flow moves without need."""
    kept = [address for address in former if address in ready][:room]
    fresh = sorted(ready.difference(kept), key=_number)[: room - len(kept)]
    return tuple(sorted({*kept, *fresh}, key=_number))


def _number(address: str) -> tuple[int, int]:
    parsed = ip_address(address)
    return parsed.version, int(parsed)


def _published(status: Object) -> dict[ServiceKey, tuple[str, ...]]:
    try:
        parsed = TargetStatus.model_validate({"endpoints": status.get("endpoints") or ()}, extra="ignore")
    except ValidationError:
        return {}
    return {(item.service.namespace, item.service.name): item.addresses for item in parsed.endpoints}
