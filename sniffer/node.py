"""One node as the loop sees it: facts, observation and application on this machine."""

import functools
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sniffer.abi.limits import PathWord
from sniffer.abi.records import Hook
from sniffer.errors import SnifferError
from sniffer.kernel import bpf, programs, tcx
from sniffer.kernel.apply import Kernel
from sniffer.kernel.attached import Attached
from sniffer.kernel.netlink import Netlink
from sniffer.kernel.netns import Namespaces
from sniffer.kernel.observe import hooks_of, observe
from sniffer.kernel.pins import Maps, Pins
from sniffer.kernel.reader import PROBE_S, Question, Reader, Reading
from sniffer.kernel.refusals import Watch
from sniffer.kernel.storms import Storms, flags_of
from sniffer.model.identity import Identity
from sniffer.plan import ops, rejecting
from sniffer.plan.binding import Horizon, Owners, bind
from sniffer.plan.cluster import Binding
from sniffer.plan.compile import WAITING, Sources, compile_sources, endpoint_addresses, hold, hold_waiting
from sniffer.plan.diff import diff, quick
from sniffer.plan.facts import Facts, Link, Mechanism, PathState
from sniffer.plan.ids import Assignment, contents
from sniffer.plan.names import node_of
from sniffer.plan.state import State, Verdict, Wanted

log = logging.getLogger(__name__)

BINDING_S = 0.2
"""How often a pod's network namespace is looked for at first."""
BINDING_MAX_S = 5.0
YOUNG_S = 60.0
"""A network namespace that has been nobody's for longer than that is not waited for."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What came of an errand."""

    failures: Mapping[Hook, str]
    """The hooks that could not be attached to, and why."""
    reading: Reading


