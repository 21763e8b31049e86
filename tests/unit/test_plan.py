"""The plan's four properties: it converges, is idempotent, is safe after every op, and converges after any crash."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sniffer.abi import limits
from sniffer.abi.limits import Direction, Encapsulation, Guard, NameKind, OuterKind, PathWord
from sniffer.abi.records import BudgetRecord, EgressRecord, Hook, Instruction, NameKey, OuterKey, Program
from sniffer.model.identity import Identity
from sniffer.plan import ops
from sniffer.plan.diff import diff, removal
from sniffer.plan.facts import Mechanism
from sniffer.plan.ids import contents
from sniffer.plan.names import identity_of
from sniffer.plan.state import Mirror, State, Tunnel, Verdict, Wanted
from tests.planning import LEASE_NS, Machine, desired_state, same, writes

ROUNDS = 4
RETURN, RULE = 0x06, 0x1000


def egress(number: int, mtu: int = 1500, ifindex: int = 7) -> EgressRecord:
    """An endpoint of its own by number; a route that changes makes another record of it."""
    template = bytes(12) + bytes([8, 0, 0x45]) + bytes(15) + bytes([10, 9, 0, number]) + bytes(16)
    return EgressRecord(ifindex, mtu, bytes([10, 9, 0, number]).ljust(16, b"\0"), 1000 + number, 2, template)


def program(number: int) -> Program:
    """Different ones; some begin alike, and one ends in an instruction that is almost zero."""
    rule = Instruction(RULE, 1, 0, 0)
    loads = tuple(Instruction(0x28, 0, 0, k) for k in range(number))
    return (rule, *loads, Instruction(RETURN, 0, 0, 262144))


def tunnel(target: str = "ana", endpoints: tuple[EgressRecord, ...] = (egress(2),), **fields: Any) -> Tunnel:
    values = {"encapsulation": Encapsulation.VXLAN, "oversize": 0, "snap_length": 0} | fields
    return Tunnel(target=target, endpoints=endpoints, **values)


def identity(name: str) -> Identity:
    return Identity("ClusterTrafficMirror", None, name)


def mirror(name: str = "all", filter: Program = (), snap: int = 0, tunnels: tuple[Tunnel, ...] = ()) -> Mirror:
    return Mirror(identity(name), filter, snap, tunnels or (tunnel(),))


def wanted(hooks: Mapping[Hook, tuple[Mirror, ...]], word: PathWord = PathWord.REACHABLE) -> Wanted:
    """With a verdict for each mirror, and every path in one state."""
    mirrors = {one.identity: one for row in hooks.values() for one in row}
    paths = {record: word for one in mirrors.values() for t in one.tunnels for record in t.endpoints}
    return Wanted(dict(hooks), paths, tuple(Verdict(name, "Programmed") for name in sorted(mirrors)))


IN, OUT = Hook(10, Direction.INGRESS), Hook(10, Direction.EGRESS)


# ---- generators ----

HOOKS = st.builds(Hook, st.integers(10, 12), st.sampled_from(Direction))
ENDPOINTS = st.builds(egress, st.integers(2, 5), st.sampled_from([1500, 1400]), st.sampled_from([7, 8]))
PROGRAM = st.one_of(st.just(()), st.integers(0, 3).map(program))
MIRRORS = ("m0", "m1", "m2", "m3", "m4")
GUARDS = st.sampled_from([Guard.NODE, Guard.ANALYZER, Guard.REFUSALS])
OUTERS = tuple(OuterKey(kind, bytes(12) + b"\x0a\x09\x00\x02", 17, 4789, 42) for kind in OuterKind)


BUDGETS = st.one_of(
    st.none(), st.builds(BudgetRecord, st.just(1), st.integers(0, 1), st.integers(0, 1), st.just(0), st.just(0))
)


@st.composite
def tunnels(draw: st.DrawFn, target: str) -> Tunnel:
    return Tunnel(
        target,
        draw(st.sampled_from([Encapsulation.VXLAN, Encapsulation.GRE])),
        draw(st.integers(0, 1)),
        draw(st.sampled_from([0, 64])),
        tuple(draw(st.lists(ENDPOINTS, min_size=1, max_size=3, unique=True))),
        draw(BUDGETS),
    )


@st.composite
def wishes(draw: st.DrawFn) -> Wanted:
    """Hooks that share mirrors, or have none; mirrors that share filters and tunnels, tunnels that share endpoints."""
    targets = [draw(tunnels(f"t{n}")) for n in range(3)]
    chosen = st.lists(st.sampled_from(targets), min_size=1, max_size=2, unique=True).map(tuple)
    mirrors = {
        name: Mirror(
            identity(name),
            draw(PROGRAM),
            draw(st.sampled_from([0, 96])),
            draw(chosen),
            draw(st.integers(0, 1)),
            0,
            draw(BUDGETS),
        )
        for name in MIRRORS
    }
    rows = st.lists(st.sampled_from(MIRRORS), max_size=4, unique=True)
    hooks = draw(st.dictionaries(HOOKS, rows, max_size=5))
    placed = {hook: tuple(mirrors[name] for name in row) for hook, row in hooks.items()}
    used = {record for row in placed.values() for one in row for t in one.tunnels for record in t.endpoints}
    words = st.sampled_from([PathWord.REACHABLE, PathWord.UNREACHABLE, PathWord.NO_ROUTE])
    states = st.sampled_from(["Programmed", "Degraded"])
    outers = draw(st.frozensets(st.sampled_from(OUTERS)))
    named = {name for row in hooks.values() for name in row} | set(draw(st.lists(st.sampled_from(MIRRORS))))
    ahead = draw(st.frozensets(HOOKS, max_size=2)) - hooks.keys()
    return Wanted(
        placed,
        {record: draw(words) for record in sorted(used, key=repr)},
        tuple(Verdict(identity(name), draw(states)) for name in sorted(named)),
        draw(st.dictionaries(st.sampled_from(sorted(placed)), GUARDS)) if placed else {},
        outers,
        ahead=ahead,
    )


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """A machine with a history: up to two former wishes, each carried out or cut off."""
    machine = Machine(mechanism=draw(st.sampled_from(Mechanism)))
    for _ in range(draw(st.integers(0, 2))):
        crash(machine, draw(wishes()), draw)
        happen(machine, draw)
    return machine


def crash(machine: Machine, wish: Wanted, draw: st.DrawFn) -> None:
    """Carries out a wish until somewhere: in some plan, after some op, in the middle of a write."""
    for _ in range(ROUNDS):
        plan = plan_of(machine, wish)
        cut = draw(st.one_of(st.none(), st.integers(0, len(plan))))
        for op in plan[:cut]:
            machine.apply(op)
            machine.count()
        if cut is not None:
            if cut < len(plan):
                machine.tear(plan[cut], 8 * draw(st.integers(0, 13)), draw(st.booleans()))
            return


def happen(machine: Machine, draw: st.DrawFn) -> None:
    """Time passes, and the world changes."""
    machine.now_ns += draw(st.sampled_from([0, LEASE_NS // 4, LEASE_NS // 2, 2 * LEASE_NS]))
    event = draw(st.integers(0, 6))
    if event == 0:
        machine.lose_interface(draw(st.integers(10, 12)))
    elif event == 1:
        machine.lose_relay(draw(st.sampled_from([None, 20])))
    elif event == 2:
        machine.generation_of_programs += 1
    elif event == 3:
        machine.mechanism = draw(st.sampled_from(Mechanism))


def plan_of(machine: Machine, wish: Wanted, name: str = "n1") -> ops.Plan:
    desired, full = desired_state(machine, wish, name)
    assert not full
    return diff(machine.observe(), desired, machine.program_names())


def settle(machine: Machine, wish: Wanted) -> list[ops.Plan]:
    """Plans until there is nothing to do."""
    plans = []
    for _ in range(ROUNDS):
        plan = plan_of(machine, wish)
        if not plan:
            return plans
        plans.append(plan)
        for op in plan:
            machine.apply(op)
    raise AssertionError(f"still something to do: {plan}")


def is_whole(machine: Machine, wish: Wanted) -> None:
    """The programs do what was wished, nothing is left of what was not."""
    state = machine.observe()
    assert machine.delivers() == contents(state) == dict(wish.hooks)
    found = machine.reachable()
    for table in ("lists", "mirrors", "filters", "tunnels", "egress"):
        assert {number for name, number in found if name == table} == set(getattr(state, table)), table
    assert set(state.leases) == set(state.mirrors)
    assert set(state.paths) == set(state.egress)
    for number, record in state.egress.items():
        assert state.paths[number] == wish.paths[record]
    verdicts = {identity_of(text) for key, text in state.names.items() if key.kind == NameKind.VERDICT}
    assert verdicts == {verdict.identity for verdict in wish.verdicts}
    counters = [identity_of(text) for key, text in state.names.items() if key.kind == NameKind.COUNTER]
    assert len(counters) == len(set(counters))
    assert set(counters) <= verdicts | {one.identity for row in wish.hooks.values() for one in row}
    assert {key.id for key in state.names if key.kind == NameKind.TUNNEL} == set(state.tunnels)
    assert state.relay_word == state.relay.sender
    programs = machine.programs()
    ahead = wish.ahead if machine.mechanism == Mechanism.TCX else ()
    taps = {hook: programs[("tap_ingress", "tap_egress")[hook.direction]] for hook in (*wish.hooks, *ahead)}
    ends = {
        Hook(state.relay.sender, Direction.EGRESS): programs["encap"],
        Hook(state.relay.receiver, Direction.INGRESS): programs["encap_frame"],
    }
    ours, others = machine.links, machine.filters
    if machine.mechanism == Mechanism.CLSACT:
        ours, others = others, ours
    assert ours == taps | ends
    assert not others


# ---- the four properties ----

thorough = settings(max_examples=200)


@thorough
@given(machines(), wishes())
def test_converges(machine: Machine, wish: Wanted) -> None:
    while machine.relay is None:
        for op in plan_of(machine, wish):
            machine.apply(op)
    desired, _ = desired_state(machine, wish)
    for op in diff(machine.observe(), desired, machine.program_names()):
        machine.apply(op)
    assert same(machine.observe(), desired)
    is_whole(machine, wish)


@thorough
@given(machines(), wishes())
def test_is_idempotent(machine: Machine, wish: Wanted) -> None:
    machine.now_ns += LEASE_NS  # every lease is renewed now: a quarter later none is due
    settle(machine, wish)
    assert plan_of(machine, wish) == ()
    machine.now_ns += LEASE_NS // 4
    assert plan_of(machine, wish) == ()


@given(machines(), wishes())
def test_every_op_may_be_repeated(machine: Machine, wish: Wanted) -> None:
    for _ in range(ROUNDS):
        for op in plan_of(machine, wish):
            machine.apply(op)
            once = machine.observe()
            if not isinstance(op, ops.CreateRelay):
                machine.apply(op)
            assert machine.observe() == once
    is_whole(machine, wish)


@thorough
@given(machines(), wishes(), st.data())
def test_every_prefix_is_safe(machine: Machine, wish: Wanted, data: st.DataObject) -> None:
    """A2: after each op every hook has its old mirrors or its new ones. That nothing a program may be reading is
    rewritten, and that no id is used again before it was cleared after a grace period, the machine asserts itself.
    """
    settle(machine, data.draw(wishes()))
    machine.now_ns += data.draw(st.sampled_from([0, LEASE_NS // 2]))
    former, new = machine.delivers(), dict(wish.hooks)
    words = dict(machine.observe().paths)
    for _ in range(ROUNDS):
        for op in plan_of(machine, wish):
            free = _free(machine)
            machine.apply(op)
            machine.count()
            assert not _taken(op) or _taken(op) in free, f"{op} takes an id that was not cleared"
            now = machine.delivers()
            assert now == contents(machine.observe())
            for hook in former.keys() | new.keys() | now.keys():
                assert now.get(hook) in (former.get(hook), new.get(hook))
            for number, record in machine.observe().egress.items():
                assert machine.words["paths", number] in (words.get(number), wish.paths.get(record))
    is_whole(machine, wish)
    for number, who in machine.counted.items():
        text = machine.names.get(NameKey(NameKind.COUNTER, number))
        assert text is None or who == {identity_of(text)}, "a counter has frames of another mirror"


def _free(machine: Machine) -> set[tuple[str, int]]:
    state = machine.observe()
    tables = ("lists", "mirrors", "filters", "tunnels", "egress")
    return {(table, n) for table in tables for n in range(1, 64) if n not in getattr(state, table)}


def _taken(op: ops.Op) -> tuple[str, int] | None:
    puts = {
        ops.PutEgress: "egress",
        ops.PutTunnel: "tunnels",
        ops.PutFilter: "filters",
        ops.PutMirror: "mirrors",
        ops.PutList: "lists",
    }
    return (puts[type(op)], op.id) if type(op) in puts else None


@given(machines(), wishes())
def test_what_is_unlinked_is_cleared_after_a_grace_period(machine: Machine, wish: Wanted) -> None:
    for _ in range(ROUNDS):
        plan = plan_of(machine, wish)
        for op in plan:
            machine.apply(op)
        clears = [n for n, op in enumerate(plan) if isinstance(op, ops.Clear)]
        unlinks = [n for n, op in enumerate(plan) if isinstance(op, ops.SetHook | ops.RemoveHook)]
        graces = [n for n, op in enumerate(plan) if isinstance(op, ops.Grace)]
        if clears:
            assert max(unlinks, default=-1) < graces[0] < clears[0]


@thorough
@given(machines(), st.data())
def test_crash_and_converge(machine: Machine, data: st.DataObject) -> None:
    """A2, E1: cut off anywhere, in the middle of a write too; then the same wish or another."""
    wish = data.draw(wishes())
    crash(machine, wish, data.draw)
    machine.now_ns += data.draw(st.sampled_from([0, LEASE_NS // 2, 2 * LEASE_NS]))
    other = data.draw(st.one_of(st.just(wish), wishes()))
    settle(machine, other)
    is_whole(machine, other)


OLD = wanted({
    IN: (mirror("a", program(1)), mirror("b", program(2)), mirror("c")),
    OUT: (mirror("b", program(2)),),
})  # fmt: skip
NEW = wanted({
    IN: (mirror("a", program(2), 96), mirror("d", program(3), tunnels=(tunnel("bob", (egress(3), egress(4))),))),
    Hook(11, Direction.EGRESS): (mirror("d", program(3), tunnels=(tunnel("bob", (egress(3), egress(4))),)),),
})  # fmt: skip
NEITHER = wanted({
    IN: (mirror("b", program(2)), mirror("c"), mirror("e", program(0), tunnels=(tunnel("bob", (egress(4),)),))),
    OUT: (mirror("c"),),
})  # fmt: skip


@pytest.mark.parametrize("other", [OLD, NEW, NEITHER, wanted({})], ids=["old", "new", "neither", "nothing"])
def test_crash_anywhere_and_converge(other: Wanted) -> None:
    """A2, E1: every op of one edit, every place in its write, from either end."""
    machine = Machine()
    settle(machine, OLD)
    plan = plan_of(machine, NEW)
    for op in plan:
        whole = [write.octets for write in writes(machine, op)]
        ends = range(0, min(len(whole[0]), 112), 8) if whole else [0]
        for length, from_front in product(ends, (True, False)):
            dead = deepcopy(machine)
            dead.tear(op, length, from_front)
            dead.now_ns += 2 * LEASE_NS
            settle(dead, other)
            is_whole(dead, other)
        machine.apply(op)
    is_whole(machine, NEW)


@given(machines())
def test_removal_leaves_nothing(machine: Machine) -> None:
    for op in removal(machine.observe()):
        machine.apply(op)
    state = machine.observe()
    assert same(state, State(relay=machine.relay, relay_word=machine.relay_word))
    assert not machine.links
    assert not machine.counted
    if machine.relay:
        assert not machine.filters or machine.mechanism == Mechanism.TCX
    assert removal(state) == ()


# ---- one by one ----


def test_equal_contents_share_an_id() -> None:
    machine = Machine()
    one, two = mirror("a", program(1)), mirror("b", program(1))
    settle(machine, wanted({IN: (one, two), OUT: (one, two)}))
    state = machine.observe()
    assert len(state.lists) == len(state.filters) == len(state.tunnels) == len(state.egress) == 1
    assert len(state.mirrors) == 2
    assert state.hooks[IN] == state.hooks[OUT]


def test_what_has_not_changed_keeps_its_ids() -> None:
    """An edit of one mirror writes that mirror and its list, and touches nothing of the other."""
    machine = Machine()
    kept, edited = mirror("kept", program(1)), mirror("edited", program(2))
    settle(machine, wanted({IN: (kept, edited), OUT: (kept,)}))
    before = machine.observe()
    (plan,) = settle(machine, wanted({IN: (kept, mirror("edited", program(3))), OUT: (kept,)}))
    kinds = [type(op).__name__ for op in plan]
    assert kinds == ["PutFilter", "SetLease", "PutMirror", "PutList", "SetHook", "Grace", *["Clear"] * 3]
    after = machine.observe()
    assert after.hooks[OUT] == before.hooks[OUT]
    assert after.tunnels == before.tunnels
    assert after.names == before.names, "a counter survives edits"


def test_a_mirror_that_rests_keeps_its_counter() -> None:
    """Suspended: no place in the kernel, but its counts are not another's meanwhile, nor lost."""
    machine = Machine()
    settle(machine, wanted({IN: (mirror("a"),)}))
    before = counters(machine)
    settle(machine, Wanted({}, {}, (Verdict(identity("a"), "Suspended"),)))
    assert counters(machine) == before
    settle(machine, wanted({IN: (mirror("b"), mirror("a", program(1)))}))
    assert counters(machine).items() > before.items()
    settle(machine, wanted({IN: (mirror("b"),)}))
    assert set(counters(machine)) == {identity("b")}


