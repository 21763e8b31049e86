"""Contents to ids: what the kernel should hold, given what it holds.

Equal contents share an id, from the leaves up: what has not changed keeps its id and a change gets a new one, so that
nothing that a program can reach is rewritten. An id is free only when the observed state has nothing there, which is so
once it was cleared after a grace period.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar
from zlib import crc32

from sniffer.abi import limits
from sniffer.abi.limits import NameKind
from sniffer.abi.records import BudgetRecord, EgressRecord, Hook, MirrorRecord, NameKey, TunnelRecord
from sniffer.model.identity import Identity
from sniffer.plan.facts import Facts, Mechanism
from sniffer.plan.names import identity_of, identity_text, verdict_of, verdict_text
from sniffer.plan.state import Attachment, Mirror, State, Tunnel, Verdict, Wanted

_LEASE_FLAGS = limits.LEASE_HELD | limits.LEASE_WATCHED


class TableFullError(Exception):
    """No id is free; the argument is the table's name."""


Content = TypeVar("Content", bound=Hashable)


class Table(Generic[Content]):
    """Ids by content: those observed first, then free ones."""

    def __init__(
        self, name: str, size: int, observed: Mapping[int, Content], order: Callable[[int], int] | None = None
    ):
        self.name = name
        self.wanted: dict[int, Content] = {}
        self._ids = {content: number for number, content in observed.items()}
        free = (number for number in range(1, size) if number not in observed)
        self._free: Iterator[int] = iter(sorted(free, key=order)) if order else free

    def keep(self, content: Content) -> None:
        """Its id, where it has one, is not free."""
        if content in self._ids:
            self.wanted[self._ids[content]] = content

    def id(self, content: Content) -> int:
        """Raises TableFullError."""
        number = self._ids.get(content)
        if number is None:
            number = next(self._free, 0)
            if not number:
                raise TableFullError(self.name)
            self._ids[content] = number
        self.wanted[number] = content
        return number


@dataclass(frozen=True, slots=True)
class _NamedTunnel:
    """What makes a tunnel itself: its record but for the generation, and whose it is."""

    record: TunnelRecord
    target: str


