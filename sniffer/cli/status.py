"""`sniffer status`: what this node mirrors now."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sniffer.cli.screen import is_good
from sniffer.cli.watch import watch as watch_rows
from sniffer.kernel.look import look_at
from sniffer.stats import limits
from sniffer.stats.rows import status

PIPE_WIDTH = 200
"""Columns where no terminal says how many: words are not cut, so that grep finds them."""


def show(root: Path, *, as_json: bool, watch: bool) -> int:
    """Prints the status, again and again with `watch`; 1 when some mirror or hook is not as asked."""
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    if watch and not as_json:
        return _exit_status(watch_rows(lambda: look_at(root), console))
    rows = status(look_at(root))
    if as_json:
        print(json.dumps(rows))
        return _exit_status(rows)
    for part in _tables(rows):
        console.print(part)
    return _exit_status(rows)


def _exit_status(rows: dict[str, Any]) -> int:
    mirrors = all(is_good(row) for row in rows["mirrors"])
    hooks = all(row["state"] == "attached" for row in rows["hooks"])
    return 0 if mirrors and hooks else 1


def _tables(rows: dict[str, Any]) -> list[Any]:
    agent = rows["agent"]
    pid = f" (pid {agent['pid']})" if agent["pid"] else ""
    parts: list[Any] = [f"node {rows['node'] or '?'}, agent {agent['state']}{pid}", _mirrors(rows["mirrors"])]
    if rows["hooks"]:
        parts.append(_hooks(rows["hooks"]))
    return parts


def _mirrors(mirrors: list[dict[str, Any]]) -> Table:
    table = Table("mirror", "state", "interfaces", "targets", "lease")
    for name in ("matched", "sent", "dropped", "wire", "lost"):
        table.add_column(name, justify="right")
    for column in table.columns:
        column.overflow = "fold"  # a reason is looked up by its whole name
    for row in mirrors:
        state = row["state"] if not row["reason"] else f"{row['state']}: {row['reason']}"
        state += "".join(f"\n{words}" for words in (row["message"], limits.words(row)) if words)
        table.add_row(
            row["name"] if row["namespace"] is None else f"{row['namespace']}/{row['name']}",
            state,
            " ".join(row["interfaces"]),
            "\n".join(_target(target) for target in row["targets"]),
            f"{row['lease_s']:.0f} s",
            str(row["matched"]["packets"]),
            str(row["sent"]["packets"]),
            _reasons(row["dropped"]),
            str(row["wire"]["packets"]),
            _reasons(row["lost"]),
        )
    return table


def _target(target: dict[str, Any]) -> str:
    endpoints = (f"{e['address']} {e['state']}" for e in target["endpoints"])
    words = limits.words(target)
    return f"{target['name']}: {', '.join(endpoints)}" + (f" (at most {words})" if words else "")


def _reasons(reasons: dict[str, int]) -> str:
    return "\n".join(f"{name} {count}" for name, count in reasons.items() if count) or "0"


def _hooks(hooks: list[dict[str, Any]]) -> Table:
    table = Table("hook", "direction", "by", "state", "ahead")
    for row in hooks:
        name = row["interface"] or f"ifindex {row['ifindex']}"
        ahead = ", ".join(f"program {number}" for number in row["ahead"])
        table.add_row(name, row["direction"], row["attachment"] or "", row["state"], ahead)
    return table
