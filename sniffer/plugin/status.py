"""`kubectl sniffer status`: the mirrors of the cluster, and why those that are not ready are not."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from sniffer.errors import InputError, SnifferError
from sniffer.model.problem import quoted
from sniffer.plugin.kubectl import Kubectl, KubectlError, Object, condition, is_ready
from sniffer.plugin.terminal import ASKING, progress, say, show, table

KINDS = {"TrafficMirror": "trafficmirrors.sniffer.dev", "ClusterTrafficMirror": "clustertrafficmirrors.sniffer.dev"}
TARGETS, NODES = "mirrortargets.sniffer.dev", "sniffernodes.sniffer.dev"
_RESTING = ("Suspended", "Expired")
"""Reasons of Ready=False that somebody wanted."""
_OF_NODES = ("message", "version", "reported")


def status(kubectl: Kubectl, namespace: str | None, *, as_json: bool) -> int:
    """Prints it; 1: some mirror or target is not ready, or a node has no agent. `namespace`: only its mirrors."""
    with progress(ASKING):
        where = ("-n", namespace) if namespace else ("-A",)
        mirrors = kubectl.listed(KINDS["TrafficMirror"], *where)
        if not namespace:
            mirrors += if_allowed(kubectl, KINDS["ClusterTrafficMirror"])
        targets, reports, nodes = (if_allowed(kubectl, kind) for kind in (TARGETS, NODES, "nodes"))
    rows = {
        "mirrors": [mirror_row(mirror, reports) for mirror in mirrors],
        "targets": [_target_row(target) for target in targets],
        "nodes": list(_node_rows(nodes, reports)),
    }
    if as_json:
        print(json.dumps(rows))
    else:
        show(_text(rows, bool(nodes)))
    good = all(row["state"] in ("Ready", *_RESTING) for row in (*rows["mirrors"], *rows["targets"]))
    return 0 if good and all(row["state"] == "Running" for row in rows["nodes"]) else 1


def if_allowed(kubectl: Kubectl, kind: str) -> list[Object]:
    """What belongs to the whole cluster is not for everybody's eyes: then without it."""
    try:
        return kubectl.listed(kind)
    except SnifferError as error:
        say(f"without {kind}: {error}")
        return []


def state_of(item: Object) -> tuple[str, str, str]:
    """State, reason and message by the conditions; Unknown while the controller has said nothing of this generation."""
    ready, accepted = condition(item, "Ready"), condition(item, "Accepted")
    generation = item["metadata"].get("generation")
    if not ready or ready.get("observedGeneration") != generation:
        return "Unknown", "NotObserved", "the controller has not said anything of it yet; see `kubectl sniffer doctor`"
    if accepted.get("status") == "False":
        return "NotAccepted", accepted.get("reason", ""), accepted.get("message", "")
    reason, message = ready.get("reason", ""), ready.get("message", "")
    if is_ready(item):
        return "Ready", reason if reason != "Ready" else "", message
    return (reason if reason in _RESTING else "NotReady"), reason, message


def mirror_row(mirror: Object, reports: Iterable[Object]) -> dict[str, Any]:
    """One mirror, with what each node that has a word of it says."""
    state, reason, message = state_of(mirror)
    told = mirror.get("status") or {}
    return {
        "kind": mirror["kind"],
        "namespace": mirror["metadata"].get("namespace"),
        "name": mirror["metadata"]["name"],
        "state": state,
        "reason": reason or None,
        "message": message or None,
        "pods": told.get("pods", 0),
        "nodes": told.get("nodes", 0),
        "readyNodes": told.get("readyNodes", 0),
        "targets": [ref["name"] for ref in mirror["spec"].get("targetRefs") or ()],
        "reports": list(reports_of(mirror, reports)),
    }


def reports_of(mirror: Object, reports: Iterable[Object]) -> Iterator[dict[str, Any]]:
    """What nodes say of this very mirror, by its uid."""
    for node in reports:
        for one in (node.get("status") or {}).get("mirrors") or ():
            if one.get("uid") == mirror["metadata"]["uid"]:
                names = ("state", "reason", "message", "pods", "generation")
                yield {"node": node["metadata"]["name"], **{name: one.get(name) for name in names}}


