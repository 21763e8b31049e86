"""The chart's values: each of them changes something, and nothing else is taken, at any depth."""

import copy
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.cluster.chart import CHART, NAMESPACE

HELMS = ("helm3", "helm4")
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
API_VERSIONS = ("monitoring.coreos.com/v1",)
"""What a cluster may have beside Kubernetes, and the chart looks for."""
PEER = {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}}
RESOURCES = {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}
TOLERATION = {"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"}
CHANGED: dict[str, Any] = {
    "image.repository": "registry.example:5000/team/other",
    "image.tag": "other",
    "image.digest": f"sha256:{'0' * 64}",
    "imagePullSecrets": [{"name": "a"}],
    "netnsPath": "/var/run/docker/netns",
    "serviceCIDRs": ["10.1.0.0/16"],
    "allowedTargetCIDRs": ["10.1.0.0/16"],
    "agent.maxUnavailable": 3,
    "agent.metrics": "0.0.0.0:9755",
    "controller.metrics": "0.0.0.0:9755",
    "monitoring.podMonitor.interval": "1m",
    "networkPolicy.metricsFrom": [PEER],
    "networkPolicy.apiServerPorts": [16443],
}
"""Another value that is allowed, of those whose schema does not tell one."""
SELINUX = {"user": "system_u", "role": "system_r", "type": "spc_t", "level": "s0"}
OF_DEFINITION: dict[str, Any] = {
    "resources": RESOURCES,
    "seLinuxOptions": SELINUX,
    "strings": {"a": "b"},
    "tolerations": [TOLERATION],
}


def _module() -> ModuleType:
    loader = SourceFileLoader("values", str(Path(__file__).parents[2] / "scripts/values"))
    spec = spec_from_loader("values", loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


PATHS: list[tuple[str, ...]] = sorted(set(_module().leaves(SCHEMA, SCHEMA)) - {("global",)})


def template(helm: Path, values: dict[str, Any], home: Path) -> subprocess.CompletedProcess[str]:
    file = home / f"{abs(hash(json.dumps(values)))}.json"
    file.write_text(json.dumps(values))
    # An upgrade where no cluster can be asked has a hook that makes the definitions.
    line = [helm, "template", "sniffer", CHART, "--namespace", NAMESPACE, "--is-upgrade", "--values", file]
    line += ["--kube-version", "1.36.0"]
    for version in API_VERSIONS:
        line += ["--api-versions", version]
    return subprocess.run([str(word) for word in line], capture_output=True, text=True)


def at(values: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        values = values[name]
    return values


def with_(values: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    made = copy.deepcopy(values)
    at(made, path[:-1])[path[-1]] = value
    return made


def everything() -> dict[str, Any]:
    """The values with everything on that may be off, but for a certificate, which would be made anew each time."""
    values = copy.deepcopy(VALUES)
    for path in PATHS:
        if path[-1] == "enabled":
            values = with_(values, path, True)
    return with_(values, ("monitoring", "tlsSecretName"), "given")


def another(path: tuple[str, ...]) -> Any:
    """A value that is allowed there, and not the default."""
    node, default = _module().at(SCHEMA, path), at(VALUES, path)
    if ".".join(path) in CHANGED:
        return CHANGED[".".join(path)]
    if "$ref" in node:
        return OF_DEFINITION[node["$ref"].rpartition("/")[2]]
    if "enum" in node:
        return next(one for one in node["enum"] if one != default)
    match node["type"]:
        case "boolean":
            return path[-1] != "enabled" and not default
        case "integer":
            return default + (1 if default < node.get("maximum", default + 1) else -1)
        case "string" if "pattern" not in node:
            return f"{default}x"
    return pytest.fail(f"name another value of {'.'.join(path)} in CHANGED")


def test_every_value_changes_something(binaries: Path, tmp_path: Path) -> None:
    helm, base = binaries / "helm4", everything()
    made = template(helm, base, tmp_path)
    assert made.returncode == 0, made.stderr
    assert template(helm, base, tmp_path).stdout == made.stdout, "else every value would change something"

    def useless(path: tuple[str, ...]) -> str | None:
        done = template(helm, with_(base, path, another(path)), tmp_path)
        assert done.returncode == 0, (path, done.stderr)
        return ".".join(path) if done.stdout == made.stdout else None

    with ThreadPoolExecutor(4) as pool:
        found = [one for one in pool.map(useless, PATHS) if one]
    assert not found, "these values change nothing"


def full() -> dict[str, Any]:
    """Every value with something in it, so that there is a place for a typo at every depth."""
    values = everything()
    for path in PATHS:
        if at(values, path) in ([], {}, ""):
            values = with_(values, path, another(path))
    return with_(values, ("controller", "resources"), RESOURCES)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in it but of what people name freely."""
    free = ("nodeSelector", "podAnnotations", "matchLabels", "labels")
    if isinstance(value, dict) and not (path and path[-1] in free):
        for name, below in value.items():
            yield (*path, name)
            yield from places(below, (*path, name))
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from places(below, (*path, number))


@pytest.mark.parametrize("helm", HELMS)
def test_every_typo_is_refused_with_its_path(binaries: Path, tmp_path: Path, helm: str) -> None:
    base = full()
    assert template(binaries / helm, base, tmp_path).returncode == 0

    def taken(path: tuple[Any, ...]) -> str | None:
        values, typo = copy.deepcopy(base), f"{path[-1]}z"
        parent = at(values, path[:-1])
        parent[typo] = parent[path[-1]]
        done = template(binaries / helm, values, tmp_path)
        where = "at '" + "".join(f"/{name}" for name in path[:-1]) + "'"
        words = f"additional properties '{typo}' not allowed"
        named = any(where in line and words in line for line in done.stderr.splitlines())
        return None if done.returncode and named else f"{path}: {done.stderr}"

    found = list(places(base))
    assert ("networkPolicy", "metricsFrom", 0, "namespaceSelector", "matchExpressions", 0, "operator") in found
    # Both Helms look by the same library: of the former, some.
    with ThreadPoolExecutor(4) as pool:
        assert not [one for one in pool.map(taken, found if helm == "helm4" else found[::5]) if one]


@pytest.mark.parametrize("helm", HELMS)
def test_a_value_of_another_kind_is_refused_with_its_path(binaries: Path, tmp_path: Path, helm: str) -> None:
    def taken(path: tuple[str, ...]) -> str | None:
        done = template(binaries / helm, with_(VALUES, path, [[1]]), tmp_path)
        return None if done.returncode and f"at '/{'/'.join(path)}" in done.stderr else f"{path}: {done.stderr}"

    with ThreadPoolExecutor(4) as pool:
        assert not [one for one in pool.map(taken, PATHS if helm == "helm4" else PATHS[::5]) if one]
