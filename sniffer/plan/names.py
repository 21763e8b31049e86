"""The texts of the `names` map, which make a pin directory readable without the agent: JSON, short enough to fit."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sniffer.abi.limits import NAME_LENGTH
from sniffer.model.identity import Identity
from sniffer.plan.state import Verdict

CACHED = 8192
"""Texts to remember: the loop asks for the same ones again and again."""


@lru_cache(maxsize=CACHED)
def identity_text(identity: Identity) -> str:
    """The name of a counter: whose it is."""
    return _text({"kind": identity.kind, "namespace": identity.namespace, "name": identity.name})


@lru_cache(maxsize=CACHED)
def identity_of(text: str) -> Identity | None:
    """None: not a name that we wrote."""
    value = _value(text)
    try:
        return Identity(value["kind"], value["namespace"], value["name"])
    except KeyError:
        return None


@lru_cache(maxsize=CACHED)
def verdict_text(verdict: Verdict) -> str:
    """Cut to fit: first the list of interfaces, then the message."""
    value: dict[str, Any] = {
        "kind": verdict.identity.kind,
        "namespace": verdict.identity.namespace,
        "name": verdict.identity.name,
        "state": verdict.state,
        "reason": verdict.reason,
        "message": verdict.message,
        "interfaces": list(verdict.interfaces),
        "targets": list(verdict.targets),
    }
    text = _text(value)
    while len(text.encode()) > NAME_LENGTH:
        if value["interfaces"]:
            value["interfaces"] = value["interfaces"][: len(value["interfaces"]) // 2]
        elif value["message"]:
            value["message"] = value["message"][: len(value["message"]) // 2]
        else:
            value["targets"] = value["targets"][:-1]
        text = _text(value)
    return text


@lru_cache(maxsize=CACHED)
def verdict_of(text: str) -> Verdict | None:
    """None: not a name that we wrote."""
    value = _value(text)
    identity = identity_of(text)
    if identity is None or "state" not in value:
        return None
    return Verdict(
        identity,
        value["state"],
        value.get("reason"),
        value.get("message"),
        tuple(value.get("interfaces", ())),
        tuple(value.get("targets", ())),
    )


def node_text(node: str, pid: int, version: str) -> str:
    """Whose pin directory it is."""
    return _text({"node": node, "pid": pid, "version": version})


def node_of(text: str) -> Mapping[str, Any]:
    """{"node", "pid", "version"}, or {}."""
    return _value(text)


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _value(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
