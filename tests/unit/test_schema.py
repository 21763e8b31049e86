"""The definitions that the models become: structural, described, and the files of the chart."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from sniffer import __version__
from sniffer.cli.crds import crds, file_name
from sniffer.cli.lint import check
from sniffer.errors import InputError
from sniffer.model.identity import Identity
from sniffer.model.manifest import read
from sniffer.model.mirror import MirrorSpec
from sniffer.model.resources import Kind
from sniffer.model.schema import CRD_KINDS, Schema, definition, replaces, structural
from sniffer.model.target import ENDPOINTS_LENGTH

CHART = Path(__file__).parents[2] / "deploy/helm/sniffer"

# What a structural schema may say on a node of these types, as far as we use it.
ALWAYS = {"type", "description", "default", "x-kubernetes-validations"}
ALLOWED = {
    "object": ALWAYS | {"properties", "required", "additionalProperties", "maxProperties", "x-kubernetes-map-type"},
    "array": ALWAYS | {"items", "minItems", "maxItems", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"},
    "string": ALWAYS | {"enum", "pattern", "minLength", "maxLength", "nullable"},
    "integer": ALWAYS | {"minimum", "maximum", "format"},
    "boolean": ALWAYS,
    None: {"description", "default", "x-kubernetes-int-or-string", "x-kubernetes-validations"},
}


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every node below spec and status, with its path."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if inner in schema:
            yield from nodes(schema[inner], f"{path}[]")


TYPE_META = (".apiVersion", ".kind")
EVERY = [
    pytest.param(path, node, id=f"{kind.__name__}{path}")
    for kind in CRD_KINDS
    for path, node in nodes(structural(kind))
]


@pytest.mark.parametrize(("path", "node"), EVERY)
def test_structural(path: str, node: Schema) -> None:
    """Every node has a type and says nothing that a structural schema has no place for."""
    assert set(node) <= ALLOWED[node.get("type")]
    assert ("type" in node) != ("x-kubernetes-int-or-string" in node)
    assert not {"properties", "additionalProperties"} <= set(node)
    assert None not in node.values()


@pytest.mark.parametrize(("path", "node"), EVERY)
def test_bounded(path: str, node: Schema) -> None:
    """G23: what has no bound makes a CEL rule below it cost too much, and an object too large."""
    if node.get("type") == "array":
        assert "maxItems" in node
    if node.get("type") == "string" and path not in TYPE_META:
        assert {"maxLength", "enum"} & set(node)
    if "additionalProperties" in node:
        assert "maxProperties" in node


@pytest.mark.parametrize("kind", CRD_KINDS)
def test_every_field_is_described(kind: type[Kind]) -> None:
    """For `kubectl explain`: one sentence at least, in words of its own rather than its type's name."""
    for path, node in nodes(structural(kind)):
        if not path.endswith("[]") and path != ".metadata":
            assert node.get("description", "").rstrip().endswith("."), path


@pytest.mark.parametrize("kind", CRD_KINDS)
def test_every_field_is_there(kind: type[Kind]) -> None:
    """The schema has the fields of the models, by the names that people write."""
    assert set(structural(kind)["properties"]) == {field.alias for field in kind.model_fields.values()}
    spec = kind.model_fields.get("spec")
    if spec is not None:
        model = spec.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        written = structural(kind)["properties"]["spec"]
        assert set(written["properties"]) == {field.alias for field in model.model_fields.values()}
        assert set(written["required"]) == {f.alias for f in model.model_fields.values() if f.is_required()}


def at(kind: type[Kind], path: str) -> Any:
    node: Any = structural(kind)
    for step in path.split("."):
        node = node["items"] if step == "[]" else node["properties"][step]
    return node


