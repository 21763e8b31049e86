"""Whether a mirror is valid and allowed, and until when: what agents act on and the controller reports is the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sniffer.errors import FilterError
from sniffer.model.resources import Mirror, MirrorTarget, TrafficMirror
from sniffer.model.target import ENDPOINTS_LENGTH
from sniffer.plan import rules
from sniffer.plan.cluster import Cluster, Policy

_EXCEPTION = "allowed only by the chart's allowedTargetCIDRs"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a resource is not accepted."""

    reason: str
    """BadFilter, TargetNotFound, TargetNotAllowed, EndpointRefused, ProtectedNamespace or NeedsCluster."""
    message: str


Targets = Mapping[str, MirrorTarget]


def refusal(mirror: Mirror, targets: Targets, cluster: Cluster | None) -> Refusal | None:
    """None: accepted. `cluster` is None where resources come from files, which only administrators write."""
    return bad_filter(mirror) or not_allowed(mirror, targets, cluster)


def bad_filter(mirror: Mirror) -> Refusal | None:
    """What is wrong with a filter. This may take libpcap a second."""
    try:
        rules.program(mirror.spec.filter, mirror.spec.rules)
    except FilterError as error:
        return Refusal("BadFilter", f"{error.field or 'spec.filter'}: {error}")
    return None


def not_allowed(mirror: Mirror, targets: Targets, cluster: Cluster | None) -> Refusal | None:
    """Whatever else `refusal` looks for."""
    if cluster is None:
        return _without_cluster(mirror) or _missing_target(mirror, targets) or _only_services(mirror, targets)
    if isinstance(mirror, TrafficMirror) and cluster.is_protected(mirror.metadata.namespace):
        message = f"namespace {mirror.metadata.namespace} is protected: only a ClusterTrafficMirror may mirror its pods"
        return Refusal("ProtectedNamespace", message)
    return _missing_target(mirror, targets) or _refused_target(mirror, targets, cluster)


def _without_cluster(mirror: Mirror) -> Refusal | None:
    if isinstance(mirror, TrafficMirror) or mirror.spec.interfaces is None:
        return Refusal("NeedsCluster", "selectors of pods need a cluster: with files, name spec.interfaces")
    if mirror.spec.duration_seconds is not None and mirror.metadata.creation_timestamp is None:
        message = "spec.durationSeconds counts from a creation that a file does not have: use expireTime"
        return Refusal("NeedsCluster", message)
    return None


def _missing_target(mirror: Mirror, targets: Targets) -> Refusal | None:
    for number, ref in enumerate(mirror.spec.target_refs):
        if ref.name not in targets:
            return Refusal("TargetNotFound", f"spec.targetRefs[{number}].name: no MirrorTarget {ref.name}")
    return None


def _only_services(mirror: Mirror, targets: Targets) -> Refusal | None:
    for ref in mirror.spec.target_refs:
        if all(endpoint.service for endpoint in targets[ref.name].spec.endpoints):
            message = f"MirrorTarget {ref.name}: a Service needs a cluster: with files, give an address"
            return Refusal("NeedsCluster", message)
    return None


def _refused_target(mirror: Mirror, targets: Targets, cluster: Cluster) -> Refusal | None:
    for number, ref in enumerate(mirror.spec.target_refs):
        target = targets[ref.name]
        if isinstance(mirror, TrafficMirror):
            grant = target.spec.allowed_namespaces
            namespace = mirror.metadata.namespace
            if grant is None or not cluster.selects(grant, namespace):
                message = f"MirrorTarget {ref.name} is not granted to namespace {namespace}, by its allowedNamespaces"
                return Refusal("TargetNotAllowed", f"spec.targetRefs[{number}].name: {message}")
        refused = target_refusal(target, cluster.policy)
        if refused:
            return Refusal(refused.reason, f"MirrorTarget {ref.name}: {refused.message}")
    return None


def target_refusal(target: MirrorTarget, policy: Policy) -> Refusal | None:
    """Whether copies may go where a target says; None: they may."""
    for number, endpoint in enumerate(target.spec.endpoints):
        what = policy.objection(endpoint.address) if endpoint.address else None
        if what:
            message = f"{endpoint.address} is {what}; {_EXCEPTION}"
            return Refusal("EndpointRefused", f"spec.endpoints[{number}].address: {message}")
    for resolved in target.status.endpoints:
        for address in resolved.addresses:
            what = policy.objection(address)
            if what:
                place = f"Service {resolved.service.namespace}/{resolved.service.name}"
                return Refusal("EndpointRefused", f"{place}: {address} is {what}; {_EXCEPTION}")
    return None


def addresses(target: MirrorTarget) -> tuple[str, ...]:
    """Where copies go now: addresses as given, and what the Services stand for; each once, 8 at most."""
    resolved = {(r.service.namespace, r.service.name): r.addresses for r in target.status.endpoints}
    found: list[str] = []
    for endpoint in target.spec.endpoints:
        if endpoint.address:
            found.append(endpoint.address)
        elif endpoint.service:
            found += resolved.get((endpoint.service.namespace, endpoint.service.name), ())
    return tuple(dict.fromkeys(found))[:ENDPOINTS_LENGTH]


def expiry(mirror: Mirror, targets: Targets) -> datetime | None:
    """When a mirror ends: the earliest of its own two words and of its targets' limits; None: never."""
    created = mirror.metadata.creation_timestamp
    ends = [mirror.spec.expire_time] if mirror.spec.expire_time else []
    durations = [mirror.spec.duration_seconds]
    durations += [t.spec.limits.max_duration_seconds for r in mirror.spec.target_refs if (t := targets.get(r.name))]
    if created:
        ends += [created + timedelta(seconds=seconds) for seconds in durations if seconds is not None]
    return min(ends, default=None)
