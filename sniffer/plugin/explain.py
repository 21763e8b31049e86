"""`kubectl sniffer explain`: one mirror: which pods, on which nodes and interfaces, to which targets, and why not."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from sniffer.errors import SnifferError
from sniffer.plugin import status as statuses
from sniffer.plugin.kubectl import Kubectl, Object, is_ready, place, selector
from sniffer.plugin.status import NODES, TARGETS, find, mirror_row, why
from sniffer.plugin.terminal import ASKING, ask_all, progress, show, table

_ENDED = ("Succeeded", "Failed")
_ASKED = 50
"""Nodes that are asked themselves; of others their report is shown."""


def explain(kubectl: Kubectl, name: str, namespace: str | None, *, as_json: bool) -> int:
    """Prints it; 1: the mirror is not ready."""
    with progress(ASKING) as tell:
        mirror, row = _row(kubectl, name, namespace, tell)
    if as_json:
        print(json.dumps(row))
    else:
        show(_text(mirror, row))
    return 0 if row["state"] == "Ready" else 1


def _row(
    kubectl: Kubectl, name: str, namespace: str | None, tell: Callable[[str], None]
) -> tuple[Object, dict[str, Any]]:
    """The mirror, and all that is known of it."""
    mirror = find(kubectl, name, namespace)
    reports = statuses.if_allowed(kubectl, NODES)
    row = mirror_row(mirror, reports)
    pods = _pods(kubectl, mirror)
    agents = {pod["spec"]["nodeName"]: pod for pod in kubectl.agents() if is_ready(pod)}
    concerned = sorted({pod["node"] for pod in pods if pod["node"]} | {one["node"] for one in row["reports"]})
    unwell = {one["node"] for one in row["reports"] if one["state"] != "Programmed" or one["reason"]}
    first = sorted((node for node in concerned if node in agents), key=lambda node: node not in unwell)[:_ASKED]
    asked = ask_all("asking nodes", first, lambda node: _ask(kubectl, agents[node], mirror), tell)
    tell("asking for its targets")
    row["podList"] = pods
    row["nodeList"] = [_node(node, row, asked, agents) for node in concerned]
    row["targetList"] = [_target(kubectl, target) for target in row["targets"]]
    return mirror, row


def _pods(kubectl: Kubectl, mirror: Object) -> list[dict[str, Any]]:
    """The pods that it selects now, ended ones left out; [] where it names interfaces."""
    spec = mirror["spec"]
    if spec.get("interfaces"):
        return []
    labels = selector(spec.get("podSelector"))
    words = ("-l", labels) if labels else ()
    if mirror["kind"] == "TrafficMirror":
        found = kubectl.listed("pods", "-n", mirror["metadata"]["namespace"], *words)
    else:
        of = selector(spec.get("namespaceSelector"))
        spaces = {item["metadata"]["name"] for item in kubectl.listed("namespaces", *(("-l", of) if of else ()))}
        found = [pod for pod in kubectl.listed("pods", "-A", *words) if pod["metadata"]["namespace"] in spaces]
    return [_pod(pod) for pod in found if (pod.get("status") or {}).get("phase") not in _ENDED]


def _pod(pod: Object) -> dict[str, Any]:
    told, host = pod.get("status") or {}, bool(pod["spec"].get("hostNetwork"))
    addresses = [one["ip"] for one in told.get("podIPs") or ()]
    note = "uses the node's network: not mirrored" if host else "" if addresses else "has no address yet"
    return {"pod": place(pod), "node": pod["spec"].get("nodeName"), "addresses": addresses, "why": note or None}


def _ask(kubectl: Kubectl, agent: Object, mirror: Object) -> dict[str, Any]:
    """The mirror's row of `sniffer status` on that node; {"error": ...} where it cannot be asked or has none."""
    try:
        told = kubectl.ask(agent, "sniffer", "status", "--json")
    except SnifferError as error:
        return {"error": str(error)}
    wanted = mirror["kind"], mirror["metadata"].get("namespace"), mirror["metadata"]["name"]
    rows: list[dict[str, Any]] = told["mirrors"]
    return next((row for row in rows if (row["kind"], row["namespace"], row["name"]) == wanted), {})