def test_what_the_api_server_fills_in() -> None:
    """Defaults of a spec are the API server's; a status has none, nor have lists and maps."""
    [mirror, target, node, traffic] = CRD_KINDS
    defaults = {
        path: schema["default"] for kind in CRD_KINDS for path, schema in nodes(structural(kind)) if "default" in schema
    }
    assert {path.partition(".")[2]: value for path, value in defaults.items()} == {
        "spec.direction": "Both",
        "spec.snapLength": 0,
        "spec.sampling.per": "Flow",
        "spec.suspend": False,
        "spec.includeProtectedNamespaces": False,
        "spec.encapsulation.vxlan.port": 4789,
        "spec.oversize": "Segment",
        "spec.encapsulation.gre.sequence": False,
        "spec.encapsulation.geneve.port": 6081,
        "spec.outer": {"ttl": 64, "dscp": 0, "dontFragment": False, "udpChecksum": False},
        "spec.outer.ttl": 64,
        "spec.outer.dscp": 0,
        "spec.outer.dontFragment": False,
        "spec.outer.udpChecksum": False,
    }
    assert at(target, "spec.encapsulation.vxlan.vni")["maximum"] == (1 << 24) - 1
    assert at(target, "spec.endpoints")["maxItems"] == ENDPOINTS_LENGTH
    assert at(traffic, "spec.targetRefs")["x-kubernetes-list-map-keys"] == ["name"]
    assert at(mirror, "spec.rules")["x-kubernetes-list-type"] == "atomic"
    assert "spec" not in structural(node)["properties"]


def test_rules_of_both_kinds_of_mirrors() -> None:
    """A rule of what both say is not lost where one adds its own."""
    for kind in CRD_KINDS:
        spec = structural(kind)["properties"].get("spec", {})
        if "filter" in spec.get("properties", {}):
            rules = [rule["rule"] for rule in spec["x-kubernetes-validations"]]
            assert set(rules) >= {rule.rule for rule in MirrorSpec.cel}


def test_names() -> None:
    found = [definition(kind) for kind in CRD_KINDS]
    assert [one["metadata"]["name"] for one in found] == [
        "clustertrafficmirrors.sniffer.dev",
        "mirrortargets.sniffer.dev",
        "sniffernodes.sniffer.dev",
        "trafficmirrors.sniffer.dev",
    ]
    assert [one["spec"]["scope"] for one in found] == ["Cluster", "Cluster", "Cluster", "Namespaced"]
    shorts = [name for one in found for name in one["spec"]["names"]["shortNames"]]
    assert sorted(set(shorts)) == sorted(shorts)
    assert all(one["metadata"]["annotations"]["sniffer.dev/version"] == __version__ for one in found)


@pytest.mark.parametrize("kind", CRD_KINDS)
def test_the_chart_has_what_crds_prints(kind: type[Kind], tmp_path: Path) -> None:
    one = definition(kind)
    path = CHART / "crds" / file_name(one)
    crds(tmp_path, as_json=False)
    written = (tmp_path / path.name).read_text()
    assert path.read_text() == written, f"out of date: sniffer crds --directory {path.parent.relative_to(Path.cwd())}"
    assert yaml.safe_load(written) == one
    assert "{{" not in written


def test_the_chart_has_no_other() -> None:
    """In templates, a rollback would take them back to an earlier release (docs/adr)."""
    assert {path.name for path in CHART.glob("**/crd-*")} == {file_name(definition(kind)) for kind in CRD_KINDS}
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__, "as the hook compares them"


def annotated(version: str | None, digest: str = "a") -> Schema:
    return {
        "metadata": {"annotations": {"sniffer.dev/version": version, "sniffer.dev/schema": digest}} if version else {}
    }


