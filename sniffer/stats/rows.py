"""Counters and state to the rows that status, metrics and tests all show. The shape is a contract: people script
against it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sniffer.abi.limits import LEASE_HELD, LEASE_WATCHED, NameKind, Outcome, PathWord
from sniffer.abi.records import Hook, MirrorRecord, NameKey, Tally
from sniffer.model.identity import Identity
from sniffer.plan.facts import Link, PathState, Relay
from sniffer.plan.names import identity_of, node_of, verdict_of
from sniffer.plan.rejecting import watching
from sniffer.plan.state import State, Verdict
from sniffer.plan.template import address_of, nexthop_of, source_of
from sniffer.stats import limits

Row = dict[str, Any]

DROPS = {o.name.removeprefix("DROPPED_").lower(): o for o in Outcome if o.name.startswith("DROPPED_")}
LOSSES = {o.name.removeprefix("LOST_").lower(): o for o in Outcome if o.name.startswith("LOST_")}
_PATHS: Mapping[int, str] = {
    PathWord.REACHABLE: PathState.REACHABLE,
    PathWord.UNREACHABLE: PathState.UNREACHABLE,
    PathWord.REJECTING: "rejecting",
}
_ZERO = (Tally(0, 0),) * len(Outcome)


@dataclass(frozen=True, slots=True)
class Look:
    """What status is made of: one look at the pins and the node."""

    state: State
    counters: Mapping[int, tuple[Tally, ...]]
    """By counter id, a tally per Outcome."""
    links: tuple[Link, ...]
    ahead: Mapping[Hook, tuple[int, ...]]
    """Programs that run before ours, by hook; ids."""
    now_ns: int
    running: bool


def status(look: Look) -> Row:
    """The whole of `sniffer status --json`."""
    node = node_of(look.state.names.get(NameKey(NameKind.NODE, 0), ""))
    agent = {
        "state": "running" if look.running else "absent",
        "pid": node.get("pid") if look.running else None,
        "version": node.get("version"),
    }
    skipped = look.counters.get(0, _ZERO)[Outcome.SKIPPED]
    return {
        "node": node.get("node"),
        "agent": agent,
        "mirrors": mirror_rows(look),
        "hooks": hook_rows(look),
        "skipped": _both(skipped),
        "watching": _watching(look),
    }


def mirror_rows(look: Look) -> list[Row]:
    """One row per mirror that the last agent knew of."""
    names = look.state.names
    verdicts = [v for key, text in names.items() if key.kind == NameKind.VERDICT and (v := verdict_of(text))]
    counters = {
        identity: key.id
        for key, text in names.items()
        if key.kind == NameKind.COUNTER and (identity := identity_of(text))
    }
    linked = _linked(look.state)
    return [
        _mirror_row(look, verdict, counters.get(verdict.identity), linked)
        for verdict in sorted(verdicts, key=lambda verdict: verdict.identity)
    ]


def _linked(state: State) -> dict[int, list[int]]:
    """The mirror ids that some hook leads to, by counter."""
    found: dict[int, list[int]] = {}
    for mirror in {mirror for number in state.hooks.values() for mirror in state.lists.get(number, ())}:
        if mirror in state.mirrors:
            found.setdefault(state.mirrors[mirror].counter, []).append(mirror)
    return found


def _mirror_row(look: Look, verdict: Verdict, counter: int | None, linked: Mapping[int, list[int]]) -> Row:
    ids = linked.get(counter, []) if counter else []
    left_ns = min((_until(look.state, number) - look.now_ns for number in ids), default=0)
    state, reason, message = verdict.state, verdict.reason, verdict.message
    missing = _missing(look, set(ids))
    if state == "Programmed" and missing:
        state, reason, message = "Degraded", "HookMissing", f"not attached: {', '.join(missing)}"
    if ids and left_ns <= 0:
        state, reason, message = "Suspended", "LeaseEnded", "no agent has renewed it"
    tallies = look.counters.get(counter, _ZERO) if counter else _ZERO
    record = look.state.mirrors[ids[0]] if ids else None
    return {
        **_identity(verdict.identity),
        "state": state,
        "reason": reason,
        "message": message,
        "interfaces": list(verdict.interfaces),
        "lease_s": round(max(left_ns, 0) / 1e9, 1),
        **limits.of_mirror(look.state, record),
        "targets": _targets(look, verdict, record),
        **_tallies(tallies),
    }


def _until(state: State, mirror: int) -> int:
    return state.leases.get(mirror, 0) & ~(LEASE_HELD | LEASE_WATCHED)


def _missing(look: Look, ids: set[int]) -> list[str]:
    """The hooks that lead to one of these mirrors and have no program of ours."""
    names = {link.index: link.name for link in look.links}
    return [
        f"{names.get(hook.ifindex, hook.ifindex)} {hook.direction.name.lower()}"
        for hook, number in sorted(look.state.hooks.items())
        if ids & set(look.state.lists.get(number, ()))
        and not (hook in look.state.attachments and look.state.attachments[hook].program)
    ]


def _tallies(tallies: tuple[Tally, ...]) -> Row:
    losses = {reason: tallies[outcome].packets for reason, outcome in LOSSES.items()}
    # What went into the relay and did not come out, once it is empty.
    losses["no_memory"] += max(tallies[Outcome.RELAYED].packets - tallies[Outcome.ARRIVED].packets, 0)
    return {
        "matched": _both(tallies[Outcome.MATCHED]),
        "sent": _both(tallies[Outcome.SENT]),
        "dropped": {reason: tallies[outcome].packets for reason, outcome in DROPS.items()},
        "truncated": _both(tallies[Outcome.TRUNCATED]),
        "wire": _both(tallies[Outcome.WIRE]),
        "lost": losses,
        "undecided": tallies[Outcome.TURNS].packets,
    }


def _targets(look: Look, verdict: Verdict, record: MirrorRecord | None) -> list[Row]:
    if record is None:
        return [{"name": name, "endpoints": []} for name in verdict.targets]
    names = {link.index: link.name for link in look.links}
    state = look.state
    return [
        {
            "name": state.names.get(NameKey(NameKind.TUNNEL, tunnel), ""),
            **limits.of_target(state, state.tunnels[tunnel]),
            "endpoints": [_endpoint(state, e, names) for e in state.tunnels[tunnel].endpoints if e in state.egress],
        }
        for tunnel in record.tunnels
        if tunnel in state.tunnels
    ]


def _endpoint(state: State, number: int, names: Mapping[int, str]) -> Row:
    record = state.egress[number]
    path = _PATHS.get(state.paths.get(number, 0), PathState.NO_ROUTE)
    known = path != PathState.NO_ROUTE
    return {
        "address": address_of(record),
        "device": names.get(record.ifindex) if known else None,
        "source": source_of(record) if known else None,
        "nexthop": nexthop_of(record) if known else None,
        "mtu": record.mtu if known else None,
        "state": str(path),
    }


def hook_rows(look: Look) -> list[Row]:
    """One row per hook in use; the relay's are left out, and those that only watch."""
    names = {link.index: link.name for link in look.links}
    relay, watches = relay_ifindexes(look.state.relay), watching(look.state)
    found = look.state.hooks.keys() | look.state.attachments.keys()
    hooks = sorted(hook for hook in found if hook.ifindex not in relay and hook not in watches)
    return [_hook_row(look, hook, names.get(hook.ifindex)) for hook in hooks]