def _node(
    node: str, row: dict[str, Any], asked: Mapping[str, dict[str, Any]], agents: Mapping[str, Object]
) -> dict[str, Any]:
    """What the node does: by its own status, else by its report."""
    report: dict[str, Any] = next((one for one in row["reports"] if one["node"] == node), {})
    now = asked.get(node, {})
    told = now if "state" in now else report
    reason, message = told.get("reason"), told.get("message")
    if node not in agents:
        reason, message = "NoAgent", "no agent is ready there: see `kubectl sniffer doctor`"
    elif not told:
        reason, message = "NoReport", "the agent there says nothing of it"
    counts: dict[str, Any] = {name: now[name]["packets"] for name in ("matched", "sent") if name in now}
    dropped = {name: count for name, count in now.get("dropped", {}).items() if count}
    return {
        "node": node,
        "state": told.get("state", "Unknown"),
        "reason": reason,
        "message": message,
        "pods": [pod["pod"] for pod in row["podList"] if pod["node"] == node],
        "interfaces": now.get("interfaces", []),
        "endpoints": [one for target in now.get("targets", ()) for one in target["endpoints"]],
        "error": now.get("error"),
        **counts,
        "dropped": dropped,
    }


def _target(kubectl: Kubectl, name: str) -> dict[str, Any]:
    try:
        target = kubectl.get(TARGETS, name)
    except SnifferError as error:
        return {"name": name, "state": "Unknown", "reason": None, "message": str(error)}
    state, reason, message = statuses.state_of(target)
    spec = target["spec"]
    told = {"encapsulation": spec.get("encapsulation"), "endpoints": spec.get("endpoints")}
    return {"name": name, "state": state, "reason": reason or None, "message": message or None, **told}


def _text(mirror: Object, row: dict[str, Any]) -> str:
    spec = mirror["spec"]
    filtered = spec.get("filter") or ("by rules" if spec.get("rules") else "every frame")
    state = ": ".join(part for part in (row["state"], why(row)) if part)
    facts = {
        "mirror": f"{row['kind']} {place(mirror)}",
        "state": state,
        "filter": filtered,
        "direction": spec.get("direction", "Both"),
    }
    parts = [table(("", ""), facts.items()).lstrip("\n")]
    if row["podList"]:
        cells = [(p["pod"], p["node"] or "-", " ".join(p["addresses"]), p["why"] or "") for p in row["podList"]]
        parts.append(table(("POD", "NODE", "ADDRESSES", "WHY NOT"), cells))
    elif not spec.get("interfaces"):
        parts.append("it selects no running pod")
    if row["nodeList"]:
        parts.append(table(_NODE_HEADER, [_node_cells(node) for node in row["nodeList"]], coloured=1))
    cells = [(t["name"], t["state"], _where(t), why(t)) for t in row["targetList"]]
    parts.append(table(("TARGET", "STATE", "TO", "WHY NOT"), cells, coloured=1))
    return "\n\n".join(parts)


_NODE_HEADER = ("NODE", "STATE", "INTERFACES", "MATCHED", "SENT", "DROPPED", "ENDPOINTS", "WHY NOT")


def _node_cells(node: dict[str, Any]) -> tuple[str, ...]:
    endpoints = defaultdict(set)
    for one in node["endpoints"]:
        endpoints[one["state"]].add(one["address"])
    reached = "; ".join(f"{', '.join(sorted(addresses))} {state}" for state, addresses in sorted(endpoints.items()))
    dropped = ", ".join(f"{reason} {count}" for reason, count in node["dropped"].items())
    words = why(node) or (node["error"] or "")
    return (
        node["node"],
        node["state"],
        " ".join(node["interfaces"]),
        str(node.get("matched", "-")),
        str(node.get("sent", "-")),
        dropped or ("0" if "matched" in node else "-"),
        reached,
        words,
    )


def _where(target: dict[str, Any]) -> str:
    tunnel = next(iter((target.get("encapsulation") or {}).items()), None)
    ends = [
        one.get("address") or "{namespace}/{name}".format(**one["service"]) for one in target.get("endpoints") or ()
    ]
    return f"{tunnel[0]} {json.dumps(tunnel[1])} to {', '.join(ends)}" if tunnel else ", ".join(ends)
