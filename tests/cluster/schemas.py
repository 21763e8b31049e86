"""Schemas for kubeconform: Kubernetes' own, from the OpenAPI of a running API server, and those of definitions,
ours and the Prometheus operator's.

Strict: a field that no schema names is an error, which an API server would only drop.
"""

import copy
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sniffer.model.schema import CRD_KINDS, definition
from tests.cluster.api import Document

TEMPLATE = "{{.ResourceKind}}{{.KindSuffix}}.json"
_FOREIGN = ("podmonitors.yaml", "prometheusrules.yaml")
"""Definitions of the Prometheus operator, of which the chart has resources."""
_REF = "#/definitions/"
_NUMBER = {"anyOf": [{"type": "string"}, {"type": "number"}]}


def write(openapi: Document, directory: Path, prometheus: Path) -> None:
    """One file for each kind. `openapi`: what an API server answers at /openapi/v2; `prometheus`: see its fixture."""
    definitions = {name: _strict(copy.deepcopy(one)) for name, one in openapi["definitions"].items()}
    definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = _NUMBER
    for name, one in openapi["definitions"].items():
        for kind in one.get("x-kubernetes-group-version-kind", ()):
            whole = {"$ref": f"{_REF}{name}", "definitions": _reached(definitions, name)}
            _file(directory, kind["group"], kind["version"], kind["kind"]).write_text(json.dumps(whole))
    foreign = [yaml.safe_load((prometheus / name).read_text()) for name in _FOREIGN]
    for one in (*map(definition, CRD_KINDS), *foreign):
        spec = one["spec"]
        for version in spec["versions"]:
            schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
            path = _file(directory, spec["group"], version["name"], spec["names"]["kind"])
            path.write_text(json.dumps(_strict(schema)))


def conforms(kubeconform: Path, directory: Path, text: str) -> "subprocess.CompletedProcess[str]":
    """`kubeconform` over YAML documents; standard output is its JSON."""
    line = [kubeconform, "-strict", "-verbose", "-summary", "-output", "json", "-schema-location", directory / TEMPLATE]
    return subprocess.run([*map(str, line), "-"], input=text, capture_output=True, text=True)


def _file(directory: Path, group: str, version: str, kind: str) -> Path:
    """As kubeconform looks for it: of a group only its first part."""
    return directory / (
        "-".join(part for part in (kind.lower(), group.split(".", maxsplit=1)[0], version) if part) + ".json"
    )


def _strict(node: Any) -> Any:
    """No fields but those that are named; `metadata` of a definition of ours is open."""
    if not isinstance(node, dict):
        return node
    if node.get("format") == "int-or-string" or node.get("x-kubernetes-int-or-string"):
        node.pop("type", None)
        node.pop("format", None)
        node["anyOf"] = _NUMBER["anyOf"]
    if node.get("properties") and not node.get("x-kubernetes-preserve-unknown-fields"):
        node.setdefault("additionalProperties", False)
    below = [*node.get("properties", {}).values(), node.get("items"), node.get("additionalProperties")]
    for one in below:
        _strict(one)
    return node


def _reached(definitions: Mapping[str, Any], first: str) -> dict[str, Any]:
    """What a definition leads to, itself too."""
    found: dict[str, Any] = {}
    waiting = [first]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = definitions[name]
            waiting += _references(definitions[name])
    return found


def _references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [name for one in node for name in _references(one)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"].removeprefix(_REF)] if isinstance(node.get("$ref"), str) else []
    return own + [name for one in node.values() for name in _references(one)]