class Assignment:
    """Builds the desired state; `full` names the mirrors that found no room, with the table that was full."""

    def __init__(self, observed: State, facts: Facts) -> None:
        self.full: dict[Identity, str] = {}
        self._observed = observed
        self._facts = facts
        names = observed.names
        tunnels = {
            number: _NamedTunnel(replace(record, generation=0), names.get(NameKey(NameKind.TUNNEL, number), ""))
            for number, record in observed.tunnels.items()
        }
        counters = {key.id: names[key] for key in names if key.kind == NameKind.COUNTER}
        self._egress = Table("egress", limits.EGRESS_MAX, observed.egress)
        # The longest unused first: a generation comes round as late as it can.
        self._tunnels = Table(
            "tunnels", limits.TUNNELS_MAX, tunnels, lambda number: observed.generations.get(number, 0)
        )
        self._budgets = Table("budgets", limits.BUDGETS_MAX, observed.budgets)
        self._filters = Table("filters", limits.FILTERS_MAX, observed.filters)
        self._counters = Table("counters", limits.COUNTERS_MAX, counters)
        self._mirrors = Table("mirrors", limits.MIRRORS_MAX, observed.mirrors)
        self._lists = Table("lists", limits.LISTS_MAX, observed.lists)
        self._labels: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        """By id() of a wanted mirror, which hooks share: its hash would go over its filter every time."""

    def state(self, wanted: Wanted, node_name: str) -> State:
        """The state that the node should have. node_name: text of the NODE name."""
        lists = {hook: self._list(mirrors) for hook, mirrors in wanted.hooks.items()}
        hooks = {hook: number for hook, number in lists.items() if number or not wanted.hooks[hook]}
        # A clsact filter is found again by its hook, and one ahead has none.
        ahead = wanted.ahead if self._facts.mechanism == Mechanism.TCX else ()
        taps = (*hooks, *ahead)
        attachments = {hook: self._attachment(("tap_ingress", "tap_egress")[hook.direction]) for hook in taps}
        facts, observed = self._facts, self._observed
        for verdict in wanted.verdicts:
            self._counters.keep(identity_text(verdict.identity))
        if facts.relay:
            attachments[Hook(facts.relay.sender, limits.Direction.EGRESS)] = self._attachment("encap")
            attachments[Hook(facts.relay.receiver, limits.Direction.INGRESS)] = self._attachment("encap_frame")
        return State(
            hooks=hooks,
            guards={hook: guard for hook, guard in wanted.guards.items() if hook in hooks},
            stamps=frozenset(
                hook for hook in hooks if hook.direction == limits.Direction.EGRESS and hook.ifindex in facts.stamps
            ),
            outers=wanted.outers,
            lists=self._lists.wanted,
            filters=self._filters.wanted,
            mirrors=self._mirrors.wanted,
            leases={number: self._lease(number) for number in self._mirrors.wanted},
            tunnels={number: self._tunnel_record(number) for number in self._tunnels.wanted},
            generations=observed.generations,
            egress=self._sequenced(),
            budgets=self._budgets.wanted,
            labels=self._labels,
            paths={number: int(wanted.paths[record]) for number, record in self._egress.wanted.items()},
            names=self._names(wanted.verdicts, node_name),
            attachments=attachments,
            relay=replace(facts.relay, ring=facts.programs.get("relay_ring"), faults=()) if facts.relay else None,
            relay_word=_relay_word(facts),
        )

    def _attachment(self, program: str) -> Attachment:
        return Attachment(self._facts.mechanism, self._facts.programs[program])

    def _list(self, mirrors: tuple[Mirror, ...]) -> int:
        """0: none of them found room."""
        ids = []
        for mirror in mirrors:
            try:
                ids.append(self._mirror(mirror))
            except TableFullError as error:
                self.full[mirror.identity] = str(error)
        try:
            return self._lists.id(tuple(ids)) if ids else 0
        except TableFullError as error:
            self.full.update({mirror.identity: str(error) for mirror in mirrors})
            return 0

    def _mirror(self, mirror: Mirror) -> int:
        if id(mirror) not in self._seen:
            tunnels = tuple(self._tunnel(tunnel) for tunnel in mirror.tunnels)
            filter_id = self._filters.id(mirror.filter) if mirror.filter else 0
            counter = self._counters.id(identity_text(mirror.identity))
            limits = mirror.one_in, mirror.sampling, self._budget(mirror.budget)
            record = MirrorRecord(filter_id, mirror.snap_length, counter, tunnels, *limits, mirror.from_pod)
            self._seen[id(mirror)] = self._mirrors.id(record)
            self._labels[counter] = label(mirror)
        return self._seen[id(mirror)]

    def _budget(self, record: BudgetRecord | None) -> int:
        """What is used up of it stays with its id, as long as owner and limit stay."""
        return self._budgets.id(record) if record else 0

    def _tunnel(self, tunnel: Tunnel) -> int:
        endpoints = tuple(self._egress.id(record) for record in tunnel.endpoints)
        budget = self._budget(tunnel.budget)
        record = TunnelRecord(0, tunnel.encapsulation, tunnel.oversize, tunnel.snap_length, endpoints, budget)
        return self._tunnels.id(_NamedTunnel(record, tunnel.target))

    def _sequenced(self) -> dict[int, EgressRecord]:
        """A stream of copies goes on with its numbers when a route changes: the analyzer sees the same header."""
        observed = self._observed.egress
        streams = {record.template: record.sequence for record in observed.values()}
        used = set(streams.values())
        free = (number for number in range(limits.SEQUENCES_MAX) if number not in used)
        found = {}
        for number, record in self._egress.wanted.items():
            if number not in observed and record.template not in streams:
                streams[record.template] = next(free)
            found[number] = observed.get(number) or replace(record, sequence=streams[record.template])
        return found

    def _tunnel_record(self, number: int) -> TunnelRecord:
        observed = self._observed.tunnels.get(number)
        if observed is not None:
            return observed
        generation = (self._observed.generations.get(number, 0) + 1) % limits.GENERATIONS
        return replace(self._tunnels.wanted[number].record, generation=generation)

    def _lease(self, number: int) -> int:
        """Its word. Renewed when a third of it is over, while the source can be heard."""
        until, facts = self._observed.leases.get(number, 0) & ~_LEASE_FLAGS, self._facts
        owner = identity_of(self._counters.wanted[self._mirrors.wanted[number].counter])
        flags = facts.flags.get(owner, 0) if owner else 0
        left = until - facts.now_ns
        if facts.renews and not (3 * left > 2 * facts.lease_ns and left <= facts.lease_ns):
            until = facts.now_ns + facts.lease_ns
        return until | flags

    def _names(self, verdicts: tuple[Verdict, ...], node_name: str) -> dict[NameKey, str]:
        names = {NameKey(NameKind.NODE, 0): node_name}
        names |= {NameKey(NameKind.COUNTER, number): text for number, text in self._counters.wanted.items()}
        names |= {NameKey(NameKind.TUNNEL, number): named.target for number, named in self._tunnels.wanted.items()}
        return names | verdict_names(verdicts, self._observed.names)


