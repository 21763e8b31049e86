"""The dashboard is one that Grafana takes: every field is of its own schema (its foundation SDK), and of its type."""

import copy
import enum
import json
import types
import typing
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

FILE = Path(__file__).parents[2] / "deploy/helm/sniffer/files/dashboard.json"
SDK = Dashboard.__module__.partition(".")[0]


@pytest.fixture(scope="module", autouse=True)
def panels() -> None:
    """What the SDK knows of each type of panel and query."""
    plugins.register_default_plugins()


def dashboard() -> dict[str, Any]:
    return typing.cast("dict[str, Any]", json.loads(FILE.read_text()))


def problems(given: Any) -> list[str]:
    """Fields that Grafana does not know, and values that are not of their field's type."""
    read = Dashboard.from_json(given)
    return [*unknown(given, json.loads(encoder.JSONEncoder().encode(read)), ""), *wrong(read, Dashboard, "")]


def unknown(given: Any, kept: Any, path: str) -> Iterator[str]:
    """What is not there any more when the SDK has read and written it."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            if name in kept:
                yield from unknown(value, kept[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}: no such field"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (former, latter) in enumerate(zip(given, kept, strict=True)):
            yield from unknown(former, latter, f"{path}[{number}]")
    elif given != kept:
        yield f"{path}: given {given!r}, read as {kept!r}"


def wrong(value: Any, hint: Any, path: str) -> Iterator[str]:
    """What is not of its type."""
    origin, of = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, dict) and not isinstance(value, origin):
        yield f"{path}: given {value!r}, allowed {hint}"
    elif origin is list:
        for number, one in enumerate(value):
            yield from wrong(one, of[0], f"{path}[{number}]")
    elif origin is dict:
        for name, one in value.items():
            yield from wrong(one, of[1], f"{path}.{name}")
    elif origin in (typing.Union, types.UnionType):
        found = [list(wrong(value, one, path)) for one in of]
        yield from min(found, key=len) if all(found) else []
    elif not fits(value, hint):
        yield f"{path}: given {value!r}, allowed {hint}"
    elif type(value).__module__.startswith(SDK) and not isinstance(value, enum.Enum):
        for name, one in typing.get_type_hints(type(value)).items():
            yield from wrong(getattr(value, name), one, f"{path}.{name}")


def fits(value: Any, hint: Any) -> bool:
    """Of a type that consists of no others."""
    if hint in (Any, object):
        return True
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value in {*hint, *(one.value for one in hint)}
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def test_every_field_is_grafana_s() -> None:
    assert problems(dashboard()) == []


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("refresh", 1, "refresh"),
        ("graphTooltip", 7, "graph_tooltip"),
        ("panels.1.gridPos.w", "4", "grid_pos.w"),
        ("panels.1.optionz", {}, "panels[1].optionz"),
        ("panels.1.targets.0.exp", "up", "panels[1].targets[0].exp"),
        ("panels.1.options.colorMode", "valuee", "color_mode"),
        ("panels.1.fieldConfig.defaults.unit", 5, "defaults.unit"),
        ("panels.8.fieldConfig.defaults.custom", {"drawStyle": "lines"}, "custom.draw_style"),
        ("templating.list.1.refresh", 9, "refresh"),
    ],
)
def test_what_is_not_would_be_noticed(path: str, value: Any, named: str) -> None:
    changed = copy.deepcopy(dashboard())
    place: Any = changed
    *before, last = path.split(".")
    for name in before:
        place = place[int(name)] if isinstance(place, list) else place[name]
    place[last] = value
    assert named in " ".join(problems(changed))


def test_panels_have_room() -> None:
    """None covers another, none is wider than the page; numbers and queries' letters are each one's own."""
    shown = dashboard()["panels"]
    assert len({panel["id"] for panel in shown}) == len(shown)
    for panel in shown:
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(letters)) == len(letters), panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, other in combinations(shown, 2):
        (x, y, w, h), (x2, y2, w2, h2) = ([panel["gridPos"][side] for side in "xywh"] for panel in (one, other))
        apart = x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
        assert apart, (one["title"], other["title"])
