"""Resources and facts to what the node should do, and a verdict on every mirror. A bad resource is a verdict, never an
exception, and stops no other.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from sniffer.abi.limits import LIST_LENGTH, Direction, Guard, Oversize, PathWord, Sampling
from sniffer.abi.records import EgressRecord, Hook, Program
from sniffer.model import resources
from sniffer.model.identity import Identity
from sniffer.model.limit import SamplingUnit
from sniffer.model.resources import MIRROR_KINDS, ClusterTrafficMirror, MirrorTarget
from sniffer.plan import admission, rules
from sniffer.plan.budget import budget
from sniffer.plan.cluster import Cluster
from sniffer.plan.facts import EARLIEST, Facts, Link, PathState
from sniffer.plan.outers import outer_keys
from sniffer.plan.select import Selection, Selector, hook_directions, is_named
from sniffer.plan.state import Mirror, Tunnel, Verdict, Wanted
from sniffer.plan.template import egress_record, kind_of

_PATH_WORDS = {
    PathState.REACHABLE: PathWord.REACHABLE,
    PathState.UNREACHABLE: PathWord.UNREACHABLE,
    PathState.NO_ROUTE: PathWord.NO_ROUTE,
}
_SAMPLING = {SamplingUnit.FLOW: Sampling.FLOW, SamplingUnit.PACKET: Sampling.PACKET}
_OVERSIZE = {
    resources.Oversize.SEGMENT: Oversize.SEGMENT,
    resources.Oversize.DROP: Oversize.DROP,
    resources.Oversize.TRUNCATE: Oversize.TRUNCATE,
}


@dataclass(frozen=True, slots=True)
class Sources:
    """What the user says now; `stale` names resources whose source cannot be read, and why: the last good one holds."""

    targets: tuple[MirrorTarget, ...]
    mirrors: tuple[resources.Mirror, ...]
    stale: Mapping[Identity, str] = field(default_factory=dict)
    refused: Mapping[Identity, str] = field(default_factory=dict)
    """What is invalid and has no former version."""
    complete: bool = True
    """False: some of the source cannot be read, and it is not known what it said."""
    known: frozenset[Identity] = frozenset()
    """Whatever was valid at some time since the source was first read: what of this is not there now was removed."""
    cluster: Cluster | None = None
    """What else the API server tells; None: the source is a directory."""


COMPILED_LENGTH = 8192
"""Characters of filters to compile in one look; the longest that libpcap takes long for are some 5,000 a second."""


class _RefusedError(Exception):
    """A mirror that cannot be in force: state, reason, message."""


def endpoint_addresses(targets: Iterable[MirrorTarget]) -> tuple[str, ...]:
    """Every address that facts must have a path for."""
    return tuple(sorted({address for target in targets for address in admission.addresses(target)}))


def precedence(mirror: resources.Mirror) -> tuple[bool, datetime, Identity]:
    """Who comes first on a full hook: ClusterTrafficMirrors, then the oldest, then by name."""
    created = mirror.metadata.creation_timestamp or EARLIEST
    return not isinstance(mirror, ClusterTrafficMirror), created, mirror.identity


def compile_sources(sources: Sources, facts: Facts) -> Wanted:
    """What the node should do. Mirrors share a hook in the order of `precedence`; what does not fit is Degraded."""
    return _Compilation(sources, facts).wanted()


class _Compilation:
    """One compile: what many mirrors share is made once."""

    def __init__(self, sources: Sources, facts: Facts) -> None:
        self._sources, self._facts = sources, facts
        self._targets = {target.metadata.name: target for target in sources.targets}
        self._selector = Selector(facts.links, sources.cluster, facts.bindings)
        self._hooks: dict[Hook, list[Mirror]] = {}
        self._paths: dict[EgressRecord, PathWord] = {}
        self._tunnels: dict[str, Tunnel | _RefusedError] = {}
        self._named: set[Hook] = set()
        self._ends: list[datetime] = []
        self._awaited: set[Direction] = set()
        """Directions of mirrors of pods that are about to come."""
        self._compiled = 0
        """Characters of filters that libpcap has seen in this look."""

    def wanted(self) -> Wanted:
        verdicts = [v for mirror in sorted(self._sources.mirrors, key=precedence) if (v := self._verdict(mirror))]
        for identity, message in self._sources.refused.items():
            if identity.kind in MIRROR_KINDS:
                verdicts.append(Verdict(identity, "Rejected", "Invalid", message))
        hooks = {hook: tuple(mirrors) for hook, mirrors in self._hooks.items()}
        used = {e for mirrors in hooks.values() for m in mirrors for t in m.tunnels for e in t.endpoints}
        paths = {e: word for e, word in self._paths.items() if e in used}
        answers, copies = self._of_analyzers()
        guards = dict.fromkeys(answers, Guard.ANALYZER) | self._of_named() | dict.fromkeys(copies, Guard.ANALYZER)
        guards = {hook: guard for hook, guard in guards.items() if hook in hooks}
        sources = {path.source for path in self._facts.paths.values() if path.source}
        nodes = self._sources.cluster.node_addresses if self._sources.cluster else sources
        outers = outer_keys(self._sources.targets, nodes if guards else ()) if hooks else frozenset()
        ahead = frozenset(Hook(index, d) for index in self._facts.unclaimed for d in self._awaited) - hooks.keys()
        return Wanted(hooks, paths, tuple(verdicts), guards, outers, ahead, min(self._ends, default=None))

    def _of_named(self) -> dict[Hook, Guard]:
        """Without a cluster nobody knows the other nodes; what an analyzer refuses comes back all the same."""
        if self._sources.cluster:
            return dict.fromkeys(self._named, Guard.NODE)
        return {hook: Guard.REFUSALS for hook in self._named if hook.direction == Direction.INGRESS}

    def _of_analyzers(self) -> tuple[set[Hook], set[Hook]]:
        """Hooks by which answers of pods of this node that are analyzers leave them, and by which copies reach them."""
        endpoints = set(endpoint_addresses(self._sources.targets))
        pods = self._sources.cluster.pods if self._sources.cluster else ()
        uids = [pod.uid for pod in pods if endpoints.intersection(pod.addresses)]
        bindings = [self._facts.bindings[uid] for uid in uids if uid in self._facts.bindings]
        indexes = {index for binding in bindings for index in binding.interfaces}
        return {Hook(i, Direction.INGRESS) for i in indexes}, {Hook(i, Direction.EGRESS) for i in indexes}

    def _verdict(self, resource: resources.Mirror) -> Verdict | None:
        """Places the mirror on its hooks; None: it is not for this node."""
        refs = tuple(ref.name for ref in resource.spec.target_refs)
        selection = Selection()
        try:
            selected = self._selector.select(resource) if self._sources.cluster else None
            if self._sources.cluster and (selected is None or not (selected.selected or is_named(resource))):
                return None  # what the mirrors of other nodes say, the controller tells
            selection = selected or selection
            self._admit(resource)
            selection = selected or self._selector.select(resource) or selection
            if is_named(resource) and self._sources.cluster and not self._sources.cluster.nodes_known:
                raise _RefusedError("Pending", "NodesUnknown", "the nodes of the cluster have not been listed yet")
            if selection.waits:
                self._awaited |= set(hook_directions(resource))
            if selection.fault:
                raise _RefusedError(selection.fault, selection.reason, selection.message)
            mirror = self._mirror(resource)
        except _RefusedError as refusal:
            state, reason, message = refusal.args
            return Verdict(resource.identity, state, reason, message, (), refs, selection.selected)
        reason, message = (selection.reason, selection.message) if selection.reason else self._lacking(resource)
        if selection.links:
            unreachable = self._unreachable(resource)
            if unreachable:
                reason, message = "EndpointUnreachable", "; ".join(filter(None, (unreachable, message)))
        names = tuple(link.name for link in selection.links)
        counts = selection.selected, selection.pods
        verdict = Verdict(resource.identity, "Programmed", reason, message, names, refs, *counts)
        full = self._place(mirror, resource, selection.links)
        if full:
            message = f"{', '.join(full)}: a hook takes {LIST_LENGTH} mirrors"
            verdict = replace(verdict, state="Degraded", reason="HookFull", message=message)
        return _with_source(verdict, self._sources.stale)

    def _admit(self, resource: resources.Mirror) -> None:
        refusal = admission.not_allowed(resource, self._targets, self._sources.cluster)
        refusal = refusal or self._by_controller(resource)
        if refusal:
            raise _RefusedError("Rejected", refusal.reason, refusal.message)
        if resource.spec.suspend:
            raise _RefusedError("Suspended", "Suspended", "spec.suspend is true")
        end = admission.expiry(resource, self._targets)
        if end and end <= self._facts.time:
            raise _RefusedError("Expired", "Expired", f"ended at {end:%Y-%m-%dT%H:%M:%SZ}")
        if end:
            self._ends.append(end)

    def _by_controller(self, resource: resources.Mirror) -> admission.Refusal | None:
        """The controller knows the addresses of all nodes, an agent only while it must."""
        for ref in resource.spec.target_refs:
            target = self._targets[ref.name]
            said = target.status.condition("Accepted")
            if (
                said
                and (said.status, said.reason) == ("False", "EndpointRefused")
                and said.observed_generation == target.metadata.generation
            ):
                return admission.Refusal("EndpointRefused", f"MirrorTarget {ref.name}: {said.message}")
        return None

    def _mirror(self, resource: resources.Mirror) -> Mirror:
        spec = resource.spec
        chosen = [self._targets[ref.name] for ref in spec.target_refs]
        awake = [target for target in chosen if not target.spec.suspend]
        if not awake:
            raise _RefusedError("Suspended", "TargetSuspended", "every target is suspended")
        tunnels = [self._tunnel(target) for target in awake]
        ready = tuple(tunnel for tunnel in tunnels if tunnel.endpoints)
        if not ready:
            names = ", ".join(target.metadata.name for target in awake)
            raise _RefusedError("Pending", "NoEndpoints", f"MirrorTarget {names}: no Service has a ready endpoint")
        one_in = spec.sampling.one_in if spec.sampling and spec.sampling.one_in > 1 else 0
        return Mirror(
            resource.identity,
            self._program(resource),
            spec.snap_length,
            ready,
            one_in,
            _SAMPLING[spec.sampling.per] if spec.sampling and one_in else 0,
            budget(spec.rate_limit, resource.identity, spec.snap_length),
            from_pod=not is_named(resource),
        )

    def _program(self, resource: resources.Mirror) -> Program:
        """Not too many filters in one look: libpcap may take a second for one, and leases have to be renewed."""
        spec = resource.spec
        for text in rules.uncompiled(spec.filter, spec.rules):
            if self._compiled >= COMPILED_LENGTH:
                raise _RefusedError("Pending", "Compiling", "its filters wait for those of others")
            self._compiled += len(text)
            rules.prepare(text)
        refusal = admission.bad_filter(resource)
        if refusal:
            raise _RefusedError("Rejected", refusal.reason, refusal.message)
        return rules.program(spec.filter, spec.rules)

    def _lacking(self, resource: resources.Mirror) -> tuple[str | None, str | None]:
        """Targets that get nothing while others do."""
        targets = [self._targets[ref.name] for ref in resource.spec.target_refs]
        asleep = [target.metadata.name for target in targets if target.spec.suspend]
        if asleep:
            return "TargetSuspended", f"MirrorTarget {', '.join(asleep)}: suspended"
        empty = [target.metadata.name for target in targets if not admission.addresses(target)]
        if empty:
            return "NoEndpoints", f"MirrorTarget {', '.join(empty)}: no Service has a ready endpoint"
        return None, None

    def _tunnel(self, target: MirrorTarget) -> Tunnel:
        name = target.metadata.name
        if name not in self._tunnels:
            try:
                self._tunnels[name] = self._new_tunnel(target)
            except _RefusedError as refusal:
                self._tunnels[name] = refusal
        found = self._tunnels[name]
        if isinstance(found, _RefusedError):
            raise found
        return found

    def _new_tunnel(self, target: MirrorTarget) -> Tunnel:
        spec = target.spec
        records = []
        for address in admission.addresses(target):
            path = self._facts.paths[address]
            if path.local:
                message = f"MirrorTarget {target.metadata.name}: {address} is an address of this node"
                raise _RefusedError("Rejected", "EndpointIsNode", message)
            record = egress_record(path, spec.encapsulation, spec.outer, self._facts.node)
            self._paths[record] = _PATH_WORDS[path.state]
            records.append(record)
        limit = spec.limits.max_snap_length or 0
        kind, allowed = kind_of(spec.encapsulation), budget(spec.rate_limit, target.identity, limit)
        return Tunnel(target.metadata.name, kind, _OVERSIZE[spec.oversize], limit, tuple(records), allowed)

    def _unreachable(self, resource: resources.Mirror) -> str | None:
        """Which endpoints of its targets cannot be reached."""
        bad = [
            f"{path.address} ({ref.name}): {path.state.replace('_', ' ')}"
            for ref in resource.spec.target_refs
            for address in admission.addresses(self._targets[ref.name])
            if (path := self._facts.paths[address]).state != PathState.REACHABLE
        ]
        return "; ".join(bad) or None

    def _place(self, mirror: Mirror, resource: resources.Mirror, links: tuple[Link, ...]) -> list[str]:
        """Adds a mirror to its hooks; the names of the hooks that had no room."""
        full = []
        named = is_named(resource)
        for link, direction in ((link, d) for link in links for d in hook_directions(resource)):
            hook = Hook(link.index, direction)
            mirrors = self._hooks.setdefault(hook, [])
            if named:
                self._named.add(hook)
            if len(mirrors) < LIST_LENGTH:
                mirrors.append(mirror)
            else:
                full.append(f"{link.name} {direction.name.lower()}")
        return full


def _with_source(verdict: Verdict, stale: Mapping[Identity, str]) -> Verdict:
    uses = (verdict.identity, *(Identity(MirrorTarget.__name__, None, name) for name in verdict.targets))
    message = next((stale[identity] for identity in uses if identity in stale), None)
    if message is None or verdict.state != "Programmed":
        return verdict
    return replace(verdict, state="Degraded", reason="SourceUnreadable", message=message)


WAITING = frozenset({"Compiling", "NodesUnknown"})
"""Reasons of what waits for something of ours."""


def hold_waiting(
    wanted: Wanted, observed: Mapping[Hook, tuple[Mirror, ...]], paths: Mapping[EgressRecord, PathWord]
) -> Wanted:
    """What waits for us goes on as it was."""
    waiting = {verdict.identity for verdict in wanted.verdicts if verdict.reason in WAITING}
    hooks = dict(wanted.hooks)
    held: set[Mirror] = set()
    for hook, mirrors in observed.items():
        kept = tuple(mirror for mirror in mirrors if mirror.identity in waiting)
        if kept:
            hooks[hook] = (*hooks.get(hook, ()), *kept)[:LIST_LENGTH]
            held |= set(kept)
    records = {record: paths[record] for mirror in held for t in mirror.tunnels for record in t.endpoints}
    return replace(wanted, hooks=hooks, paths={**records, **wanted.paths})


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