def counters(machine: Machine) -> dict[Identity | None, int]:
    """Counter ids by whose they are."""
    return {identity_of(text): key.id for key, text in machine.names.items() if key.kind == NameKind.COUNTER}


def test_a_path_is_one_word() -> None:
    machine = Machine()
    settle(machine, wanted({IN: (mirror(),)}))
    plans = settle(machine, wanted({IN: (mirror(),)}, PathWord.UNREACHABLE))
    assert plans == [(ops.SetPath(1, PathWord.UNREACHABLE),)]


def test_a_hook_that_only_watches() -> None:
    """Its word says so, no list does; and it goes like any other."""
    machine = Machine()
    wish = wanted({IN: (mirror(),)})
    settle(machine, wish)
    watch = Hook(12, Direction.INGRESS)
    more = replace(wish, hooks={**wish.hooks, watch: ()}, guards={watch: Guard.REFUSALS}, outers=frozenset(OUTERS))
    ((*known, word, attached),) = settle(machine, more)
    assert (word, known) == (ops.SetHook(watch, 0, Guard.REFUSALS), [ops.PutOuter(key) for key in sorted(OUTERS)])
    assert attached == ops.Attach(watch, Mechanism.TCX, "tap_ingress")
    plans = settle(machine, wish)
    assert set(plans[0][:2]) == {ops.Detach(watch, Mechanism.TCX), ops.RemoveHook(watch)}