class Node:
    """The effects of the loop: facts, observation and application on this machine."""

    def __init__(
        self,
        pins: Pins,
        mechanism: Mechanism | None,
        lease_s: float,
        loaded: Mapping[str, int],
        netns: Path = Path("/run/netns"),
    ) -> None:
        """loaded: fds of our programs by name; {}: only look, as `sniffer plan` does, with or without pins.

        netns: where the container runtime keeps the pods' network namespaces.
        """
        self._pins = pins
        self.netlink = Netlink()
        self._mechanism = mechanism or (Mechanism.TCX if tcx.has_tcx() else Mechanism.CLSACT)
        self._maps = Maps(pins, writable=bool(loaded)) if pins.exists() else None
        self._lease_ns = int(lease_s * 1e9)
        self._programs = {name: bpf.program_of(fd).id for name, fd in loaded.items()} or programs.pinned_ids(pins)
        self._kernel = Kernel(self._maps, pins, self.netlink, loaded) if self._maps and loaded else None
        self._namespaces = Namespaces(netns)
        self._reader = Reader(pins, self._namespaces, self._mechanism, probes=self._kernel is not None)
        self._owners: Owners | None = None
        self._said: str | None = None
        self._last: tuple[Sources, object, Wanted] | None = None
        self.wait_s: float | None = None
        """How soon to look again though nothing was heard: an endpoint does not answer, a pod has no interface yet."""
        self._verdicts: tuple[Verdict, ...] = ()
        self._unattached: Mapping[Hook, str] = {}
        self._links: tuple[Link, ...] = ()
        self._attached = Attached(self._programs)
        self._facts: Facts | None = None
        self._horizon = Horizon()
        """Of the links of the last look."""
        self._in_hand: ops.Plan = ()
        """What an errand is about to do."""
        self._anew = True
        """The next look has to find out everything."""
        self._unclaimed: tuple[int, ...] = ()
        self._storms = Storms()
        self._watch = Watch()
        self._waits_s = BINDING_S
        self._seen: Sources | None = None

    def close(self) -> None:
        if self._maps:
            self._maps.close()
        self.netlink.close()
        self._reader.close()

    def question(self, sources: Sources, *, look: int | None = None) -> Question:
        """What a look is to find out. look: see Horizon; None: the last one at pods."""
        owners = self._owners or Owners()
        attached = self._attached.last()
        anew = self._anew or (attached is None and self._mechanism == Mechanism.TCX)
        self._anew = False
        self._attached.begin()
        return Question(
            endpoint_addresses(sources.targets),
            {*(hooks_of(self._maps) if self._maps else ()), *(attached or ())},
            Horizon(frozenset(owners.seen), owners.looks if look is None else look),
            everything=anew,
        )

    def _read(self, sources: Sources) -> Reading:
        """A look, here and now: the pods were read before."""
        return self._reader.read(self.question(sources, look=(self._owners or Owners()).looks + 1))

    def leave(self, idle: ops.Plan) -> None:
        """These ops are the next errand's. Until `welcome` this node leaves their hooks alone."""
        self._in_hand = idle

    def errand(self, sources: Sources) -> Callable[[], Brought]:
        """Work for another thread: what was left to it, then a look."""
        idle, question, kernel, reader = self._in_hand, self.question(sources), self._kernel, self._reader

        def run() -> Brought:
            failures = kernel.apply(idle) if kernel else {}
            return Brought(failures, reader.read(replace(question, everything=True) if failures else question))

        return run

    def welcome(self, brought: Brought | None) -> list[str]:
        """By an errand; None: it failed. What could not be attached, in words."""
        idle, self._in_hand = self._in_hand, ()
        if brought is None:
            self._forget()
            return []
        if brought.reading.attachments is None:  # else they were read after that
            self._attached.applied(idle, ())
        return list(brought.failures.values())

    def _forget(self) -> None:
        """What we made of the node is not what we know of it any more."""
        self._attached.forget()
        self._anew = True

    def _facts_of(self, reading: Reading, sources: Sources, renews: bool) -> Facts:
        """Of a look, and of what the kernel tells without its lock of links. Endpoints that are new since the look are
        asked for here.
        """
        paths = {
            address: reading.paths.get(address) or self.netlink.path_to(address).carried()
            for address in endpoint_addresses(sources.targets)
        }
        self.wait_s = PROBE_S if any(path.state != PathState.REACHABLE for path in paths.values()) else None
        self._horizon = reading.horizon
        bindings = self._bindings(sources, reading.links)
        return Facts(
            now_ns=bpf.monotonic_ns(),
            lease_ns=self._lease_ns,
            links=reading.links,
            paths=paths,
            relay=reading.relay,
            mechanism=self._mechanism,
            programs=self._programs,
            bindings=bindings,
            unclaimed=self._unclaimed,
            time=datetime.now(UTC),
            stamps=reading.stamps,
            renews=renews,
        )

    def _facts_again(self, sources: Sources, renews: bool) -> Facts | None:
        """What can be told without the kernel's lock of links, which is held for long where pods come and go: where
        pods are, beside the links of the last look. None: that is not enough.
        """
        former = self._facts
        if former is None or not former.paths.keys() >= set(endpoint_addresses(sources.targets)):
            return None
        bindings = self._bindings(sources, former.links)
        now_ns, now = bpf.monotonic_ns(), datetime.now(UTC)
        return replace(former, bindings=bindings, unclaimed=self._unclaimed, renews=renews, now_ns=now_ns, time=now)

    def _bindings(self, sources: Sources, links: tuple[Link, ...]) -> Mapping[str, Binding]:
        """Where the pods' traffic passes. Namespaces that are nobody's are looked into only while some pod waits.

        The order matters (see plan/binding.py): pods and links were read before, namespaces are read now.
        """
        if sources.cluster is None or not sources.complete:
            return {}
        look = functools.partial(self._namespaces.look, self.netlink)
        found = bind(sources.cluster.pods, look(), links, self._owners, self._horizon)
        if found.waits:
            owned = found.owners.by_namespace
            found = bind(sources.cluster.pods, look(fresh=True, owned=owned), links, self._owners, self._horizon)
        self._owners = found.owners
        youngest = time.time_ns() - int(YOUNG_S * 1e9)
        self._unclaimed = tuple(i for (_, born_ns), ours in found.unclaimed.items() if born_ns > youngest for i in ours)
        if found.waits:
            # Who is not found at once may never be: what is looked for is looked for ever more rarely.
            self.wait_s = self._waits_s
            self._waits_s = min(self._waits_s * 1.5, BINDING_MAX_S)
        if not found.waits or sources is not self._seen:
            self._waits_s, self._seen = BINDING_S, sources
        if self._namespaces.fault and self._namespaces.fault != self._said:
            log.error("%s", self._namespaces.fault)
        self._said = self._namespaces.fault
        return found.bindings

    def plan(self, sources: Sources, node_name: str, renews: bool = True, reading: Reading | None = None) -> ops.Plan:
        """The next plan; () when the kernel is as it should be. reading: None: a look is taken first."""
        reading = reading or self._read(sources)
        if reading.attachments is not None:
            self._attached.read(reading.attachments)
        else:
            self._attached.seen(reading.links)
        return self._plan(sources, self._facts_of(reading, sources, renews), node_name)

    def answer(self, sources: Sources, node_name: str, renews: bool) -> ops.Plan:
        """What can be done before a look, though one may be under way: () where that is nothing."""
        facts = self._facts_again(sources, renews)
        if facts is None or (self._attached.last() is None and self._mechanism == Mechanism.TCX):
            return ()
        return quick(self._plan(sources, facts, node_name), self._in_hand)

    def _plan(self, sources: Sources, facts: Facts, node_name: str) -> ops.Plan:
        facts = replace(facts, node=str(node_of(node_name).get("node", "")))
        self._facts = facts
        observed = self._observed(self._maps, facts) if self._maps else State()
        facts = replace(facts, flags=self._flags(observed, facts))
        wanted = self._refused(self._storms.told(self._compiled(sources, facts)), observed, facts, sources)
        if not sources.complete:
            wanted = _held(wanted, observed, sources.known)
        reasons = {verdict.reason for verdict in wanted.verdicts}
        if reasons & WAITING:
            wanted = _held(wanted, observed, None)
        if "Compiling" in reasons:
            self._last, self.wait_s = None, 0.0
        self._links = facts.links
        # For these there was no room: no hook of theirs is there that status could miss.
        wanted = self._told(wanted, {hook for hook in self._unattached if hook not in observed.hooks})
        desired = self._desired(wanted, observed, facts, node_name)
        return diff(observed, desired, {number: name for name, number in self._programs.items()})

    def _told(self, wanted: Wanted, unattached: Collection[Hook]) -> Wanted:
        """With the verdicts on those whose hooks these are."""
        if not unattached:
            return wanted
        names = {link.index: link.name for link in self._links}
        missing = {names.get(hook.ifindex, ""): self._unattached[hook] for hook in unattached}
        return replace(wanted, verdicts=tuple(_not_attached(verdict, missing) for verdict in wanted.verdicts))

    def _flags(self, observed: State, facts: Facts) -> Mapping[Identity, int]:
        """LEASE_ flags; a preview leaves them as they are."""
        if self._maps is None or self._kernel is None:
            return flags_of(observed)
        flags = self._storms.look(self._maps, observed, facts)
        wait_s = self._storms.wait_s
        if wait_s is not None:
            self.wait_s = wait_s if self.wait_s is None else min(wait_s, self.wait_s)
        return flags

    def _refused(self, wanted: Wanted, observed: State, facts: Facts, sources: Sources) -> Wanted:
        """With what is known of analyzers that refuse copies; a preview leaves it as it is."""
        if self._maps is None or self._kernel is None:
            return rejecting.as_observed(wanted, observed)
        self._watch.look(self._maps, observed, facts)
        wait_s = self._watch.wait_s
        if wait_s is not None:
            self.wait_s = wait_s if self.wait_s is None else min(wait_s, self.wait_s)
        return self._watch.told(wanted, facts, sources)

    def _observed(self, maps: Maps, facts: Facts) -> State:
        """The kernel tells of a clsact filter that goes, so that is looked at every time."""
        known = self._attached.last() if self._mechanism == Mechanism.TCX else None
        observed = observe(maps, self._pins, self.netlink, facts.relay, known)
        if known is None and self._mechanism == Mechanism.TCX:
            self._attached.read(observed.attachments)
        return observed

    def apply(self, plan: ops.Plan) -> list[str]:
        """What could not be attached, in words; a preview applies nothing. Raises SnifferError."""
        if any(isinstance(op, ops.CreateRelay | ops.AttachRing) for op in plan):
            self._anew = True
        try:
            self._unattached = self._kernel.apply(plan) if self._kernel else {}
        except SnifferError:
            self._forget()
            raise
        self._attached.applied(plan, self._unattached)
        return list(self._unattached.values())

    def verdicts(self) -> tuple[Verdict, ...]:
        """Of the last plan, and of what came of it."""
        names = {link.index: link.name for link in self._links}
        missing = {names.get(hook.ifindex, ""): words for hook, words in self._unattached.items()}
        return tuple(_not_attached(verdict, missing) for verdict in self._verdicts)

    def _compiled(self, sources: Sources, facts: Facts) -> Wanted:
        """The same sources on the same node mean the same, until some mirror ends."""
        seen = (facts.links, facts.paths, facts.bindings, facts.unclaimed)
        if self._last and self._last[0] is sources and self._last[1] == seen:
            wanted = self._last[2]
            if wanted.until is None or facts.time < wanted.until:
                return wanted
        wanted = compile_sources(sources, facts)
        self._last = sources, seen, wanted
        return wanted

    def _desired(self, wanted: Wanted, observed: State, facts: Facts, node_name: str) -> State:
        assignment = Assignment(observed, facts)
        desired = assignment.state(wanted, node_name)
        if assignment.full:
            wanted = _with_full(wanted, assignment.full)
            desired = Assignment(observed, facts).state(wanted, node_name)
        self._verdicts = wanted.verdicts
        return desired


