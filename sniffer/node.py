"""One node as the loop sees it: facts, observation and application on this machine."""

import functools
import logging
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sniffer.abi.limits import PathWord
from sniffer.abi.records import Hook
from sniffer.errors import KernelError, SnifferError
from sniffer.kernel import bpf, programs, tcx
from sniffer.kernel.apply import Kernel
from sniffer.kernel.attached import BUSY_S, QUIET_S, Attached
from sniffer.kernel.netlink import Device, Netlink
from sniffer.kernel.netns import Namespaces
from sniffer.kernel.observe import observe, relay_of
from sniffer.kernel.pins import Maps, Pins
from sniffer.kernel.refusals import Watch
from sniffer.kernel.stamps import Stamps
from sniffer.kernel.storms import Storms, flags_of
from sniffer.model.identity import Identity
from sniffer.plan import ops, rejecting, trail
from sniffer.plan.binding import Key, Owners, bind
from sniffer.plan.cluster import Binding
from sniffer.plan.compile import WAITING, Sources, compile_sources, endpoint_addresses, hold, hold_waiting
from sniffer.plan.diff import diff
from sniffer.plan.facts import Facts, Link, Mechanism, PathState, Relay
from sniffer.plan.ids import Assignment, contents
from sniffer.plan.names import node_of
from sniffer.plan.select import RELAY_LINKS
from sniffer.plan.state import State, Verdict, Wanted

log = logging.getLogger(__name__)

