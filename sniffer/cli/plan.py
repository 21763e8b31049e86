"""`sniffer plan`: what an agent would do here now."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from sniffer.cli.progress import progress
from sniffer.kernel.pins import Pins, holder_text
from sniffer.manifests import Manifests
from sniffer.node import Node
from sniffer.plan import ops
from sniffer.plan.facts import Mechanism

PREVIEW_LEASE_S = 60


def show(manifests: Path, pin_root: Path, mechanism: Mechanism | None, *, as_json: bool) -> int:
    """Prints the plan, and to standard error what is wrong with the manifests; 1 when there is any of that."""
    source = Manifests(manifests)
    source.poll()
    pins = Pins(pin_root)
    node = Node(pins, mechanism, PREVIEW_LEASE_S, {})
    try:
        with progress("compiling, and looking at this node"):
            plan = node.plan(source.sources(), holder_text(pins))
    finally:
        node.close()
    if as_json:
        print(json.dumps([_as_object(op) for op in plan], indent=2))
    else:
        for op in plan:
            print(op)
        if any(isinstance(op, ops.CreateRelay) for op in plan):
            print("and what depends on the relay, once it is there")
        if not plan:
            print("nothing to do")
    return 1 if plan or source.problems() else 0


def _as_object(op: ops.Op) -> dict[str, Any]:
    return {
        "op": type(op).__name__,
        **{field.name: _plain(getattr(op, field.name)) for field in dataclasses.fields(op)},
    }


def _plain(value: Any) -> Any:
    """Records by the names of their fields, be they dataclasses or named tuples; bytes in hexadecimal."""
    if isinstance(value, bytes):
        return value.hex()
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