def _path_word(word: int) -> PathWord:
    """A word that a later version knows is a path all the same."""
    return PathWord(word) if word in tuple(PathWord) else PathWord.REACHABLE


def _held(wanted: Wanted, observed: State, known: frozenset[Identity] | None) -> Wanted:
    """What is not attached is not held: its interface may be gone, and another have its index.

    known: see compile.hold; None: only what waits for us is held.
    """
    paths = {record: _path_word(observed.paths.get(number, 0)) for number, record in observed.egress.items()}
    live = {hook for hook, attachment in observed.attachments.items() if attachment.program}
    try:
        mirrored = {hook: mirrors for hook, mirrors in contents(observed).items() if hook in live}
        held = hold_waiting(wanted, mirrored, paths) if known is None else hold(wanted, mirrored, paths, known)
    except KeyError:
        return wanted  # what is there is not whole: nothing to hold on to
    return replace(held, guards={**observed.guards, **held.guards}, outers=held.outers | observed.outers)


def _not_attached(verdict: Verdict, missing: Mapping[str, str]) -> Verdict:
    words = "; ".join(missing[name] for name in verdict.interfaces if name in missing)
    return replace(verdict, state="Degraded", reason="NotAttached", message=words) if words else verdict


def _with_full(wanted: Wanted, full: Mapping[Identity, str]) -> Wanted:
    verdicts = tuple(
        replace(v, state="Degraded", reason="TableFull", message=f"the map {full[v.identity]} is full")
        if v.identity in full
        else v
        for v in wanted.verdicts
    )
    return replace(wanted, verdicts=verdicts)