def _watching(look: Look) -> list[str]:
    """Interfaces of the node where we look, for seconds, whether copies come back as ICMP errors."""
    names = {link.index: link.name for link in look.links}
    return [names[hook.ifindex] for hook in watching(look.state) if hook.ifindex in names]


def relay_ifindexes(relay: Relay | None) -> tuple[int, ...]:
    """Of the interfaces that are ours."""
    return (relay.sender, relay.receiver) if relay else ()


def _hook_row(look: Look, hook: Hook, name: str | None) -> Row:
    attachment = look.state.attachments.get(hook)
    ahead = look.ahead.get(hook, ())
    attached = attachment is not None and attachment.program and name is not None
    return {
        "interface": name,
        "ifindex": hook.ifindex,
        "direction": hook.direction.name.lower(),
        "attachment": str(attachment.mechanism) if attachment else None,
        "state": "missing" if not attached else "bypassed" if ahead else "attached",
        "ahead": list(ahead),
    }


def _identity(identity: Identity) -> Row:
    return {"kind": identity.kind, "namespace": identity.namespace, "name": identity.name}


def _both(tally: Tally) -> Row:
    return {"packets": tally.packets, "bytes": tally.bytes}


def unsettled(counters: Iterable[tuple[Tally, ...]]) -> int:
    """Frames that went into the relay and have not come out: on their way, or lost."""
    return sum(tallies[Outcome.RELAYED].packets - tallies[Outcome.ARRIVED].packets for tallies in counters)
