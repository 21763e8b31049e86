"""The audit trail of a node: which mirror is copied from which interface from now on, and which no longer."""

from collections.abc import Iterator, Mapping

from sniffer.abi.records import Hook
from sniffer.model.identity import Identity
from sniffer.plan import ops
from sniffer.plan.cluster import Cluster
from sniffer.plan.facts import Facts
from sniffer.plan.ids import contents
from sniffer.plan.said import named
from sniffer.plan.state import Mirror, State, Wanted

Places = Mapping[Identity, frozenset[int]]
"""Ifindexes by mirror."""
MOST_PLACES, MOST_MIRRORS = 8, 100
"""As many are named in a line, and in one look."""


def places(wanted: Wanted) -> Places:
    """Where a plan mirrors; nothing of those for whom a table has no room."""
    full = {verdict.identity for verdict in wanted.verdicts if verdict.reason == "TableFull"}
    return {identity: found for identity, found in _places(wanted.hooks).items() if identity not in full}


def left(observed: State, now: Places) -> Places:
    """Where a former agent mirrored, and no mirror does now."""
    try:
        before = _places(contents(observed))
    except KeyError:
        return {}  # it is not whole, so nothing of it can be told
    return {identity: found - now.get(identity, frozenset()) for identity, found in before.items()}


def _places(hooks: Mapping[Hook, tuple[Mirror, ...]]) -> Places:
    found: dict[Identity, set[int]] = {}
    for hook, mirrors in hooks.items():
        for mirror in mirrors:
            found.setdefault(mirror.identity, set()).add(hook.ifindex)
    return {identity: frozenset(indexes) for identity, indexes in found.items()}


def names(facts: Facts, cluster: Cluster | None) -> Mapping[int, str]:
    """What to call interfaces: by name, and by the pod behind them."""
    pods = {pod.uid: f"{pod.namespace}/{pod.name}" for pod in cluster.pods} if cluster else {}
    behind = {
        index: pods[uid] for uid, binding in facts.bindings.items() if uid in pods for index in binding.interfaces
    }
    return {
        link.index: f"{link.name} (pod {behind[link.index]})" if link.index in behind else link.name
        for link in facts.links
    }


def changes(before: Places, after: Places, called: Mapping[int, str]) -> Iterator[str]:
    """A line for each mirror that has come to an interface or left one."""
    changed = sorted(one for one in {*before, *after} if before.get(one) != after.get(one))
    for identity in changed[:MOST_MIRRORS]:
        was, now = before.get(identity, frozenset()), after.get(identity, frozenset())
        for word, indexes in (("mirrors", now - was), ("no longer mirrors", was - now)):
            if indexes:
                found = sorted(called.get(index, f"ifindex {index}") for index in indexes)
                yield f"{identity} {word} {named(found[:MOST_PLACES], len(found), MOST_PLACES)}"
    if len(changed) > MOST_MIRRORS:
        yield f"{len(changed) - MOST_MIRRORS} more mirrors have changed"


_WRITTEN = {
    ops.PutEgress: "egress",
    ops.PutTunnel: "tunnels",
    ops.PutFilter: "filters",
    ops.PutMirror: "mirrors",
    ops.PutList: "lists",
    ops.SetHook: "hooks",
    ops.RemoveHook: "hooks",
}


def mended(plan: ops.Plan) -> str:
    """The tables that a plan writes into though all was as it should be, and nothing else is wished: somebody else has
    written there. "" where there are none.
    """
    tables = {op.table if isinstance(op, ops.Clear) else _WRITTEN.get(type(op), "") for op in plan}
    return ", ".join(sorted(tables - {""}))