@pytest.mark.parametrize(
    ("ours", "found", "expected"),
    [
        (annotated("0.2.0"), annotated("0.1.9"), True),
        (annotated("0.10.0"), annotated("0.9.0"), True),
        (annotated("0.2.0"), annotated("0.2.0"), False),
        (annotated("0.2.0", "a"), annotated("0.2.0", "b"), True),
        (annotated("0.2.0", "a"), annotated("0.3.0", "b"), False),
        (annotated("0.2.0"), annotated("0.2.0rc1"), True),
        (annotated("0.2.0rc1"), annotated("0.2.0", "b"), False),
        (annotated("0.2.0"), annotated(None), True),
        (annotated("0.2.0"), annotated("somebody's"), True),
    ],
)
def test_a_definition_never_goes_back(ours: Schema, found: Schema, expected: bool) -> None:
    assert replaces(ours, found) is expected


def test_printed(capsys: pytest.CaptureFixture[str]) -> None:
    crds(None, as_json=False)
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == [definition(kind) for kind in CRD_KINDS]
    crds(None, as_json=True)
    assert json.loads(capsys.readouterr().out)["items"] == [definition(kind) for kind in CRD_KINDS]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"--directory: given .*nowhere, allowed a directory where files can be written"
    ):
        crds(tmp_path / "nowhere", as_json=False)


TRAFFIC = """
apiVersion: sniffer.dev/v1alpha1
kind: TrafficMirror
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  targetRefs: [{name: zeek}]
"""


def test_lint_knows_a_traffic_mirror() -> None:
    """Its filter is compiled, its target looked for among the files, its namespace is `default` as for kubectl."""
    [resource] = read(TRAFFIC, "f.yaml").resources
    assert resource.identity == Identity("TrafficMirror", "default", "web")
    source = read(TRAFFIC + "  filter: tcp prot 80\n", "f.yaml")
    assert [problem.field for problem in check([source])] == ["spec.filter"]
    target = "kind: MirrorTarget\napiVersion: sniffer.dev/v1alpha1\nmetadata: {name: suricata}\nspec: {}\n"
    problems = check([read(f"{TRAFFIC}---\n{target}", "f.yaml")])
    assert "spec.targetRefs[0].name" in [problem.field for problem in problems]
    assert check([source, read(TRAFFIC, "g.yaml")])[-1].field == "metadata.name"
    assert read(TRAFFIC + "  direction: up\n", "f.yaml").broken == (Identity("TrafficMirror", "default", "web"),)


def test_null_is_no_value() -> None:
    """As for the API server: what is null is not there."""
    [resource] = read(TRAFFIC + "  suspend: null\n  filter: ~\n  direction:\n", "f.yaml").resources
    assert resource.value == read(TRAFFIC, "f.yaml").resources[0].value
    [problem] = read(TRAFFIC + "  unknown: null\n", "f.yaml").problems
    assert problem.given == '"unknown"'


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("2026-01-31T12:00:00Z", True),
        ("'2026-01-31T12:00:00Z'", True),
        ("2026-01-31T12:00:00.123456789+05:30", True),
        ("2026-02-30T12:00:00Z", False),
        ("2026-01-31", False),
        ("2026-01-31 12:00:00", False),
        ("2026-01-31T12:00:00", False),
        ("20260131T120000Z", False),
        ("2026-01-31T24:00:00Z", False),
        ("2026-01-31T12:00:60Z", False),
        ("2026-01-31T12:00:00+24:00", False),
        ("0000-01-01T00:00:00Z", False),
        ("1767225600", False),
        ("tomorrow", False),
    ],
)
def test_times(text: str, good: bool) -> None:
    """I10: RFC 3339 with a zone, and nothing else that Python would read."""
    source = read(f"{TRAFFIC}  expireTime: {text}\n", "f.yaml")
    assert [problem.field for problem in source.problems] == ([] if good else ["spec.expireTime"])


def test_the_examples_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs/api.md").read_text()
    example = text.split("```yaml\n")[1].split("```")[0]
    source = read(example, "docs/api.md")
    assert check([source]) == []
    assert {resource.identity.kind for resource in source.resources} == {
        "MirrorTarget",
        "TrafficMirror",
        "ClusterTrafficMirror",
    }
