"""Observed and desired to a plan.

Entries are written leaf first and cleared root first, with a grace period between the last unlinking and the first
clearing, and another behind the clearing of tunnels: a plan cut off anywhere leaves every reference whole, and every
frame is decided by one version or the other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from sniffer.abi.limits import Direction, Guard, NameKind
from sniffer.abi.records import Hook
from sniffer.plan import ops
from sniffer.plan.facts import Mechanism, Relay
from sniffer.plan.state import State

SLOW_AT_ONCE = 2
"""The kernel takes some 15 ms for each where nobody else changes links, and far longer where pods come and go."""


def diff(observed: State, desired: State, programs: Mapping[int, str], *, beside: bool = False) -> ops.Plan:
    """The steps from one to the other; () when there are none. programs: names by id.

    beside: an agent of another ABI has left its programs at work, on the hooks and in the relay, which carries the
    copies of one of us alone. Ours do on every hook what they are to do, and lose what they clone, until the relay is
    taken by one step: the kernel takes milliseconds to return from each.
    """
    if desired.relay is None:
        return (ops.CreateRelay(),)
    begun: tuple[ops.Op, ...] = ()
    if beside and not observed.relay_word:
        there = {hook: desired.attachments[hook] for hook in desired.hooks}
        begun = (
            *_written(observed, desired),
            *(op for hook in there for op in _attach(observed, desired, hook, programs)),
            ops.SetRelay(desired.relay_word),
            *_hooks(replace(observed, attachments={**observed.attachments, **there}), desired, programs),
        )
        observed = replace(
            observed,
            attachments={**observed.attachments, **there},
            relay_word=desired.relay_word,
            hooks=desired.hooks,
            guards=desired.guards,
            stamps=desired.stamps,
            outers=observed.outers | desired.outers,
        )
    return (
        *begun,
        *_relay(observed, desired, programs),
        *_words(observed, desired),
        *(() if begun else _written(observed, desired)),
        *_hooks(observed, desired, programs),
        *_verdicts(observed, desired),
        # Nothing is copied there yet, or any more, and it takes long: who waits to be mirrored goes first.
        *_ahead(observed, desired, programs),
        *_detached(observed, desired, Mechanism.TCX),
        *_cleared(observed, desired),
    )


def removal(observed: State) -> ops.Plan:
    """The steps to an empty state, hooks first; relay and pins are the caller's."""
    desired = State(relay=observed.relay)
    hooks = *_hooks(observed, desired, {}), *_detached(observed, desired, Mechanism.TCX)
    return (*hooks, *_cleared(observed, desired))


def at_once(plan: ops.Plan, most: int = SLOW_AT_ONCE) -> ops.Plan:
    """As much of it as one look does, so that nobody who is to be mirrored waits behind the others for long; what is
    left is planned again.
    """
    slow = [place for place, op in enumerate(plan) if _is_slow(op)]
    return plan[: slow[most]] if len(slow) > most else plan


def _is_slow(op: ops.Op) -> bool:
    match op:
        case ops.Attach(ahead=True) | ops.Detach(mechanism=Mechanism.TCX, gone=False):
            return True
    return False


def _relay(observed: State, desired: State, programs: Mapping[int, str]) -> Iterator[ops.Op]:
    relay = desired.relay
    if relay is None:
        return
    if observed.relay and observed.relay.faults:
        yield ops.CreateRelay()
    if relay.ring is not None and (observed.relay is None or observed.relay.ring != relay.ring):
        yield ops.AttachRing(relay.receiver)
    for hook in _relay_hooks(relay):
        yield from _attach(observed, desired, hook, programs)
    if observed.relay_word != desired.relay_word:
        yield ops.SetRelay(desired.relay_word)


def _relay_hooks(relay: Relay) -> tuple[Hook, ...]:
    return Hook(relay.receiver, Direction.INGRESS), Hook(relay.sender, Direction.EGRESS)


def _words(observed: State, desired: State) -> Iterator[ops.Op]:
    """Of ids that exist; those of new ones are written before what they belong to."""
    for number, word in desired.paths.items():
        if number in observed.egress and observed.paths.get(number, 0) != word:
            yield ops.SetPath(number, word)
    for number, until_ns in desired.leases.items():
        if number in observed.mirrors and observed.leases.get(number, 0) != until_ns:
            yield ops.SetLease(number, until_ns)
    for number, word in desired.labels.items():
        if observed.labels.get(number, 0) != word:
            yield ops.SetLabel(number, word)


