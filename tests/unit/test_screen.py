"""The screen of `status --watch`: rates of two looks, for windows of any size."""

import copy
import io
from typing import Any

import pytest
from rich.console import Console

from sniffer.cli.numbers import short
from sniffer.cli.screen import Rated, Screen
from sniffer.stats.rates import Rates, rates, total
from tests.unit.test_series import row

KEY = ("TrafficMirror", "shop", "web")


def full(name: str, matched: int, state: str = "Programmed", **fields: Any) -> dict[str, Any]:
    endpoint = {"address": "10.9.0.2", "state": fields.pop("endpoint", "reachable")}
    more = {"message": None, "interfaces": ["veth1"], "targets": [{"name": "zeek", "endpoints": [endpoint]}]}
    return row(name, matched) | more | {"state": state} | fields


def status(*mirrors: dict[str, Any], **fields: Any) -> dict[str, Any]:
    hook = {"interface": "veth1", "ifindex": 7, "direction": "egress", "state": "attached", "ahead": []}
    agent = {"state": "running", "pid": 812, "version": "0.1.0"}
    return {"node": "n1", "agent": agent, "mirrors": list(mirrors), "hooks": [hook], **fields}


def shown(rows: dict[str, Any], rated: Rated = None, width: int = 160, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None, file=io.StringIO())
    with console.capture() as captured:
        console.print(Screen(rows, rated, "20:15:03"), end="")
    return captured.get().splitlines()


def test_rates() -> None:
    before, after = full("web", 100), full("web", 400, lost={"no_memory": 4, "stale": 0})
    after["dropped"]["no_route"] = 30
    after["wire"]["bytes"] = 2100
    found = rates([before], [after], 2.0)
    assert found == {KEY: Rates(150.0, 150.0, 8000.0, {"no_route": 15.0}, {"no_memory": 2.0})}
    assert total({**found, ("x",): Rates(1.0, dropped_per_s={"no_route": 1.0, "too_big": 2.0})}) == Rates(
        151.0, 150.0, 8000.0, {"no_route": 16.0, "too_big": 2.0}, {"no_memory": 2.0}
    )


def test_a_mirror_that_is_new_or_began_anew() -> None:
    assert rates([], [full("web", 100)], 1.0) == {}
    found = rates([full("web", 100)], [full("web", 7)], 1.0)
    assert found[KEY].matched_per_s == 7
    before = full("web", 100, lost={"no_memory": 9})
    assert rates([before], [full("web", 100, lost={"no_memory": 2})], 1.0)[KEY].lost_per_s == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0, "0"), (0.4, "0.4"), (7, "7"), (9.96, "10"), (999, "999"), (999.6, "1.00k"), (1234, "1.23k")],
        *[(9996, "10.0k"), (45_600_000, "45.6M"), (999_600, "1.00M"), (10**18, "1000P")],
    ],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_short_numbers_with_a_unit() -> None:
    assert short(12, "bit/s") == "12 bit/s"
    assert short(9.41e9, "bit/s") == "9.41 Gbit/s"


def test_what_is_shown() -> None:
    before, after = full("web", 100), full("web", 4_600)
    after["dropped"]["no_route"] = 30
    lines = shown(status(after), rates([before], [after], 1.0))
    assert lines[0].startswith("sniffer  n1  agent 0.1.0 running, pid 812  1 of 1 mirrors in force  20:15:03")
    assert lines[1] == "matched 4.50k/s  sent 4.50k/s  wire 36.0 kbit/s  dropped 30/s  lost 0/s"
    assert lines[3].split() == [
        *("mirror", "state", "matched/s", "sent/s", "wire", "dropped/s", "lost/s", "lease", "matched", "to", "on"),
        "reasons",
    ]
    assert lines[4].split() == [
        *("shop/web", "Programmed", "4.50k", "4.50k", "36.0", "kbit/s", "30", "0", "50", "s", "4.60k", "zeek", "veth1"),
        *("no_route", "30"),
    ]
    assert lines[-1].startswith("1 hooks: 1 attached")


def test_the_first_look_has_no_rates() -> None:
    lines = shown(status(full("web", 4600)))
    assert lines[1] == "one look so far: rates follow"
    assert lines[4].split()[2:6] == ["-"] * 4


def test_what_is_not_as_asked_comes_first_and_says_why() -> None:
    bad = full("bad", 0, "Degraded", reason="HookFull", message="no room on veth1")
    hook = {"interface": "veth2", "ifindex": 8, "direction": "ingress", "state": "bypassed", "ahead": [77]}
    rows = status(full("a", 5), full("busy", 50, endpoint="unreachable"), bad, hooks=[hook])
    lines = shown(rows)
    assert [line.split()[0] for line in lines[4:7]] == ["shop/bad", "shop/busy", "shop/a"]
    assert lines[8:11] == [
        "shop/bad: no room on veth1",
        "veth2 ingress: bypassed by program 77",
        "zeek 10.9.0.2: unreachable",
    ]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("height", [8, 12, 16, 24, 50])
@pytest.mark.parametrize("mirrors", [0, 1, 30])
def test_windows_of_any_size(width: int, height: int, mirrors: int) -> None:
    before = [full(f"a-mirror-with-a-name-that-is-long-{number}", 10**number % 10**9) for number in range(mirrors)]
    after = copy.deepcopy(before)
    for one in after[::7]:
        one |= {"state": "Rejected", "reason": "BadFilter", "message": "words " * 40}
    lines = shown(status(*after), rates(before, after, 1.0), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("sniffer  n1")
    assert mirrors == 0 or "shop/a-" in lines[4]
    if mirrors == 30 and width >= 60:
        assert any("more, " in line or "more:" in line for line in lines) == (height < 38)


def test_names_are_whole_where_there_is_room() -> None:
    name = "a-mirror-with-a-long-name"
    assert f"shop/{name} " in shown(status(full(name, 5)), width=100)[4]
    assert "shop/a-mirror-wi" in shown(status(full(name, 5)), width=60)[4]


def test_colours_are_for_terminals() -> None:
    text = io.StringIO()
    Console(file=text, width=80).print(Screen(status(full("web", 5)), None, "20:15:03"))
    assert "\x1b" not in text.getvalue()