def _target_row(target: Object) -> dict[str, Any]:
    state, reason, message = state_of(target)
    endpoints = [
        one["address"] if "address" in one else f"{one['service']['namespace']}/{one['service']['name']}"
        for one in target["spec"].get("endpoints") or ()
    ]
    encapsulation = next(iter(target["spec"].get("encapsulation") or {}), "")
    names = {"name": target["metadata"]["name"], "encapsulation": encapsulation, "endpoints": endpoints}
    return names | {"state": state, "reason": reason or None, "message": message or None}


def _node_rows(nodes: Iterable[Object], reports: Iterable[Object]) -> Iterator[dict[str, Any]]:
    told = {report["metadata"]["name"]: report.get("status") or {} for report in reports}
    for node in nodes:
        name = node["metadata"]["name"]
        report = told.get(name, {})
        state = report.get("state", "NoReport")
        yield {"name": name, "state": state, **{one: report.get(one) for one in _OF_NODES}}


def _text(rows: dict[str, list[dict[str, Any]]], nodes_known: bool) -> str:
    parts = []
    if rows["mirrors"]:
        header = ("MIRROR", "STATE", "PODS", "NODES", "TARGETS", "WHY")
        parts.append(table(header, [_mirror_cells(row) for row in rows["mirrors"]], coloured=1))
    else:
        parts.append("no mirrors; `kubectl sniffer apply-template --help` makes the first")
    if rows["targets"]:
        cells = [
            (row["name"], row["state"], row["encapsulation"], ", ".join(row["endpoints"]), why(row))
            for row in rows["targets"]
        ]
        parts.append(table(("TARGET", "STATE", "TUNNEL", "TO", "WHY"), cells, coloured=1))
    lacking = [row for row in rows["nodes"] if row["state"] != "Running"]
    running = len(rows["nodes"]) - len(lacking)
    if nodes_known:
        parts.append(f"{running} of {len(rows['nodes'])} nodes have an agent that reports")
    if lacking:
        why_not = [(row["name"], row["state"], row["message"] or "") for row in lacking]
        parts.append(table(("NODE", "STATE", "WHY"), why_not, coloured=1))
    return "\n\n".join(parts)


def _mirror_cells(row: dict[str, Any]) -> tuple[str, ...]:
    name = row["name"] if row["namespace"] is None else f"{row['namespace']}/{row['name']}"
    nodes = f"{row['readyNodes']}/{row['nodes']}"
    return name, row["state"], str(row["pods"]), nodes, ", ".join(row["targets"]), why(row)


def why(row: dict[str, Any]) -> str:
    """Reason and message of a row, as one text."""
    return ": ".join(part for part in (row["reason"], row["message"]) if part)


def find(kubectl: Kubectl, name: str, namespace: str | None) -> Object:
    """A mirror by name: a TrafficMirror of the namespace, or else a ClusterTrafficMirror. InputError: neither.

    NAMESPACE/NAME and KIND/NAME are understood too.
    """
    first, _, rest = name.rpartition("/")
    if first.lower() in ("clustertrafficmirror", "clustertrafficmirrors"):
        return kubectl.get(KINDS["ClusterTrafficMirror"], rest)
    if first and first.lower() not in ("trafficmirror", "trafficmirrors"):
        namespace = first
    where = ("-n", namespace) if namespace else ()
    if kubectl.run("get", KINDS["TrafficMirror"], rest, *where, "--ignore-not-found", "-o", "name").strip():
        return kubectl.get(KINDS["TrafficMirror"], rest, *where)
    with suppress(KubectlError):  # who may not read these meant none of them
        if kubectl.run("get", KINDS["ClusterTrafficMirror"], rest, "--ignore-not-found", "-o", "name").strip():
            return kubectl.get(KINDS["ClusterTrafficMirror"], rest)
    given = quoted(f"{namespace or kubectl.namespace()}/{rest}")
    raise InputError(f"mirror: given {given}, allowed a TrafficMirror that is there, or a ClusterTrafficMirror's name")
