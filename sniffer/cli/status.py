"""`sniffer status`: what this node mirrors now."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sniffer.cli.screen import is_good, name_of, plain, state_of
from sniffer.cli.watch import watch as watch_rows
from sniffer.kernel.look import look_at
from sniffer.stats import limits
from sniffer.stats.rows import status

PIPE_WIDTH = 200
"""Columns where no terminal says how many: words are not cut, so that grep finds them."""


def show(root: Path, *, as_json: bool, watch: bool) -> int:
    """Prints the status, again and again with `watch`; 1 when some mirror or hook is not as asked."""
    console = _console()
    if watch and not as_json:
        return _exit_status(watch_rows(lambda: look_at(root), console))
    rows = status(look_at(root))
    if as_json:
        print(json.dumps(rows))
        return _exit_status(rows)
    _print(console, plain(rows))
    return _exit_status(rows)


def _console() -> Console:
    """Words are shown as they are: `[red]` is no colour, `:a:` in an address no smiley."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False, emoji=False)


def _exit_status(rows: dict[str, Any]) -> int:
    mirrors = all(is_good(row) for row in rows["mirrors"])
    hooks = all(row["state"] == "attached" for row in rows["hooks"])
    return 0 if mirrors and hooks else 1


def _print(console: Console, rows: dict[str, Any]) -> None:
    agent = rows["agent"]
    pid = f" (pid {agent['pid']})" if agent["pid"] else ""
    console.print(f"node {rows['node'] or '?'}, agent {agent['state']}{pid}", highlight=False)
    parts = ((_mirrors(rows["mirrors"]), _paragraph, "mirrors"), (_hooks(rows["hooks"]), _line, "hooks"))
    for table, narrow, name in parts:
        if table.__rich_measure__(console, console.options.update(max_width=PIPE_WIDTH)).maximum > console.width:
            console.print(*map(narrow, rows[name]), sep="\n")
        elif rows[name] or name == "mirrors":
            console.print(table)


def _mirrors(mirrors: list[dict[str, Any]]) -> Table:
    table = Table("mirror", "state", "interfaces", "targets", "lease")
    for name in ("matched", "sent", "dropped", "wire", "lost"):
        table.add_column(name, justify="right")
    for column in table.columns:
        column.overflow = "fold"  # a reason is looked up by its whole name
    for row in mirrors:
        table.add_row(
            name_of(row),
            "\n".join((state_of(row), *_more(row))),
            " ".join(row["interfaces"]),
            "\n".join(_target(target) for target in row["targets"]),
            f"{row['lease_s']:.0f} s" if row["interfaces"] else "-",
            str(row["matched"]["packets"]),
            str(row["sent"]["packets"]),
            _reasons(row["dropped"]),
            str(row["wire"]["packets"]),
            _reasons(row["lost"]),
        )
    return table


def _paragraph(row: dict[str, Any]) -> Group:
    """A mirror where the window is too narrow for the table."""
    lines = [Text(state_of(row)), *map(Text, _more(row))]
    if row["interfaces"]:
        lines.append(Text(f"on {' '.join(row['interfaces'])}, lease {row['lease_s']:.0f} s"))
    lines += [Text(f"to {_target(target)}") for target in row["targets"]]
    dropped, lost = (_reasons(row[name]).replace("\n", ", ") for name in ("dropped", "lost"))
    matched, sent, wire = (row[name]["packets"] for name in ("matched", "sent", "wire"))
    lines.append(Text(f"matched {matched} = sent {sent} + dropped {dropped}; wire {wire}, lost {lost}"))
    return Group(Text(name_of(row), style="bold"), *(Padding(line, (0, 0, 0, 2)) for line in lines))


def _more(row: dict[str, Any]) -> list[str]:
    return [words for words in (row["message"], limits.words(row)) if words]


def _target(target: dict[str, Any]) -> str:
    endpoints = (f"{e['address']} {e['state']}" for e in target["endpoints"])
    words = limits.words(target)
    where = ": " + ", ".join(endpoints) if target["endpoints"] else ""
    return target["name"] + where + (f" (at most {words})" if words else "")


def _reasons(reasons: dict[str, int]) -> str:
    return "\n".join(f"{name} {count}" for name, count in reasons.items() if count) or "0"


def _hooks(hooks: list[dict[str, Any]]) -> Table:
    table = Table("hook", "direction", "by", "state", "ahead")
    for row in hooks:
        table.add_row(_device(row), row["direction"], row["attachment"] or "", row["state"], _ahead(row))
    return table


def _line(row: dict[str, Any]) -> Text:
    """A hook where the window is too narrow for the table."""
    ahead = f", behind {_ahead(row)}" if row["ahead"] else ""
    return Text(f"{_device(row)} {row['direction']}: {row['state']}{ahead}")


def _device(hook: dict[str, Any]) -> str:
    return hook["interface"] or f"ifindex {hook['ifindex']}"


def _ahead(hook: dict[str, Any]) -> str:
    return ", ".join(f"program {number}" for number in hook["ahead"])
