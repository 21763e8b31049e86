"""What follows from analyzers that refuse copies (plan/refusal.py): words on mirrors and paths, hooks that watch."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from sniffer.abi.limits import OUTERS_MAX, Direction, Guard, PathWord
from sniffer.abi.records import EgressRecord, Hook, OuterKey
from sniffer.model.identity import Identity
from sniffer.model.resources import MirrorTarget
from sniffer.plan.admission import addresses
from sniffer.plan.facts import Facts
from sniffer.plan.outers import header_of, outer_keys
from sniffer.plan.select import ARPHRD_ETHER
from sniffer.plan.state import Mirror, State, Tunnel, Wanted
from sniffer.plan.template import address_of, source_of

REASON = "SinkRejecting"

Endpoint = tuple[str, str]
"""Name of a target, address."""


def endpoints_of(keys: Collection[OuterKey], targets: Iterable[MirrorTarget]) -> frozenset[Endpoint]:
    """Whose headers these are."""
    if not keys:
        return frozenset()
    every = ((target, address) for target in targets for address in addresses(target))
    return frozenset((target.metadata.name, address) for target, address in every if header_of(target, address) in keys)


def told(wanted: Wanted, rejecting: Collection[Endpoint]) -> Wanted:
    """With the verdicts on mirrors whose copies are refused, and the words of those paths."""
    paths: dict[EgressRecord, PathWord] = {}
    said: dict[Identity, set[Endpoint]] = {}
    for mirror, tunnel, record in _used(wanted) if rejecting else ():
        endpoint = tunnel.target, address_of(record)
        if endpoint in rejecting and wanted.paths[record] == PathWord.REACHABLE:
            paths[record] = PathWord.REJECTING
            said.setdefault(mirror.identity, set()).add(endpoint)
    if not paths:
        return wanted
    verdicts = tuple(
        replace(verdict, reason=REASON, message=_words(said[verdict.identity]))
        if verdict.identity in said and verdict.state == "Programmed" and verdict.reason != "EndpointUnreachable"
        else verdict
        for verdict in wanted.verdicts
    )
    return replace(wanted, paths={**wanted.paths, **paths}, verdicts=verdicts)


def watched(wanted: Wanted, facts: Facts, targets: Iterable[MirrorTarget]) -> Wanted:
    """With hooks that watch for errors about copies: on interfaces by which copies leave, if they have an Ethernet
    header. What a mirror has a hook on is guarded as it is.
    """
    ethernet = {link.index for link in facts.links if link.arphrd == ARPHRD_ETHER}
    leave = (PathWord.REACHABLE, PathWord.REJECTING)
    used = [record for _, _, record in _used(wanted) if wanted.paths[record] in leave and record.ifindex in ethernet]
    hooks: dict[Hook, tuple[Mirror, ...]] = {Hook(record.ifindex, Direction.INGRESS): () for record in used}
    keys = outer_keys(targets, {source_of(record) for record in used})
    room = sorted(keys - wanted.outers)[: OUTERS_MAX - len(wanted.outers)]
    return replace(
        wanted,
        hooks={**hooks, **wanted.hooks},
        guards={**dict.fromkeys(hooks.keys() - wanted.hooks.keys(), Guard.REFUSALS), **wanted.guards},
        outers=wanted.outers | frozenset(room),
    )


def as_observed(wanted: Wanted, observed: State) -> Wanted:
    """With what an agent that runs has found: for those who only look."""
    numbers = (number for number, word in observed.paths.items() if word == PathWord.REJECTING)
    records = {observed.egress[number] for number in numbers if number in observed.egress}
    known = {(tunnel.target, address_of(record)) for _, tunnel, record in _used(wanted) if record in records}
    hooks = {hook: () for hook in watching(observed) if hook not in wanted.hooks}
    guards = {hook: observed.guards[hook] for hook in hooks}
    outers = wanted.outers | observed.outers if hooks else wanted.outers
    wanted = replace(wanted, hooks={**hooks, **wanted.hooks}, guards={**guards, **wanted.guards}, outers=outers)
    return told(wanted, known)


def watching(state: State) -> tuple[Hook, ...]:
    """Hooks that mirror nothing."""
    return tuple(sorted(hook for hook, number in state.hooks.items() if not number and hook in state.guards))


def _used(wanted: Wanted) -> Iterator[tuple[Mirror, Tunnel, EgressRecord]]:
    """Each mirror once, with where it sends."""
    mirrors = {id(mirror): mirror for on_hook in wanted.hooks.values() for mirror in on_hook}
    for mirror in mirrors.values():
        for tunnel in mirror.tunnels:
            for record in tunnel.endpoints:
                yield mirror, tunnel, record


def _words(endpoints: Iterable[Endpoint]) -> str:
    names = "; ".join(f"{address} ({target})" for target, address in sorted(endpoints))
    return f"{names}: copies come back as ICMP errors: nobody listens there, or somebody on the way refuses them"
