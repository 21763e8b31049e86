"""One look at a node -> the series that Prometheus gets. Labels are bounded: who finds no place is part of `OTHER`."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from sniffer.model.identity import Identity
from sniffer.plan.state import State
from sniffer.stats import catalogue
from sniffer.stats.catalogue import OTHER, TABLES, Metric
from sniffer.stats.rows import Look, Row, status

MIRRORS_LIMIT = 256
ENDPOINTS_LIMIT = 256
INTERFACES_LIMIT = 512

Labels = tuple[str, ...]
Series = dict[Metric, dict[Labels, float]]
_Counts = dict[tuple[Metric, Labels], int]

_OTHERS: Labels = (OTHER, OTHER, OTHER)
_RELAY_LOSSES = (catalogue.LOST, ("no_memory",))


class Named(StrEnum):
    """What has a name in labels."""

    ALL = "all"
    MIRRORS = "mirrors"
    """And targets; no interfaces."""
    NONE = "none"


class Ledger:
    """What one scrape leaves for the next.

    A mirror that has series of its own keeps them while it lives, and one that has none gets none: so the sum of the
    others only rises, also when one of them goes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._named: set[Identity] = set()
        self._last: dict[Identity, _Counts] = {}
        self._others: _Counts = {}
        self._relay_losses: dict[Identity, tuple[int, int]] = {}
        """As last counted, and as last told."""

    def take(self, rows: Sequence[Row]) -> tuple[dict[Identity, _Counts], _Counts]:
        """The counters of mirrors with series of their own, and the sums of the others; {}: there were never any."""
        counts = {_identity(row): _counts(row) for row in rows}
        for identity, found in counts.items():
            before = self._last.get(identity, {})
            if found[catalogue.MATCHED, ()] < before.get((catalogue.MATCHED, ()), 0):
                del self._last[identity], self._relay_losses[identity]  # another of the same name
            self._settle(identity, found)
        self._named &= counts.keys()
        new = [identity for identity in counts if identity not in self._named and identity not in self._last]
        self._named |= set(new[: max(self._limit - len(self._named), 0)])
        for identity in counts.keys() - self._named:
            before = self._last.get(identity, {})
            for key, value in counts[identity].items():
                self._others[key] = self._others.get(key, 0) + max(value - before.get(key, 0), 0)
        self._last = counts
        self._relay_losses = {one: told for one, told in self._relay_losses.items() if one in counts}
        return {identity: counts[identity] for identity in counts if identity in self._named}, self._others

    def named(self, identity: Identity) -> bool:
        """Whether it has series of its own, as of the last `take`."""
        return identity in self._named

    def _settle(self, identity: Identity, found: _Counts) -> None:
        """What went into the relay and has not come out is lost, or on its way: the lesser of two looks is told.

        A counter that falls by a few would look to Prometheus like one that began anew.
        """
        now = found[_RELAY_LOSSES]
        last, told = self._relay_losses.get(identity, (now, 0))
        told = max(told, min(last, now))
        self._relay_losses[identity] = now, told
        found[_RELAY_LOSSES] = told


class NodeSeries:
    """`of` one look after another."""

    def __init__(
        self,
        named: Named = Named.ALL,
        mirrors: int = MIRRORS_LIMIT,
        endpoints: int = ENDPOINTS_LIMIT,
        interfaces: int = INTERFACES_LIMIT,
    ) -> None:
        """named: what has a name in labels; the others: how many of each at most."""
        self._ledger = Ledger(0 if named is Named.NONE else mirrors)
        self._endpoints = 0 if named is Named.NONE else endpoints
        self._interfaces = interfaces if named is Named.ALL else 0

    def of(self, look: Look) -> Series:
        """Every metric of catalogue.NODE, each with its series."""
        rows = status(look)
        series: Series = {metric: {} for metric in catalogue.NODE}
        self._mirrors(rows["mirrors"], series)
        series[catalogue.ENDPOINTS] = _folded(_endpoints(rows["mirrors"]), self._endpoints)
        hooks = [((hook["interface"] or str(hook["ifindex"]),), _place(hook)) for hook in rows["hooks"]]
        series[catalogue.HOOKS] = _folded(hooks, self._interfaces)
        series[catalogue.SKIPPED][()] = rows["skipped"]["packets"]
        series[catalogue.ENTRIES] = {(table,): entries for table, entries in _entries(look.state).items()}
        series[catalogue.CAPACITY] = {(table,): entries for table, entries in TABLES.items()}
        series[catalogue.READABLE][()] = 1
        return series

    def _mirrors(self, rows: Sequence[Row], series: Series) -> None:
        own, others = self._ledger.take(rows)
        for identity, counts in own.items():
            for (metric, rest), value in counts.items():
                series[metric][*_labels(identity), *rest] = value
        for (metric, rest), value in others.items():
            series[metric][*_OTHERS, *rest] = value
        for row in rows:
            identity = _identity(row)
            labels = _labels(identity) if self._ledger.named(identity) else _OTHERS
            leases, states = series[catalogue.LEASE], series[catalogue.MIRRORS]
            leases[labels] = min(row["lease_s"], leases.get(labels, row["lease_s"]))
            state = (*labels, row["state"], row["reason"] or "")
            states[state] = states.get(state, 0) + 1


def _identity(row: Row) -> Identity:
    return Identity(row["kind"], row["namespace"], row["name"])


def _labels(identity: Identity) -> Labels:
    return identity.kind, identity.namespace or "", identity.name


def _counts(row: Row) -> _Counts:
    """By metric and the labels that follow the mirror's."""
    return {
        (catalogue.FRAMES, ("sent", "")): row["sent"]["packets"],
        **{(catalogue.FRAMES, ("dropped", reason)): count for reason, count in row["dropped"].items()},
        (catalogue.MATCHED, ()): row["matched"]["packets"],
        (catalogue.MATCHED_BYTES, ()): row["matched"]["bytes"],
        (catalogue.SENT_BYTES, ()): row["sent"]["bytes"],
        (catalogue.TRUNCATED, ()): row["truncated"]["packets"],
        (catalogue.WIRE, ()): row["wire"]["packets"],
        (catalogue.WIRE_BYTES, ()): row["wire"]["bytes"],
        **{(catalogue.LOST, (reason,)): count for reason, count in row["lost"].items()},
        (catalogue.UNDECIDED, ()): row["undecided"],
    }


def _endpoints(rows: Iterable[Row]) -> list[tuple[Labels, Labels]]:
    """Once, however many mirrors use them."""
    found = {
        ((target["name"], endpoint["address"]), (endpoint["state"],))
        for row in rows
        for target in row["targets"]
        for endpoint in target["endpoints"]
    }
    return sorted(found)


def _place(hook: Row) -> Labels:
    return hook["direction"], hook["state"]


def _folded(items: Iterable[tuple[Labels, Labels]], limit: int) -> dict[Labels, float]:
    """How many there are of each (name, rest); the names of the first `limit` of them, `OTHER` for the rest."""
    names: set[Labels] = set()
    found: dict[Labels, float] = {}
    for name, rest in items:
        if len(names) < limit:
            names.add(name)
        labels = (*(name if name in names else (OTHER,) * len(name)), *rest)
        found[labels] = found.get(labels, 0) + 1
    return found


def _entries(state: State) -> Mapping[str, int]:
    return {
        "hooks": len(state.hooks.keys() | state.guards.keys()),
        "lists": len(state.lists),
        "filters": len(state.filters),
        "mirrors": len(state.mirrors),
        "tunnels": len(state.tunnels),
        "egress": len(state.egress),
        "names": len(state.names),
        "outers": len(state.outers),
    }
