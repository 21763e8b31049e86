"""What nodes say of mirrors, and whether they are alive to say it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import nsmallest

from sniffer.model.problem import printable
from sniffer.model.selector import Labels
from sniffer.plan.said import named
from sniffer.plan.views import Entry, Key, Report

AGENT_GRACE = timedelta(seconds=10)
"""A new agent takes over from an old one in less: mirroring goes on, and nobody need hear of it."""
NODES_NAMED = 5
WORDS_LENGTH = 120

# What passes by itself, or stands in the mirror's conditions anyway.
_QUIET = frozenset({"NoPods", "NotYet", "HostNetwork", "Suspended", "TargetSuspended", "Expired"})


@dataclass(frozen=True, slots=True)
class Tally:
    """How far a mirror is carried out."""

    nodes: int = 0
    """That should."""
    ready: int = 0
    """That do."""
    others: str = ""
    """The first of those that do not, and why."""
    remarks: tuple[tuple[str, str], ...] = ()
    """Reasons, each with the nodes that give it, in words."""


class Nodes:
    """All nodes of the cluster."""

    def __init__(self) -> None:
        self.labels: dict[str, Labels] = {}
        """Of every Node."""
        self._agents: dict[Key, tuple[str, bool]] = {}
        self._ready: dict[str, set[Key]] = defaultdict(set)
        self._away: dict[str, datetime] = {}
        self._reports: dict[str, Report] = {}

    def node(self, name: str, labels: Labels | None) -> bool:
        """A Node came, changed, or (None) went. Whether that is news."""
        if self.labels.get(name) == labels:
            return False
        if labels is None:
            del self.labels[name]
        else:
            self.labels[name] = labels
        return True

    def agent(self, pod: Key, place: tuple[str, bool] | None, now: datetime) -> str | None:
        """An agent's pod: its node, and whether it is Ready; None: it is gone. The node that comes to life by it."""
        former = self._agents.get(pod)
        if place == former:
            return None
        self._agents.pop(pod, None)
        if former and former[1]:
            self._ready[former[0]].discard(pod)
            if not self._ready[former[0]]:
                self._away[former[0]] = now + AGENT_GRACE
        if place is None:
            return None
        self._agents[pod] = place
        node, ready = place
        if not ready:
            return None
        revived = None if self._is_alive(node) else node
        self._ready[node].add(pod)
        self._away.pop(node, None)
        return revived

    def lost(self, now: datetime) -> Iterator[str]:
        """Nodes whose agent has been away for too long by now; each once."""
        for node in [node for node, until in self._away.items() if until <= now]:
            del self._away[node]
            yield node

    def report(self, node: str, report: Report | None) -> Iterable[str]:
        """What an agent says now. The uids of the mirrors of which it says something else."""
        former = self._reports.pop(node, None)
        if report:
            self._reports[node] = report
        before = former.mirrors if former else {}
        after = report.mirrors if report else {}
        everything = {*before, *after}
        if (former.clean if former else None) != (report.clean if report else None):
            return everything
        return {uid for uid in everything if before.get(uid) != after.get(uid)}

    def tally(self, nodes: Iterable[str], uid: str, generation: int) -> Tally:
        """How far these nodes carry out a mirror."""
        count = 0
        faults: dict[str, str] = {}
        remarks: dict[str, dict[str, str]] = defaultdict(dict)
        for name in nodes:
            count += 1
            alive = self._is_alive(name)
            report = self._reports.get(name)
            entry = report.mirrors.get(uid) if report else None
            fault = _fault(report, entry, generation) if alive else "no agent is ready"
            if fault:
                faults[name] = fault
            if alive and entry and entry.generation == generation and entry.reason and entry.reason not in _QUIET:
                remarks[entry.reason][name] = entry.message
        said = tuple((reason, _named(remarks[reason])) for reason in sorted(remarks))
        return Tally(count, count - len(faults), _named(faults), said)

    def _is_alive(self, node: str) -> bool:
        return bool(self._ready.get(node)) or node in self._away


def _fault(report: Report | None, entry: Entry | None, generation: int) -> str | None:
    """Why a node whose agent lives does not carry out a mirror."""
    if report is None:
        return "has not reported yet"
    if report.clean:
        return "sniffer was removed"
    if entry is None:
        return "has not reported this mirror yet"
    if entry.generation != generation:
        return f"still has generation {entry.generation}"
    if entry.state == "Programmed":
        return None
    reason = entry.reason or entry.state
    return f"{reason}: {entry.message}" if entry.message else reason


def _named(words: Mapping[str, str]) -> str:
    first = nsmallest(NODES_NAMED, words)
    said = (f"{name} ({printable(words[name], WORDS_LENGTH)})" if words[name] else name for name in first)
    return named(said, len(words), NODES_NAMED)