def _written(observed: State, desired: State) -> Iterator[ops.Op]:
    for key, text in desired.names.items():
        if key.kind != NameKind.VERDICT and observed.names.get(key) != text:
            yield ops.PutName(key, text)
    for number, record in desired.egress.items():
        if number not in observed.egress:
            yield ops.SetPath(number, desired.paths[number])
            yield ops.PutEgress(number, record)
    for number, budget in desired.budgets.items():
        if number not in observed.budgets:
            yield ops.PutBudget(number, budget)
    for number, tunnel in desired.tunnels.items():
        if number not in observed.tunnels:
            yield ops.PutTunnel(number, tunnel)
    for number, program in desired.filters.items():
        if number not in observed.filters:
            yield ops.PutFilter(number, program)
    yield from _mirrors(observed, desired)


def _mirrors(observed: State, desired: State) -> Iterator[ops.Op]:
    for number, mirror in desired.mirrors.items():
        if number not in observed.mirrors:
            yield ops.SetLease(number, desired.leases[number])
            yield ops.PutMirror(number, mirror)
    for number, mirrors in desired.lists.items():
        if number not in observed.lists:
            yield ops.PutList(number, mirrors)


def _hooks(observed: State, desired: State, programs: Mapping[int, str]) -> Iterator[ops.Op]:
    # Detached before it is forgotten: a clsact filter is found again by its hook.
    yield from _detached(observed, desired, Mechanism.CLSACT)
    for hook in observed.hooks:
        if hook not in desired.hooks:
            yield ops.RemoveHook(hook)
    # A copy is known before it can come, and for as long as it can.
    yield from (ops.PutOuter(key) for key in sorted(desired.outers - observed.outers))
    for hook, number in desired.hooks.items():
        guard = desired.guards.get(hook, Guard.NONE)
        stamps = hook in desired.stamps
        is_so = observed.guards.get(hook, Guard.NONE), hook in observed.stamps
        if observed.hooks.get(hook) != number or (guard, stamps) != is_so:
            yield ops.SetHook(hook, number, guard, stamps)
    for hook in desired.hooks:
        yield from _attach(observed, desired, hook, programs)


def _ahead(observed: State, desired: State, programs: Mapping[int, str]) -> Iterator[ops.Op]:
    others = {*desired.hooks, *(_relay_hooks(desired.relay) if desired.relay else ())}
    for hook in sorted(desired.attachments.keys() - others):
        for op in _attach(observed, desired, hook, programs):
            yield replace(op, ahead=True) if isinstance(op, ops.Attach) else op


def _detached(observed: State, desired: State, mechanism: Mechanism) -> Iterator[ops.Op]:
    for hook, found in observed.attachments.items():
        if hook not in desired.attachments and found.mechanism == mechanism:
            yield ops.Detach(hook, mechanism, gone=mechanism == Mechanism.TCX and not found.program)


def _attach(observed: State, desired: State, hook: Hook, programs: Mapping[int, str]) -> Iterator[ops.Op]:
    wanted, found = desired.attachments[hook], observed.attachments.get(hook)
    if found == wanted:
        return
    if found is not None and found.mechanism != wanted.mechanism:
        yield ops.Detach(hook, found.mechanism)
    yield ops.Attach(hook, wanted.mechanism, programs[wanted.program])


def _verdicts(observed: State, desired: State) -> Iterator[ops.Op]:
    for key, text in desired.names.items():
        if key.kind == NameKind.VERDICT and observed.names.get(key) != text:
            yield ops.PutName(key, text)


def _cleared(observed: State, desired: State) -> Iterator[ops.Op]:
    unlinked = [*_gone("lists", observed, desired), *_gone("mirrors", observed, desired)]
    # A word whose record was never written, by a plan that was cut off.
    unlinked += [
        ops.Clear("mirrors", n) for n in observed.leases if n not in observed.mirrors and n not in desired.leases
    ]
    unlinked += _gone("filters", observed, desired)
    tunnels = _gone("tunnels", observed, desired)
    egress = _gone("egress", observed, desired)
    egress += [ops.Clear("egress", n) for n in observed.paths if n not in observed.egress and n not in desired.paths]
    egress += _gone("budgets", observed, desired)
    labels = [ops.SetLabel(n, 0) for n in observed.labels if n not in desired.labels]
    removed: list[ops.Op] = [ops.RemoveName(key) for key in observed.names if key not in desired.names]
    removed += [ops.RemoveOuter(key) for key in sorted(observed.outers - desired.outers)]
    if not (unlinked or tunnels or egress or labels or removed):
        return
    yield ops.Grace()
    yield from (*unlinked, *tunnels)
    if tunnels:
        # A copy in the relay finds its tunnel by the number that it carries until that is cleared: only then does
        # nothing come to the endpoints any more, and the number is free.
        yield ops.Grace()
    yield from egress
    yield from labels
    yield from removed


def _gone(table: str, observed: State, desired: State) -> list[ops.Clear]:
    return [ops.Clear(table, number) for number in getattr(observed, table) if number not in getattr(desired, table)]
