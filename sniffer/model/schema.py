"""CustomResourceDefinitions from the models: one source for what lint, the agent and the API server take.

A structural schema has a type on every node and no `$ref`, `title`, `const` or null
(https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from sniffer import __version__
from sniffer.model.resources import (
    GROUP,
    VERSION,
    ClusterTrafficMirror,
    Kind,
    MirrorTarget,
    SnifferNode,
    TrafficMirror,
)

Schema = dict[str, Any]

CRD_KINDS: tuple[type[Kind], ...] = (ClusterTrafficMirror, MirrorTarget, SnifferNode, TrafficMirror)
"""In the order of their names."""

RELEASE, DIGEST = f"{GROUP}/version", f"{GROUP}/schema"
"""Annotations: of which release a definition is, and what tells its specification from every other."""

SHORT_NAMES: Mapping[type[Kind], str] = {
    ClusterTrafficMirror: "ctm",
    MirrorTarget: "mt",
    SnifferNode: "snode",
    TrafficMirror: "tm",
}

_META = {
    "apiVersion": {"type": "string", "description": f"The API's group and version: {GROUP}/{VERSION}."},
    "kind": {"type": "string", "description": "The kind of this object."},
    # Described by the API server, which takes no other words here.
    "metadata": {"type": "object"},
}
_FIRST = ("description", "type")
_DROPPED = frozenset({"title", "$ref", "$defs", "anyOf", "const", "default", "propertyNames", "patternProperties"})


def definition(kind: type[Kind]) -> Schema:
    """The CustomResourceDefinition of a kind: a mapping as JSON and YAML write it."""
    name = kind.__name__
    spec = {
        "group": GROUP,
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "names": {
            "kind": name,
            "listKind": f"{name}List",
            "plural": kind.plural,
            "singular": name.lower(),
            "shortNames": [SHORT_NAMES[kind]],
            "categories": ["sniffer"],
        },
        "versions": [
            {
                "name": VERSION,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "additionalPrinterColumns": list(_COLUMNS[kind]),
                "schema": {"openAPIV3Schema": structural(kind)},
            }
        ],
    }
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}", "annotations": {RELEASE: __version__, DIGEST: digest}},
        "spec": spec,
    }


def replaces(ours: Schema, found: Schema) -> bool:
    """Whether a cluster that has `found` should have `ours`: a definition never goes back to that of a release before,
    which would take fields out of objects that have them.
    """
    told, theirs = (one["metadata"].get("annotations") or {} for one in (ours, found))
    mine, former = _release(told[RELEASE]), _release(theirs.get(RELEASE, ""))
    return mine > former or (mine == former and told[DIGEST] != theirs.get(DIGEST))


def _release(text: str) -> tuple[int, int, int, bool, str]:
    """In their order: what comes before a release is less than it; what is no version is less than every one."""
    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(.*)", text)
    if not found:
        return -1, 0, 0, False, ""
    first, second, third, rest = found.groups()
    return int(first), int(second), int(third), not rest, rest


def structural(kind: type[Kind]) -> Schema:
    """The structural schema of a kind."""
    raw = kind.model_json_schema(by_alias=True)
    properties = raw["properties"]
    fields = {name: properties[name] for name in ("spec", "status") if name in properties}
    node: Schema = {
        "description": raw["description"],
        "type": "object",
        "properties": _META
        | {name: _node(field, raw["$defs"], defaults=name == "spec") for name, field in fields.items()},
    }
    return node | {"required": ["spec"]} if "spec" in fields else node


def _node(raw: Schema, models: Mapping[str, Schema], defaults: bool) -> Schema:
    """One node: references put in, alternatives to null and everything else that is not structural left out.

    A status has no defaults: what its writer leaves out is not there.
    """
    flat = _flat(raw, models)
    if "x-kubernetes-int-or-string" in flat:  # which has no type
        return {key: value for key, value in flat.items() if key not in _DROPPED - {"default"}}
    node: Schema = {key: flat[key] for key in _FIRST if key in flat}
    node |= {key: value for key, value in flat.items() if key not in _DROPPED}
    default = _default(flat.get("default"))
    if defaults and default not in (None, [], {}):
        node["default"] = default
    if "properties" in flat:
        node.pop("additionalProperties", None)
        node["properties"] = {name: _node(field, models, defaults) for name, field in flat["properties"].items()}
    elif flat["type"] == "object":
        # The pattern of a map's keys cannot be said here: see LabelKey.
        [values] = flat.get("patternProperties", {"": flat.get("additionalProperties")}).values()
        # Else the API server leaves nulls out, and {app: } selects everything; the rule of LabelMap refuses them.
        node["additionalProperties"] = _node(values, models, defaults) | {"nullable": True}
    elif flat["type"] == "array":
        node["items"] = _node(flat["items"], models, defaults)
        node.setdefault("x-kubernetes-list-type", "atomic")
    elif flat["type"] == "integer":
        node["format"] = "int64"
    return node


def _flat(raw: Schema, models: Mapping[str, Schema]) -> Schema:
    """The node with what it refers to; its own words win."""
    flat = dict(raw)
    for alternative in raw.get("anyOf", ()):
        if alternative != {"type": "null"}:
            flat = _flat(alternative, models) | flat
    if "$ref" in raw:
        flat = _flat(models[raw["$ref"].rpartition("/")[2]], models) | flat
    return flat


def _default(value: Any) -> Any:
    """A default without its nulls: these are fields that are not there."""
    if isinstance(value, dict):
        return {key: _default(item) for key, item in value.items() if item is not None}
    return value


def _column(name: str, type_: str, path: str, description: str, wide: bool = False) -> Schema:
    """What `kubectl get` prints; only with `-o wide` what is wide."""
    column: Schema = {"name": name, "type": type_, "jsonPath": path, "description": description}
    return column | {"priority": 1} if wide else column


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


_AGE = _column("Age", "date", ".metadata.creationTimestamp", "When it was made.")
_MIRROR_COLUMNS = (
    # Of several values a column shows the first.
    _column("Target", "string", ".spec.targetRefs[0].name", "Where copies go: the first of the targets."),
    _column("Pods", "integer", ".status.pods", "Pods that are selected and can be mirrored."),
    _column("Nodes", "integer", ".status.nodes", "Nodes that should carry it out."),
    _column("ReadyNodes", "integer", ".status.readyNodes", "Nodes that do carry it out."),
    _column("Ready", "string", _condition("Ready", "status"), "Whether all do that should."),
    _column("Reason", "string", _condition("Ready", "reason"), "Why, in one word."),
    _column("Accepted", "string", _condition("Accepted", "reason"), "Accepted, or why not.", wide=True),
    _column("Filter", "string", ".spec.filter", "Which frames.", wide=True),
    _column("Targets", "string", ".spec.targetRefs", "All of the targets.", wide=True),
)
_COLUMNS: Mapping[type[Kind], tuple[Schema, ...]] = {
    TrafficMirror: (*_MIRROR_COLUMNS, _AGE),
    ClusterTrafficMirror: (
        *_MIRROR_COLUMNS,
        _column("Interfaces", "string", ".spec.interfaces", "Interfaces of nodes.", wide=True),
        _AGE,
    ),
    MirrorTarget: (
        _column(
            "Address", "string", ".spec.endpoints[*].address", "The analyzer's address: the first, if there are more."
        ),
        _column("Service", "string", ".spec.endpoints[*].service.name", "The Service: the first, if there are more."),
        _column("Accepted", "string", _condition("Accepted", "status"), "Whether mirrors can use it."),
        _column("Reason", "string", _condition("Accepted", "reason"), "Why, in one word."),
        _column("Suspended", "boolean", ".spec.suspend", "Whether nothing is sent there.", wide=True),
        _column("Endpoints", "string", ".spec.endpoints", "All of the analyzers.", wide=True),
        _AGE,
    ),
    SnifferNode: (
        _column("State", "string", ".status.state", "What the agent does."),
        _column("Version", "string", ".status.version", "The agent's version."),
        _column("Reported", "date", ".status.reported", "When the agent said so."),
        _AGE,
    ),
}
