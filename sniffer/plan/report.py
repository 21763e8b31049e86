"""What a node says of itself in the cluster: verdicts -> the status of its SnifferNode, as the API server takes it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sniffer.model.identity import Identity
from sniffer.model.node import NodeState, NodeStatus
from sniffer.model.problem import printable
from sniffer.model.resources import Mirror
from sniffer.plan.select import is_named
from sniffer.plan.state import Verdict

MESSAGE_LENGTH = 512
MESSAGES_LENGTH = 128 << 10
"""Bytes of all messages together: an object of more than a megabyte is refused."""
MIRRORS_LENGTH = 4096


def report(
    verdicts: Iterable[Verdict], mirrors: Iterable[Mirror], version: str, message: str | None = None
) -> dict[str, Any]:
    """SnifferNode.status. Of mirrors that concern this node only: that select one of its pods, or name interfaces.
    message: of the node itself.
    """
    resources = {mirror.identity: mirror for mirror in mirrors}
    rows = [
        _row(verdict, resources[verdict.identity])
        for verdict in sorted(verdicts, key=lambda verdict: verdict.identity)
        if verdict.identity in resources and _concerns(verdict, resources[verdict.identity])
    ]
    room = MESSAGES_LENGTH
    for row in rows:
        room -= len((row["message"] or "").encode())
        if room < 0:
            row["message"] = None
    told = {"state": NodeState.RUNNING, "message": message, "version": version}
    return _status({**told, "mirrors": rows[:MIRRORS_LENGTH]})


def refused_report(version: str, why: str) -> dict[str, Any]:
    """SnifferNode.status of a node on which an agent does not run."""
    return _status({"state": NodeState.REFUSED, "message": why[:MESSAGE_LENGTH], "version": version})


def clean_report(version: str, order: str | None = None) -> dict[str, Any]:
    """SnifferNode.status of a node that has nothing of sniffer any more. order: the one that was carried out."""
    return _status({"state": NodeState.CLEAN, "version": version, "order": order})


def _status(status: Mapping[str, Any]) -> dict[str, Any]:
    return NodeStatus.model_validate(status).model_dump(mode="json", by_alias=True, exclude_none=True)


def changes(former: Mapping[str, Any] | None, now: Mapping[str, Any]) -> Iterator[str]:
    """What became of mirrors from one status of a SnifferNode to the next, a line for each; None: there was none."""
    before, after = _words(former), _words(now)
    for name, words in after.items():
        if before.get(name) != words:
            yield f"{name}: {words}"
    for name in before.keys() - after.keys():
        yield f"{name}: no longer concerns this node"


def _words(status: Mapping[str, Any] | None) -> dict[str, str]:
    """By kind and name, as an Identity is written."""
    rows = (status or {}).get("mirrors", ())
    return {str(Identity(row["kind"], row.get("namespace"), row["name"])): _in_words(row) for row in rows}


def _in_words(row: Mapping[str, Any]) -> str:
    reason, message = (row.get(name) for name in ("reason", "message"))
    pods = row.get("pods", 0)
    count = f" of {pods} pod{'' if pods == 1 else 's'}" if pods else ""
    return printable(": ".join(part for part in (row["state"] + count, reason, message) if part), MESSAGE_LENGTH)


def _concerns(verdict: Verdict, mirror: Mirror) -> bool:
    return is_named(mirror) or verdict.selected > 0


def _row(verdict: Verdict, mirror: Mirror) -> dict[str, Any]:
    identity, metadata = verdict.identity, mirror.metadata
    return {
        "kind": identity.kind,
        "namespace": identity.namespace,
        "name": identity.name,
        "uid": metadata.uid or "",
        "generation": metadata.generation,
        "state": verdict.state,
        "reason": verdict.reason,
        "message": verdict.message[:MESSAGE_LENGTH] if verdict.message else None,
        "pods": verdict.pods,
    }