def label(mirror: Mirror) -> int:
    """Word of `labels`: CRC-32 of namespace/name, or of /name, << LABEL_MIRROR_SHIFT | one frame in so many."""
    name = f"{mirror.identity.namespace or ''}/{mirror.identity.name}"
    return crc32(name.encode()) << limits.LABEL_MIRROR_SHIFT | max(mirror.one_in, 1)


def _relay_word(facts: Facts) -> int:
    """What the programs are told of the relay."""
    if facts.relay is None:
        return 0
    return facts.relay.sender | (0 if "relay_ring" in facts.programs else limits.RELAY_SHARED)


def verdict_names(verdicts: tuple[Verdict, ...], observed: Mapping[NameKey, str]) -> dict[NameKey, str]:
    """One name per verdict; a mirror keeps its place."""
    places = {
        identity: key.id
        for key, text in observed.items()
        if key.kind == NameKind.VERDICT and (identity := identity_of(text)) and verdict_of(text)
    }
    kept = {places[verdict.identity] for verdict in verdicts if verdict.identity in places}
    # The map has room for every counter, tunnel and the node besides; more verdicts go unsaid: nothing hangs on them.
    room = limits.NAMES_MAX - limits.COUNTERS_MAX - limits.TUNNELS_MAX - 1
    free = (number for number in range(room) if number not in kept)
    return {
        NameKey(NameKind.VERDICT, place): verdict_text(v)
        for v in verdicts
        if (place := places[v.identity] if v.identity in places else next(free, None)) is not None
    }


def contents(state: State) -> dict[Hook, tuple[Mirror, ...]]:
    """A state read back as contents; references that lead nowhere raise KeyError."""

    def tunnel(number: int) -> Tunnel:
        record = state.tunnels[number]
        endpoints = tuple(state.egress[endpoint] for endpoint in record.endpoints)
        target = state.names[NameKey(NameKind.TUNNEL, number)]
        budget = state.budgets[record.budget] if record.budget else None
        return Tunnel(target, record.encapsulation, record.oversize, record.snap_length, endpoints, budget)

    def mirror(number: int) -> Mirror:
        record = state.mirrors[number]
        identity = identity_of(state.names[NameKey(NameKind.COUNTER, record.counter)])
        if identity is None:
            raise KeyError(record.counter)
        program = state.filters[record.filter] if record.filter else ()
        tunnels = tuple(tunnel(t) for t in record.tunnels)
        limited = record.one_in, record.sampling, state.budgets[record.budget] if record.budget else None
        return Mirror(identity, program, record.snap_length, tunnels, *limited, record.from_pod)

    lists = {number: tuple(map(mirror, mirrors)) for number, mirrors in state.lists.items()} | {0: ()}
    return {hook: lists[number] for hook, number in state.hooks.items()}
