"""How far the nodes of a cluster are clean, from what the API server has."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sniffer.model.node import NodeState
from sniffer.plan.views import ready_agent

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at all nodes that have, or had, an agent."""

    clean: tuple[str, ...]
    """Names of nodes."""
    waits: Mapping[str, str]
    """Nodes that may yet become clean, and why they are not."""
    lost: Mapping[str, str]
    """Nodes of which nobody will say it, and why."""

    @property
    def others(self) -> Mapping[str, str]:
        """Every node that is not clean, and why."""
        return dict(sorted({**self.waits, **self.lost}.items()))


def progress(order: str, pods: Iterable[Object], nodes: Iterable[Object], reports: Iterable[Object]) -> Progress:
    """order: the one that nodes are to have carried out. pods: agents. reports: SnifferNodes."""
    alive = {one["metadata"]["name"]: _is_ready(one) for one in nodes}
    agents = dict(place for one in pods if (place := ready_agent(one)))
    said = {one["metadata"]["name"]: one.get("status") or {} for one in reports}
    clean: list[str] = []
    waits: dict[str, str] = {}
    lost: dict[str, str] = {}
    for name in sorted({*agents, *said}):
        status = said.get(name, {})
        is_clean = status.get("state") == NodeState.CLEAN
        if is_clean and (status.get("order") == order or name not in agents):
            clean.append(name)
        elif name not in alive:
            if name in agents:
                lost[name] = "there is no such node any more"
        elif not alive[name]:
            lost[name] = "the node is not Ready"
        elif name not in agents:
            lost[name] = "no agent runs there any more"
        else:
            waits[name] = "its agent has not said so" if agents[name] else "its agent is not Ready"
    return Progress(tuple(clean), waits, lost)


def _is_ready(node: Object) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
