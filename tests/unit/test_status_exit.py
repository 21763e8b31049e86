"""What `sniffer status` ends with: people put it into checks. And what it shows where there is little room."""

import io
from typing import Any

import pytest
from rich.console import Console

from sniffer.cli.screen import Screen, plain
from sniffer.cli.status import _console, _exit_status, _print


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("Programmed", None, 0),
        ("Programmed", "EndpointUnreachable", 0),
        ("Suspended", "Suspended", 0),
        ("Pending", "NoInterface", 0),
        ("Suspended", "LeaseEnded", 1),
        ("Degraded", "HookFull", 1),
        ("Rejected", "BadFilter", 1),
    ],
)
def test_a_mirror_that_nobody_renews_is_not_as_asked(state: str, reason: str | None, expected: int) -> None:
    rows: dict[str, Any] = {"mirrors": [{"state": state, "reason": reason}], "hooks": [{"state": "attached"}]}
    assert _exit_status(rows) == expected


def test_a_hook_that_is_missing() -> None:
    assert _exit_status({"mirrors": [], "hooks": [{"state": "missing"}]}) == 1


@pytest.mark.parametrize("width", [40, 80, 200])
def test_words_are_whole_in_a_window_of_any_width(width: int) -> None:
    """A name that is broken in the middle cannot be copied, nor looked up."""
    row: dict[str, Any] = {
        "namespace": "shop",
        "name": "a-mirror-with-a-long-name",
        "state": "Rejected",
        "reason": "TargetNotFound",
        "message": "spec.targetRefs[0].name: no MirrorTarget [bold]anna",
        "interfaces": ["pod0"],
        "lease_s": 55.2,
        "targets": [{"name": "ana", "endpoints": [{"address": "10.9.0.2", "state": "reachable"}]}],
        "matched": {"packets": 12345},
        "sent": {"packets": 12340},
        "wire": {"packets": 12341},
        "dropped": {"rate_limit": 3, "no_route": 2, "no_memory": 0},
        "lost": {"no_memory": 0},
    }
    expired = row | {
        "name": "old",
        "state": "Expired",
        "reason": "Expired",
        "targets": [{"name": "ana", "endpoints": []}],
    }
    hook = {
        "interface": "pod0",
        "direction": "ingress",
        "attachment": "tcx",
        "state": "bypassed",
        "ahead": [77, 1234567],
    }
    out = io.StringIO()
    rows = {"node": "n1", "agent": {"state": "absent", "pid": None}, "mirrors": [row, expired], "hooks": [hook]}
    _print(Console(file=out, width=width, markup=False), rows)
    shown = out.getvalue()
    assert max(len(line) for line in shown.splitlines()) <= width
    words = set(shown.replace("│", " ").split())
    assert {
        "shop/a-mirror-with-a-long-name",
        "TargetNotFound",
        "[bold]anna",
        "12345",
        "rate_limit",
        "10.9.0.2",
    } <= words
    assert "Expired: Expired" not in shown


def test_words_of_others_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters, what looks like markup or a smiley: a filter may say so, and an address of IPv6."""
    nothing = {"packets": 0, "bytes": 0}
    ends = [{"address": "fd00:a:b::1", "state": "unreachable"}]
    mirror = {
        "kind": "TrafficMirror", "namespace": "shop", "name": "web", "state": "Rejected", "reason": "BadFilter",
        "message": "[/red] [bold]\r\x1b[2J", "interfaces": ["\x1b[31m"],
        "targets": [{"name": "zeek", "endpoints": ends}], "lease_s": 0, "matched": nothing, "sent": nothing,
        "dropped": {}, "wire": nothing, "lost": {},
    }  # fmt: skip
    place = {"interface": "[/b]\x1b", "ifindex": 7, "direction": "ingress"}
    hook = {**place, "attachment": None, "state": "missing", "ahead": []}
    agent = {"state": "absent", "pid": None, "version": None}
    rows: dict[str, Any] = {"node": "[/n]", "agent": agent, "mirrors": [mirror], "hooks": [hook]}
    console = _console()
    _print(console, plain(rows))
    console.print(Screen(rows, None, "12:00"))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert shown.count(r"[/red] [bold]\r\x1b[2J") == 2
    assert shown.count("fd00:a:b::1") == 2
    assert shown.count(r"[/b]\x1b") == 2
    assert "node [/n]" in shown
