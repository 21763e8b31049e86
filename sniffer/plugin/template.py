"""`kubectl sniffer apply-template`: a mirror and its target from a few words, printed or applied."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from sniffer.errors import InputError
from sniffer.model.problem import quoted
from sniffer.plugin.kubectl import Kubectl
from sniffer.plugin.terminal import progress, show

VERSION = "sniffer.dev/v1alpha1"
NAME_LABEL = "kubernetes.io/metadata.name"
TUNNELS = {"vxlan": "vni", "gre": "key", "geneve": "vni", "erspan": "sessionId"}
"""The field of each that tells tunnels apart."""
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-/.")
_AMBIGUOUS = frozenset({"", "true", "false", "yes", "no", "on", "off", "null", "y", "n", "-"})

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the options say."""

    name: str
    namespace: str
    pods: str
    """Labels, as in app=web,tier=front; "" is every pod."""
    to: str | None
    """An address, or a Service as NAMESPACE/NAME; None: the target is there already."""
    target: str | None
    tunnel: str
    key: int | None
    filter: str | None
    direction: str
    snap_length: int | None
    duration_s: int | None


def apply_template(kubectl: Kubectl, wish: Wish, *, dry_run: bool, as_json: bool) -> int:
    """Prints the documents with `dry_run`, else has kubectl apply them. InputError: an option is wrong."""
    written = list(documents(wish))
    listed = {"apiVersion": "v1", "kind": "List", "items": written}
    if not dry_run:
        with progress("applying"):
            said = kubectl.run("apply", "-f", "-", stdin=json.dumps(listed))
        show(json.dumps({"applied": said.splitlines()}) if as_json else said.rstrip())
        return 0
    show(json.dumps(listed) if as_json else "---\n".join(map(yaml, written)).rstrip())
    return 0


def documents(wish: Wish) -> Iterator[Document]:
    """The target, unless it is there already, then the mirror."""
    if (wish.to is None) == (wish.target is None):
        raise InputError(f"given {'neither' if wish.to is None else 'both'} of --to and --target, allowed one of them")
    target = wish.target or wish.name
    if wish.to is not None:
        yield _target(wish, wish.to, target)
    spec: Document = {"podSelector": {"matchLabels": _labels(wish.pods)} if wish.pods else {}}
    options = {"filter": wish.filter, "snapLength": wish.snap_length, "durationSeconds": wish.duration_s}
    spec |= {name: value for name, value in options.items() if value is not None}
    if wish.direction != "Both":
        spec["direction"] = wish.direction
    spec["targetRefs"] = [{"name": target}]
    metadata = {"name": wish.name, "namespace": wish.namespace}
    yield {"apiVersion": VERSION, "kind": "TrafficMirror", "metadata": metadata, "spec": spec}


def _target(wish: Wish, to: str, name: str) -> Document:
    key = wish.key
    if key is None and wish.tunnel != "gre":
        key = 1
    tunnel: Document = {} if key is None else {TUNNELS[wish.tunnel]: key}
    if wish.tunnel == "erspan":
        tunnel["version"] = 2
    spec = {
        "encapsulation": {wish.tunnel: tunnel},
        "endpoints": [_endpoint(to)],
        "allowedNamespaces": {"matchLabels": {NAME_LABEL: wish.namespace}},
    }
    return {"apiVersion": VERSION, "kind": "MirrorTarget", "metadata": {"name": name}, "spec": spec}


def _endpoint(to: str) -> Document:
    namespace, slash, name = to.partition("/")
    if slash and namespace and name and "/" not in name:
        return {"service": {"namespace": namespace, "name": name}}
    try:
        return {"address": str(IPv4Address(to))}
    except ValueError:
        allowed = "an IPv4 address, or a Service as NAMESPACE/NAME"
        raise InputError(f"--to: given {quoted(to)}, allowed {allowed}") from None


def _labels(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(key and equals for key, equals, _ in pairs):
        raise InputError(f"--pods: given {quoted(text)}, allowed labels as in app=web,tier=front")
    return {key: value for key, _, value in pairs}


def yaml(document: Document) -> str:
    """As people write it: blocks, and whatever could be misread in JSON's quotes."""
    return "".join(f"{line}\n" for line in _block(document))


def _block(value: Document) -> Iterator[str]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield f"{_scalar(key)}:"
            yield from (f"  {line}" for line in _block(inner))
        elif isinstance(inner, Sequence) and not isinstance(inner, str):
            yield f"{_scalar(key)}:"
            for item in inner:
                first, *rest = _block(item)
                yield f"- {first}"
                yield from (f"  {line}" for line in rest)
        else:
            yield f"{_scalar(key)}: {_scalar(inner)}"


def _scalar(value: object) -> str:
    plain = isinstance(value, str) and _PLAIN.issuperset(value) and value.lower() not in _AMBIGUOUS
    return str(value) if plain and not str(value).startswith(("-", ".")) else json.dumps(value)
