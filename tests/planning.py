"""A machine in memory that carries out plans as sniffer/kernel/apply.py does, reads itself back as
sniffer/kernel/observe.py does, and watches what no kernel would tell: whether anything that a program may be reading
is rewritten.

Records lie in it as bytes, so that a write can be cut off in the middle.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from struct import unpack

from sniffer.abi.limits import LIST_LENGTH, Direction, Guard, NameKind
from sniffer.abi.records import (
    BUDGET_SIZE,
    EGRESS_SIZE,
    FILTER_SIZE,
    LIST_SIZE,
    MIRROR_SIZE,
    TUNNEL_SIZE,
    BudgetRecord,
    EgressRecord,
    Hook,
    MirrorRecord,
    NameKey,
    OuterKey,
    TunnelRecord,
    pack_list,
    pack_program,
    unpack_list,
    unpack_program,
)
from sniffer.model.identity import Identity
from sniffer.plan import ops
from sniffer.plan.facts import Facts, Mechanism, Relay
from sniffer.plan.ids import Assignment
from sniffer.plan.names import identity_of
from sniffer.plan.state import Attachment, Mirror, State, Tunnel, Wanted

LEASE_NS = 60 * 10**9
SIZES = {
    "lists": LIST_SIZE,
    "filters": FILTER_SIZE,
    "mirrors": MIRROR_SIZE,
    "tunnels": TUNNEL_SIZE,
    "egress": EGRESS_SIZE,
    "budgets": BUDGET_SIZE,
}
PROGRAMS = ("tap_ingress", "tap_egress", "encap", "encap_frame", "relay_ring")
Place = tuple[str, int]
"""A table and an id in it."""


@dataclass(frozen=True, slots=True)
class Write:
    """A record on its way into memory."""

    place: Place
    octets: bytes


@dataclass
class Machine:
    """What the kernel holds of ours. `now_ns` and `mechanism` are facts, not state."""

    now_ns: int = 10**12
    mechanism: Mechanism = Mechanism.TCX
    generation_of_programs: int = 0
    memory: dict[Place, bytes] = field(default_factory=dict)
    words: dict[Place, int] = field(default_factory=dict)
    hooks: dict[Hook, int] = field(default_factory=dict)
    guards: dict[Hook, Guard] = field(default_factory=dict)
    stamps: set[Hook] = field(default_factory=set)
    outers: set[OuterKey] = field(default_factory=set)
    names: dict[NameKey, str] = field(default_factory=dict)
    counted: dict[int, set[Identity]] = field(default_factory=dict)
    """Whose frames each counter has counted since it was last set to zero."""
    links: dict[Hook, int] = field(default_factory=dict)
    filters: dict[Hook, int] = field(default_factory=dict)
    relay: Relay | None = None
    relay_word: int = 0
    read: set[Place] = field(default_factory=set)
    """What a program may hold a pointer to: reachable at some time since the last grace period."""
    carried: set[Place] = field(default_factory=set)
    """Tunnels that a copy in the relay may have been read by. Clearing one is how it is unlinked from there."""

    # ---- what the agent sees ----

    def programs(self) -> dict[str, int]:
        return {name: 100 * self.generation_of_programs + n for n, name in enumerate(PROGRAMS, start=1)}

    def program_names(self) -> dict[int, str]:
        return {number: name for name, number in self.programs().items()}

    def facts(self) -> Facts:
        return Facts(self.now_ns, LEASE_NS, (), {}, self.relay, self.mechanism, self.programs())

    def observe(self) -> State:
        tunnels = {n: TunnelRecord.unpack(octets) for n, octets in self._records("tunnels")}
        mirrors = {n: MirrorRecord.unpack(octets) for n, octets in self._records("mirrors")}
        egress = {n: EgressRecord.unpack(octets) for n, octets in self._records("egress")}
        relay_hooks = _relay_hooks(self.relay)
        clsact = {
            hook: Attachment(Mechanism.CLSACT, program)
            for hook, program in self.filters.items()
            if hook in self.hooks or hook in relay_hooks
        }
        return State(
            hooks=dict(self.hooks),
            guards=dict(self.guards),
            stamps=frozenset(self.stamps),
            outers=frozenset(self.outers),
            lists={n: unpack_list(octets) for n, octets in self._records("lists")},
            filters={n: unpack_program(octets) for n, octets in self._records("filters") if octets[:2] != b"\0\0"},
            mirrors={n: record for n, record in mirrors.items() if record.tunnels},
            leases=self._words("leases"),
            tunnels={n: record for n, record in tunnels.items() if record.endpoints},
            generations={n: record.generation for n, record in tunnels.items() if not record.endpoints},
            egress={n: record for n, record in egress.items() if record.template},
            paths=self._words("paths"),
            budgets={n: BudgetRecord.unpack(octets) for n, octets in self._records("budgets")},
            labels=self._words("labels"),
            names=dict(self.names),
            attachments=clsact | {hook: Attachment(Mechanism.TCX, program) for hook, program in self.links.items()},
            relay=self.relay,
            relay_word=self.relay_word,
        )

    def _records(self, table: str) -> Iterator[tuple[int, bytes]]:
        return ((place[1], octets) for place, octets in sorted(self.memory.items()) if place[0] == table)

    def _words(self, table: str) -> dict[int, int]:
        return {place[1]: word for place, word in sorted(self.words.items()) if place[0] == table}

    # ---- what the programs see ----

    def record(self, place: Place) -> bytes:
        return self.memory.get(place, bytes(SIZES[place[0]]))

    def mirrors_of(self, hook: Hook) -> tuple[int, ...]:
        """As the tap walks a list: up to the first zero."""
        octets = self.record(("lists", self.hooks[hook]))
        return tuple(takewhile(bool, unpack(f"={LIST_LENGTH}I", octets)))

    def delivers(self) -> dict[Hook, tuple[Mirror, ...]]:
        """What the programs do now. KeyError, AssertionError: they would follow a reference that leads nowhere."""
        return {hook: tuple(self._mirror(number) for number in self.mirrors_of(hook)) for hook in self.hooks}

    def _mirror(self, number: int) -> Mirror:
        record = MirrorRecord.unpack(self.record(("mirrors", number)))
        assert record.tunnels
        assert self.words["leases", number] > self.now_ns, f"the lease of mirror {number} is over"
        identity = identity_of(self.names[NameKey(NameKind.COUNTER, record.counter)])
        assert identity
        program = unpack_program(self.record(("filters", record.filter))) if record.filter else ()
        assert bool(program) == bool(record.filter)
        tunnels = tuple(map(self._tunnel, record.tunnels))
        limits = record.one_in, record.sampling, self._budget(record.budget)
        return Mirror(identity, program, record.snap_length, tunnels, *limits, record.from_pod)

    def _budget(self, number: int) -> BudgetRecord | None:
        if not number:
            return None
        record = BudgetRecord.unpack(self.record(("budgets", number)))
        assert record.owner
        return record

    def _tunnel(self, number: int) -> Tunnel:
        record = TunnelRecord.unpack(self.record(("tunnels", number)))
        assert record.endpoints
        endpoints = tuple(EgressRecord.unpack(self.record(("egress", endpoint))) for endpoint in record.endpoints)
        assert all(endpoint.template for endpoint in endpoints)
        assert all(self.words["paths", endpoint] for endpoint in record.endpoints)
        target = self.names[NameKey(NameKind.TUNNEL, number)]
        budget = self._budget(record.budget)
        return Tunnel(target, record.encapsulation, record.oversize, record.snap_length, endpoints, budget)

    def reachable(self) -> set[Place]:
        """From a hook; and from the relay, where a copy names its tunnel by number and generation."""
        found: set[Place] = {("lists", number) for number in self.hooks.values() if number}
        mirrors = {number for hook in self.hooks for number in self.mirrors_of(hook)}
        found |= {("mirrors", number) for number in mirrors}
        for number in mirrors:
            record = MirrorRecord.unpack(self.record(("mirrors", number)))
            found |= {("filters", record.filter)} if record.filter else set()
            found |= {("tunnels", tunnel) for tunnel in record.tunnels}
            found |= {("budgets", record.budget)} if record.budget else set()
            for tunnel in record.tunnels:
                budget = TunnelRecord.unpack(self.record(("tunnels", tunnel))).budget
                found |= {("budgets", budget)} if budget else set()
        for place in self.tunnels():
            found |= {("egress", endpoint) for endpoint in TunnelRecord.unpack(self.memory[place]).endpoints}
        return found

    def tunnels(self) -> set[Place]:
        """Those that are not clear, linked or not."""
        return {("tunnels", n) for n, octets in self._records("tunnels") if TunnelRecord.unpack(octets).endpoints}

    # ---- what happens ----

    def apply(self, op: ops.Op) -> None:  # noqa: C901, PLR0912
        """One op, as sniffer/kernel/apply.py has it; AssertionError: it rewrites what a program may be reading."""
        for write in self._allowed(op):
            self._store(write)
        match op:
            case ops.CreateRelay():
                self.relay = replace(self.relay, faults=()) if self.relay else Relay(2, 3)
            case ops.AttachRing(ifindex):
                assert self.relay
                assert self.relay.receiver == ifindex
                self.relay = replace(self.relay, ring=self.programs()["relay_ring"])
            case ops.SetRelay(ifindex):
                self.relay_word = ifindex
            case ops.SetLease(number, until_ns):
                self._word(("leases", number), until_ns)
            case ops.SetPath(number, word):
                self._word(("paths", number), word)
            case ops.SetLabel(number, word):
                self._word(("labels", number), word)
            case ops.PutName(key, text):
                self.names[key] = text
            case ops.SetHook(hook, number, guard, stamps):
                self.hooks[hook] = number
                self.stamps = self.stamps - {hook} | ({hook} if stamps else set())
                self.guards = {other: kind for other, kind in self.guards.items() if other != hook}
                self.guards |= {hook: guard} if guard else {}
            case ops.RemoveHook(hook):
                self.hooks.pop(hook, None)
                self.guards.pop(hook, None)
                self.stamps.discard(hook)
            case ops.PutOuter(key):
                self.outers.add(key)
            case ops.RemoveOuter(key):
                self.outers.discard(key)
            case ops.Attach(hook, mechanism, program):
                (self.links if mechanism == Mechanism.TCX else self.filters)[hook] = self.programs()[program]
            case ops.Detach(hook, mechanism):
                (self.links if mechanism == Mechanism.TCX else self.filters).pop(hook, None)
            case ops.Grace():
                self.read, self.carried = set(), set()
            case ops.Clear("mirrors", number):
                self._word(("leases", number), 0)
            case ops.Clear("egress", number):
                self._word(("paths", number), 0)
            case ops.RemoveName(key):
                if key.kind == NameKind.COUNTER:
                    self.counted.pop(key.id, None)
                self.names.pop(key, None)
        self.read |= self.reachable()
        self.carried |= self.tunnels()

    def _allowed(self, op: ops.Op) -> Iterator[Write]:
        for write in writes(self, op):
            held = write.place in self.read or (write.place in self.carried and not isinstance(op, ops.Clear))
            assert not held or write.octets == self.record(write.place), f"{op} rewrites what a program may be reading"
            yield write

    def tear(self, op: ops.Op, length: int, from_front: bool) -> None:
        """The agent dies in the middle of an op: only `length` bytes (a multiple of 8) of its record were written."""
        for write in self._allowed(op):
            former = self.record(write.place)
            length = min(length, len(former))
            at = length if from_front else len(former) - length
            halves = (write.octets, former) if from_front else (former, write.octets)
            self._store(Write(write.place, halves[0][:at] + halves[1][at:]))

    def _store(self, write: Write) -> None:
        if any(write.octets):
            self.memory[write.place] = write.octets
        else:
            self.memory.pop(write.place, None)

    def _word(self, place: Place, word: int) -> None:
        if word:
            self.words[place] = word
        else:
            self.words.pop(place, None)

    def count(self) -> None:
        """Every mirror counts a frame."""
        for hook in self.hooks:
            for number in self.mirrors_of(hook):
                counter = MirrorRecord.unpack(self.record(("mirrors", number))).counter
                identity = identity_of(self.names[NameKey(NameKind.COUNTER, counter)])
                assert identity
                self.counted.setdefault(counter, set()).add(identity)

    def lose_interface(self, ifindex: int) -> None:
        """It vanishes, and what was attached to it: pins of its links stay."""
        self.links = {hook: 0 if hook.ifindex == ifindex else program for hook, program in self.links.items()}
        self.filters = {hook: program for hook, program in self.filters.items() if hook.ifindex != ifindex}

    def lose_relay(self, sender: int | None) -> None:
        """Somebody deletes the relay; `sender` not None: it is there again, by other ifindexes, bare."""
        if self.relay:
            self.lose_interface(self.relay.sender)
            self.lose_interface(self.relay.receiver)
        self.relay = Relay(sender, sender + 1) if sender else None


def writes(machine: Machine, op: ops.Op) -> Iterable[Write]:
    """What an op stores in arrays of records."""
    match op:
        case ops.PutEgress(number, record):
            return [Write(("egress", number), record.pack())]
        case ops.PutBudget(number, record):
            return [Write(("budgets", number), record.pack())]
        case ops.PutTunnel(number, record):
            return [Write(("tunnels", number), record.pack())]
        case ops.PutFilter(number, program):
            return [Write(("filters", number), pack_program(program))]
        case ops.PutMirror(number, record):
            return [Write(("mirrors", number), record.pack())]
        case ops.PutList(number, mirrors):
            return [Write(("lists", number), pack_list(mirrors))]
        case ops.Clear("tunnels", number):
            generation = TunnelRecord.unpack(machine.record(("tunnels", number))).generation
            return [Write(("tunnels", number), TunnelRecord(generation, 0, 0, 0, ()).pack())]
        case ops.Clear(table, number):
            return [Write((table, number), bytes(SIZES[table]))]
    return []


def desired_state(machine: Machine, wanted: Wanted, name: str = "n1") -> tuple[State, Mapping[Identity, str]]:
    """What the agent would want of this machine, and the mirrors that found no room."""
    assignment = Assignment(machine.observe(), machine.facts())
    return assignment.state(wanted, name), assignment.full


def same(one: State, other: State) -> bool:
    """Equal but for the generations of free tunnels, which are memory, not desire."""
    fields = [item.name for item in dataclasses.fields(State) if item.name != "generations"]
    return all(getattr(one, name) == getattr(other, name) for name in fields)


def _relay_hooks(relay: Relay | None) -> tuple[Hook, ...]:
    return (Hook(relay.sender, Direction.EGRESS), Hook(relay.receiver, Direction.INGRESS)) if relay else ()
