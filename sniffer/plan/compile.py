"""Resources and facts to what the node should do, and a verdict on every mirror. A bad resource is a verdict, never an
exception, and stops no other.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from sniffer.abi.limits import LIST_LENGTH, Direction, Encapsulation, Oversize, PathWord
from sniffer.abi.records import EgressRecord, Hook, Program
from sniffer.errors import FilterError
from sniffer.model import resources
from sniffer.model.identity import Identity
from sniffer.model.resources import ClusterTrafficMirror, MirrorTarget, is_pattern
from sniffer.plan import rules
from sniffer.plan.facts import Facts, Link, PathState
from sniffer.plan.state import Mirror, Tunnel, Verdict, Wanted
from sniffer.plan.template import egress_record

ARPHRD_ETHER = 1
RELAY_LINKS = ("sniffer-tx", "sniffer-rx")

_PATH_WORDS = {
    PathState.REACHABLE: PathWord.REACHABLE,
    PathState.UNREACHABLE: PathWord.UNREACHABLE,
    PathState.NO_ROUTE: PathWord.NO_ROUTE,
}
_OVERSIZE = {resources.Oversize.SEGMENT: Oversize.SEGMENT, resources.Oversize.DROP: Oversize.DROP}
_DIRECTIONS = {
    resources.Direction.INGRESS: (Direction.INGRESS,),
    resources.Direction.EGRESS: (Direction.EGRESS,),
    resources.Direction.BOTH: (Direction.INGRESS, Direction.EGRESS),
}


@dataclass(frozen=True, slots=True)
class Sources:
    """What the user says now; `stale` names resources whose source cannot be read, and why: the last good one holds."""

    targets: tuple[MirrorTarget, ...]
    mirrors: tuple[ClusterTrafficMirror, ...]
    stale: Mapping[Identity, str] = field(default_factory=dict)
    refused: Mapping[Identity, str] = field(default_factory=dict)
    """What is invalid and has no former version."""
    complete: bool = True
    """False: some of the source cannot be read, and it is not known what it said."""
    known: frozenset[Identity] = frozenset()
    """Whatever was valid at some time since the source was first read: what of this is not there now was removed."""


class _RefusedError(Exception):
    """A mirror that cannot be in force: state, reason, message."""


def endpoint_addresses(targets: Iterable[MirrorTarget]) -> tuple[str, ...]:
    """Every address that facts must have a path for."""
    return tuple(sorted({endpoint.address for target in targets for endpoint in target.spec.endpoints}))


def compile_sources(sources: Sources, facts: Facts) -> Wanted:
    """What the node should do. Mirrors share a hook in order of name; what does not fit is Degraded."""
    targets = {target.metadata.name: target for target in sources.targets}
    hooks: dict[Hook, list[Mirror]] = {}
    paths: dict[EgressRecord, PathWord] = {}
    verdicts: list[Verdict] = []
    for resource in sorted(sources.mirrors, key=lambda resource: resource.metadata.name):
        refs = tuple(ref.name for ref in resource.spec.target_refs)
        try:
            mirror = _mirror(resource, targets, facts, paths)
            links = _links(resource, facts.links)
        except _RefusedError as refusal:
            state, reason, message = refusal.args
            verdicts.append(Verdict(resource.identity, state, reason, message, (), refs))
            continue
        full = _place(mirror, resource, links, hooks)
        names = tuple(link.name for link in links)
        verdict = Verdict(resource.identity, "Programmed", *_path_remark(resource, targets, facts), names, refs)
        if full:
            message = f"{', '.join(full)}: a hook takes {LIST_LENGTH} mirrors"
            verdict = replace(verdict, state="Degraded", reason="HookFull", message=message)
        verdicts.append(_with_source(verdict, sources.stale))
    for identity, message in sources.refused.items():
        if identity.kind == ClusterTrafficMirror.__name__:
            verdicts.append(Verdict(identity, "Rejected", "Invalid", message))
    return Wanted({hook: tuple(mirrors) for hook, mirrors in hooks.items()}, paths, tuple(verdicts))


def _with_source(verdict: Verdict, stale: Mapping[Identity, str]) -> Verdict:
    uses = (verdict.identity, *(Identity(MirrorTarget.__name__, None, name) for name in verdict.targets))
    message = next((stale[identity] for identity in uses if identity in stale), None)
    if message is None or verdict.state != "Programmed":
        return verdict
    return replace(verdict, state="Degraded", reason="SourceUnreadable", message=message)


def _mirror(
    resource: ClusterTrafficMirror,
    targets: Mapping[str, MirrorTarget],
    facts: Facts,
    paths: dict[EgressRecord, PathWord],
) -> Mirror:
    spec = resource.spec
    if spec.suspend:
        raise _RefusedError("Suspended", "Suspended", "spec.suspend is true")
    program = _program(resource)
    chosen = []
    for number, ref in enumerate(spec.target_refs):
        target = targets.get(ref.name)
        if target is None:
            raise _RefusedError(
                "Rejected", "TargetNotFound", f"spec.targetRefs[{number}].name: no MirrorTarget {ref.name}"
            )
        if not target.spec.suspend:
            chosen.append(target)
    if not chosen:
        raise _RefusedError("Suspended", "TargetSuspended", "every target is suspended")
    tunnels = tuple(_tunnel(target, facts, paths) for target in chosen)
    return Mirror(resource.identity, program, spec.snap_length, tunnels)


def _program(resource: ClusterTrafficMirror) -> Program:
    try:
        return rules.program(resource.spec.filter, resource.spec.rules)
    except FilterError as error:
        raise _RefusedError("Rejected", "BadFilter", f"{error.field or 'spec.filter'}: {error}") from None


def _tunnel(target: MirrorTarget, facts: Facts, paths: dict[EgressRecord, PathWord]) -> Tunnel:
    spec = target.spec
    records = []
    for endpoint in spec.endpoints:
        path = facts.paths[endpoint.address]
        if path.local:
            message = f"MirrorTarget {target.metadata.name}: {endpoint.address} is an address of this node"
            raise _RefusedError("Rejected", "EndpointIsNode", message)
        record = egress_record(path, spec.encapsulation, spec.outer)
        paths[record] = _PATH_WORDS[path.state]
        records.append(record)
    kind = Encapsulation.VXLAN if spec.encapsulation.vxlan else Encapsulation.GRE
    limit = spec.limits.max_snap_length or 0
    return Tunnel(target.metadata.name, kind, _OVERSIZE[spec.oversize], limit, tuple(records))


def _path_remark(
    resource: ClusterTrafficMirror, targets: Mapping[str, MirrorTarget], facts: Facts
) -> tuple[str | None, str | None]:
    """Reason and message where some endpoint cannot be reached."""
    bad = [
        f"{path.address} ({ref.name}): {path.state.replace('_', ' ')}"
        for ref in resource.spec.target_refs
        for endpoint in targets[ref.name].spec.endpoints
        if (path := facts.paths[endpoint.address]).state != PathState.REACHABLE
    ]
    return ("EndpointUnreachable", "; ".join(bad)) if bad else (None, None)


def _links(resource: ClusterTrafficMirror, links: tuple[Link, ...]) -> tuple[Link, ...]:
    """The interfaces that a mirror names: Ethernet ones, never the relay."""
    found: dict[int, Link] = {}
    for item in resource.spec.interfaces:
        pattern = is_pattern(item)
        for link in links:
            if link.name in RELAY_LINKS or not (fnmatchcase(link.name, item) if pattern else link.name == item):
                continue
            if link.arphrd == ARPHRD_ETHER:
                found[link.index] = link
            elif not pattern:
                raise _RefusedError("Rejected", "UnsupportedInterface", f"{item} has no Ethernet header")
    if not found:
        raise _RefusedError("Pending", "NoInterface", f"no interface {', '.join(resource.spec.interfaces)}")
    return tuple(sorted(found.values(), key=lambda link: link.name))


def _place(
    mirror: Mirror, resource: ClusterTrafficMirror, links: tuple[Link, ...], hooks: dict[Hook, list[Mirror]]
) -> list[str]:
    """Adds a mirror to its hooks; the names of the hooks that had no room."""
    full = []
    for link, direction in ((link, d) for link in links for d in _DIRECTIONS[resource.spec.direction]):
        mirrors = hooks.setdefault(Hook(link.index, direction), [])
        if len(mirrors) < LIST_LENGTH:
            mirrors.append(mirror)
        else:
            full.append(f"{link.name} {direction.name.lower()}")
    return full


def hold(
    wanted: Wanted,
    observed: Mapping[Hook, tuple[Mirror, ...]],
    paths: Mapping[EgressRecord, PathWord],
    known: frozenset[Identity] = frozenset(),
) -> Wanted:
    """While the source is not known whole, what the kernel mirrors and the source says nothing valid of stays.

    known: see Sources.
    """
    unsound = {verdict.identity for verdict in wanted.verdicts if _is_unsound(verdict, known)}
    spoken = ({verdict.identity for verdict in wanted.verdicts} | known) - unsound
    hooks = dict(wanted.hooks)
    held: dict[Identity, Mirror] = {}
    for hook, mirrors in observed.items():
        kept = tuple(mirror for mirror in mirrors if mirror.identity not in spoken)
        if kept:
            hooks[hook] = (*hooks.get(hook, ()), *kept)[:LIST_LENGTH]
            held.update({mirror.identity: mirror for mirror in kept})
    records = {record: paths[record] for m in held.values() for t in m.tunnels for record in t.endpoints}
    messages = {verdict.identity: verdict.message for verdict in wanted.verdicts if verdict.identity in held}
    verdicts = tuple(verdict for verdict in wanted.verdicts if verdict.identity not in held)
    return replace(wanted, hooks=hooks, paths={**records, **wanted.paths}, verdicts=(*verdicts, *_held(held, messages)))


def _is_unsound(verdict: Verdict, known: frozenset[Identity]) -> bool:
    """Whether it is the source's fault that this mirror is not in force."""
    if verdict.reason == "TargetNotFound":
        return any(Identity(MirrorTarget.__name__, None, name) not in known for name in verdict.targets)
    return verdict.reason == "Invalid"


def _held(mirrors: Mapping[Identity, Mirror], messages: Mapping[Identity, str | None]) -> Iterator[Verdict]:
    general = "the source is not readable as a whole; the last version known holds"
    for identity, mirror in mirrors.items():
        targets = tuple(tunnel.target for tunnel in mirror.tunnels)
        yield Verdict(identity, "Degraded", "SourceUnreadable", messages.get(identity) or general, (), targets)