def test_a_lease_is_renewed_when_a_third_of_it_is_over() -> None:
    machine = Machine()
    wish = wanted({IN: (mirror(),)})
    settle(machine, wish)
    machine.now_ns += LEASE_NS // 3 - 1
    assert plan_of(machine, wish) == ()
    machine.now_ns += 2
    assert plan_of(machine, wish) == (ops.SetLease(1, machine.now_ns + LEASE_NS),)


def test_a_lease_from_a_longer_setting_is_shortened() -> None:
    machine = Machine()
    wish = wanted({IN: (mirror(),)})
    settle(machine, wish)
    machine.words["leases", 1] = machine.now_ns + 100 * LEASE_NS
    assert plan_of(machine, wish) == (ops.SetLease(1, machine.now_ns + LEASE_NS),)


def test_a_tunnel_used_again_has_another_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a copy crosses the relay no other tunnel gets its number and generation."""
    monkeypatch.setattr(limits, "TUNNELS_MAX", 4)
    monkeypatch.setattr(limits, "GENERATIONS", 16)
    machine = Machine()
    last: dict[tuple[int, int], int] = {}
    apart = []
    for edit in range(200):
        settle(machine, wanted({IN: (mirror(tunnels=(tunnel(f"t{edit}"),)),)}))
        ((number, record),) = machine.observe().tunnels.items()
        place = (number, record.generation)
        if place in last:
            apart.append(edit - last[place])
        last[place] = edit
    assert apart
    assert min(apart) >= limits.GENERATIONS


def test_a_relay_that_is_not_there_is_made_first() -> None:
    assert plan_of(Machine(), wanted({IN: (mirror(),)})) == (ops.CreateRelay(),)


def test_a_relay_with_faults_is_repaired() -> None:
    machine = Machine()
    wish = wanted({IN: (mirror(),)})
    settle(machine, wish)
    machine.relay = replace(machine.relay, faults=("mtu 1500",))
    assert plan_of(machine, wish) == (ops.CreateRelay(),)


# ---- tables that are full ----

SMALL = {
    "EGRESS_MAX": "egress",
    "TUNNELS_MAX": "tunnels",
    "FILTERS_MAX": "filters",
    "MIRRORS_MAX": "mirrors",
    "LISTS_MAX": "lists",
    "COUNTERS_MAX": "counters",
}


def _different(count: int) -> list[Mirror]:
    """Mirrors that share nothing."""
    return [
        mirror(f"m{n:02}", program(n), 0, (tunnel(f"t{n:02}", (egress(n),), snap_length=100 + n),))
        for n in range(count)
    ]


@pytest.mark.parametrize("limit", SMALL)
def test_a_full_table_names_the_mirrors_that_found_no_room(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, limit, 4)  # id 0 is none: room for three
    machine = Machine()
    mirrors = _different(5)
    wish = wanted({Hook(10 + n, Direction.INGRESS): (one,) for n, one in enumerate(mirrors)})
    _settle_full(machine, wish)
    _, full = desired_state(machine, wish)
    assert full == {one.identity: SMALL[limit] for one in mirrors[3:]}
    assert machine.delivers() == {Hook(10 + n, Direction.INGRESS): (one,) for n, one in enumerate(mirrors[:3])}


@pytest.mark.parametrize("limit", [name for name in SMALL if name != "LISTS_MAX"])
def test_a_mirror_without_room_stops_no_other_on_its_hook(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, limit, 4)
    machine = Machine()
    mirrors = _different(5)
    _settle_full(machine, wanted({IN: tuple(mirrors)}))
    assert machine.delivers() == {IN: tuple(mirrors[:3])}


@pytest.mark.parametrize("limit", SMALL)
def test_room_is_found_again(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything changes in a table that is full: after a few looks all of the new is there."""
    monkeypatch.setattr(limits, limit, 4)
    machine = Machine()
    mirrors = _different(6)
    for chosen in (mirrors[:3], mirrors[3:], mirrors[1:4]):
        wish = wanted({Hook(10 + n, Direction.INGRESS): (one,) for n, one in enumerate(chosen)})
        _settle_full(machine, wish)
        is_whole(machine, wish)


def _settle_full(machine: Machine, wish: Wanted) -> None:
    for _ in range(ROUNDS):
        desired, _ = desired_state(machine, wish)
        plan = diff(machine.observe(), desired, machine.program_names())
        if not plan:
            return
        for op in plan:
            machine.apply(op)
            machine.delivers()
    raise AssertionError(f"still something to do: {plan}")