PROBE_S = 1.0
"""How often the kernel is asked again for a neighbour that does not answer."""
BINDING_S = 0.2
"""How often a pod's network namespace is looked for at first."""
BINDING_MAX_S = 5.0
YOUNG_S = 60.0
"""A network namespace that has been nobody's for longer than that is not waited for."""


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
        self._probed: dict[str, int] = {}
        self._namespaces = Namespaces(netns)
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
        self._linked: frozenset[Key] = frozenset()
        """The network namespaces that were there before the links were read last, and after."""
        self._unclaimed: tuple[int, ...] = ()
        self._relay: tuple[int, tuple[Link, ...], Relay | None] | None = None
        """When it was looked at, its links, and what was found."""
        self._storms = Storms()
        self._watch = Watch()
        self._stamps = Stamps()
        self._places: trail.Places = {}
        """Where the last plan mirrors."""
        self._entered: trail.Places | None = None
        """Where the log says that we do; None: it says nothing yet."""
        self._called: Mapping[int, str] = {}
        self._whole: object = None
        """What was wished when the kernel was last as it should be."""
        self._waits_s = BINDING_S
        self._seen: Sources | None = None

    def close(self) -> None:
        if self._maps:
            self._maps.close()
        self.netlink.close()

    def facts(self, sources: Sources, renews: bool = True) -> Facts:
        """A look at the node; asks the kernel to resolve the nexthops that are not.

        renews: whether leases are renewed.
        """
        devices = self.netlink.devices()
        addresses = endpoint_addresses(sources.targets)
        paths = {address: self.netlink.path_to(address, devices).carried() for address in addresses}
        now_ns = bpf.monotonic_ns()
        self.wait_s = PROBE_S if any(path.state != PathState.REACHABLE for path in paths.values()) else None
        for path in paths.values():
            due = now_ns - self._probed.get(path.address, 0) > PROBE_S * 0.9e9
            if self._kernel and path.state == PathState.UNREACHABLE and path.nexthop and due:
                self._probed[path.address] = now_ns
                # A table of neighbours that is full, a device that can have none, or is gone: others have to go on.
                with suppress(KernelError):
                    self.netlink.probe_neighbour(path.ifindex, path.nexthop)
        links = tuple(link for link, _, _ in devices.values())
        return Facts(
            now_ns=now_ns,
            lease_ns=self._lease_ns,
            links=links,
            paths=paths,
            relay=self._relay_of(devices.values(), now_ns, quiet=links == self._links),
            mechanism=self._mechanism,
            programs=self._programs,
            bindings=self._bindings(sources, links),
            unclaimed=self._unclaimed,
            time=datetime.now(UTC),
            stamps=self._stamps.of(links),
            renews=renews,
        )

    def _facts_again(self, sources: Sources, renews: bool) -> Facts | None:
        """What can be told without the kernel's lock of links, which is held for long where pods come and go: where
        pods are, beside the links of the last look. None: that is not enough.
        """
        former = self._facts
        if former is None or not former.paths.keys() >= set(endpoint_addresses(sources.targets)):
            return None
        bindings = self._bindings(sources, former.links, self._linked)
        now_ns, now = bpf.monotonic_ns(), datetime.now(UTC)
        return replace(former, bindings=bindings, unclaimed=self._unclaimed, renews=renews, now_ns=now_ns, time=now)

    def _relay_of(self, devices: Iterable[Device], now_ns: int, *, quiet: bool) -> Relay | None:
        """Its offloads are asked for once in a while only: see kernel/attached.py."""
        ends = tuple(link for link, _, _ in devices if link.name in RELAY_LINKS)
        good_ns = (QUIET_S if quiet else BUSY_S) * 1e9
        if self._relay is None or self._relay[1] != ends or now_ns - self._relay[0] > good_ns:
            self._relay = now_ns, ends, relay_of(self.netlink, self._pins, devices)
        return self._relay[2]

    def _bindings(
        self, sources: Sources, links: tuple[Link, ...], linked: frozenset[Key] | None = None
    ) -> Mapping[str, Binding]:
        """Where the pods' traffic passes. Namespaces that are nobody's are looked into only while some pod waits.

        The order matters (see plan/binding.py): pods were read before the links, and namespaces are read after them.
        """
        if sources.cluster is None or not sources.complete:
            return {}
        before = self._owners.seen.keys() if self._owners else frozenset()
        look = functools.partial(self._namespaces.look, self.netlink)
        found = bind(sources.cluster.pods, look(), links, self._owners, linked)
        if found.waits:
            owned = found.owners.by_namespace
            found = bind(sources.cluster.pods, look(fresh=True, owned=owned), links, self._owners, linked)
        self._owners = found.owners
        if linked is None:
            self._linked = frozenset(before & found.owners.seen.keys())
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

    def plan(self, sources: Sources, node_name: str, renews: bool = True, *, quick: bool = False) -> ops.Plan:
        """The next plan; () when the kernel is as it should be. quick: nothing but the sources is new."""
        again = self._facts_again(sources, renews) if quick else None
        facts = replace(again or self.facts(sources, renews), node=str(node_of(node_name).get("node", "")))
        self._facts = facts
        observed = self._observed(self._maps, facts, again is not None) if self._maps else State()
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
        if self._kernel:
            self._places = trail.places(replace(wanted, verdicts=self._verdicts))
            self._called = {**self._called, **trail.names(facts, sources.cluster)}
            if self._entered is None:
                self._entered = trail.left(observed, self._places)
        # A clsact filter is found again by its hook, which is written first.
        beside = self._mechanism == Mechanism.TCX and not observed.relay_word and bool(self._pins.former())
        plan = diff(observed, desired, {number: name for name, number in self._programs.items()}, beside=beside)
        self._compare(wanted, facts, plan)
        return plan

    def _compare(self, wanted: Wanted, facts: Facts, plan: ops.Plan) -> None:
        """Says when what was whole is not, though nothing else is wished. Programs are attached again without a word: a
        CNI that makes an interface anew takes them along.
        """
        wish = wanted.hooks, wanted.guards, facts.stamps
        altered = trail.mended(plan) if wish == self._whole else ""
        if altered:
            log.warning("somebody else has altered our maps (%s); writing them anew", altered)
        self._whole = None if plan else wish

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

    def _observed(self, maps: Maps, facts: Facts, quick: bool) -> State:
        """The kernel tells of a clsact filter that goes, so that is looked at every time."""
        known = self._attached.last() if quick else self._attached.known(facts.links, facts.now_ns)
        observed = observe(maps, self._pins, self.netlink, facts.relay, known)
        if known is None and self._mechanism == Mechanism.TCX:
            self._attached.read(observed.attachments, facts.links, facts.now_ns)
        return observed

    def apply(self, plan: ops.Plan) -> list[str]:
        """What could not be attached, in words; a preview applies nothing. Raises SnifferError."""
        if any(isinstance(op, ops.CreateRelay | ops.AttachRing) for op in plan):
            self._relay = None
        try:
            self._unattached = self._kernel.apply(plan) if self._kernel else {}
        except SnifferError:
            self._attached.forget()
            raise
        self._attached.applied(plan, self._unattached)
        self._enter()
        return list(self._unattached.values())

    def _enter(self) -> None:
        """Writes into the log who is mirrored now by whose wish, where that has changed."""
        failed = {hook.ifindex for hook in self._unattached}
        done = {identity: places - failed for identity, places in self._places.items()} if failed else self._places
        if done == self._entered:
            return
        for line in trail.changes(self._entered or {}, done, self._called):
            log.info("%s", line)
        self._entered = done
        there = {index for places in done.values() for index in places} | {link.index for link in self._links}
        self._called = {index: name for index, name in self._called.items() if index in there}

    def verdicts(self) -> tuple[Verdict, ...]:
        """Of the last plan, and of what came of it."""
        names = {link.index: link.name for link in self._links}
        missing = {names.get(hook.ifindex, ""): words for hook, words in self._unattached.items()}
        return tuple(_not_attached(verdict, missing) for verdict in self._verdicts)

    def waits(self) -> bool:
        """Whether the last plan is without something that waits for something of ours."""
        return any(verdict.reason in WAITING for verdict in self._verdicts)

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
