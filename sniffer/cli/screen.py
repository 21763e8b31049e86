"""The screen of `sniffer status --watch`: what fits a window of any size, the most important first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from sniffer.cli.numbers import short
from sniffer.model.problem import printable
from sniffer.stats.rates import Key, Rates, key_of, total
from sniffer.stats.rows import Row

GOOD_STATES = ("Programmed", "Suspended", "Pending", "Expired")
NAME_WIDTH_MIN, NAME_WIDTH_MAX = 12, 40
TROUBLES_LIMIT = 5
_GAP = 2
_LINE = 10_000
"""Characters of a word of others, at most."""
_STYLES = {"Programmed": "green", "Pending": "yellow", "Suspended": "dim", "Expired": "dim"}
_BAD = "bold red"
_LEASE_SHORT_S = 10

Rated = Mapping[Key, Rates] | None
"""None: there was one look so far."""


@dataclass(frozen=True, slots=True)
class _Column:
    head: str
    cell: Callable[[Row, Rates | None], Text]
    width: int = 0
    """At least, so that columns stand still while numbers change."""
    limit: int = 60
    right: bool = True


class Screen:
    """One picture, made for the window that it is printed to."""

    def __init__(self, rows: Row, rated: Rated, clock: str) -> None:
        """rows: of stats.rows.status; clock: the time of day, in words."""
        self._rows = rows = plain(rows)
        self._rated = rated
        self._clock = clock
        self._mirrors = sorted(rows["mirrors"], key=_order)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Never more lines than the window has."""
        height = (options.height or console.size.height) if console.is_terminal else 1 << 16
        troubles = self._troubles()
        least = 0 if height < 10 else 1 if height < 16 else 3
        troubles = troubles[: max(min(height - len(self._mirrors) - 7, TROUBLES_LIMIT), least)]
        room = height - 6 - len(troubles) - bool(troubles)
        room = max(room - (len(self._mirrors) > room), 1)  # one line says that there are more
        shown = self._mirrors[:room]
        yield _line(self._head())
        yield _line(self._sums())
        yield Text()
        if self._mirrors:
            yield self._table(shown, options.max_width)
        else:
            yield Text("no mirror", style="dim")
        left = self._mirrors[room:]
        if left:
            bad = sum(not is_good(row) for row in left)
            words = f", {bad} of them not as asked" if bad else ""
            yield _line(Text(f"... and {len(left)} more{words}: a higher window shows them", style="dim"))
        if troubles:
            yield Text()
            for one in troubles:
                yield _line(one)
        yield Text()
        yield _line(self._foot())

    def _head(self) -> Text:
        agent = self._rows["agent"]
        good = sum(row["state"] == "Programmed" for row in self._rows["mirrors"])
        running = agent["state"] == "running"
        words = f"agent {agent['version'] or ''} running, pid {agent['pid']}" if running else "agent absent"
        return Text.assemble(
            ("sniffer", "bold"),
            f"  {self._rows['node'] or '?'}  ",
            (words, "green" if running else _BAD),
            f"  {good} of {len(self._mirrors)} mirrors in force  ",
            (self._clock, "dim"),
        )

    def _sums(self) -> Text:
        if self._rated is None:
            return Text("one look so far: rates follow", style="dim")
        all_of_it = total(self._rated)
        dropped, lost = sum(all_of_it.dropped_per_s.values()), sum(all_of_it.lost_per_s.values())
        return Text.assemble(
            f"matched {short(all_of_it.matched_per_s)}/s  sent {short(all_of_it.sent_per_s)}/s  ",
            f"wire {short(all_of_it.wire_bits_per_s, 'bit/s')}  ",
            (f"dropped {short(dropped)}/s", "red" if dropped else ""),
            "  ",
            (f"lost {short(lost)}/s", "red" if lost else ""),
        )

    def _foot(self) -> Text:
        states = [hook["state"] for hook in self._rows["hooks"]]
        counts = ", ".join(f"{states.count(name)} {name}" for name in dict.fromkeys(states))
        return Text(f"{len(states)} hooks{f': {counts}' if counts else ''}   Ctrl-C ends", style="dim")

    def _troubles(self) -> list[Text]:
        """What is not as asked, a line each."""
        found = [
            Text.assemble((f"{name_of(row)}: ", _BAD), row["message"] or f"{row['state']}, {row['reason']}")
            for row in self._mirrors
            if not is_good(row)
        ]
        found += [
            Text.assemble((f"{hook['interface'] or hook['ifindex']} {hook['direction']}: ", _BAD), _of_hook(hook))
            for hook in self._rows["hooks"]
            if hook["state"] != "attached"
        ]
        ends = {
            (t["name"], e["address"], e["state"])
            for row in self._mirrors
            for t in row["targets"]
            for e in t["endpoints"]
        }
        found += [
            Text.assemble((f"{target} {address}: ", _BAD), state.replace("_", " "))
            for target, address, state in sorted(ends)
            if state != "reachable"
        ]
        return found

    def _table(self, shown: Sequence[Row], width: int) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
        rated = [None if self._rated is None else self._rated.get(key_of(row)) for row in shown]
        chosen = self._fitting(shown, rated, width)
        for column, width_of in chosen:
            table.add_column(
                column.head,
                justify="right" if column.right else "left",
                width=width_of,
                no_wrap=True,
                overflow="ellipsis",
            )
        for row, rate in zip(shown, rated, strict=True):
            table.add_row(*(column.cell(row, rate) for column, _ in chosen))
        return table

    def _fitting(self, shown: Sequence[Row], rated: Sequence[Rates | None], width: int) -> list[tuple[_Column, int]]:
        """The columns for which there is room, in their order, and how wide they are."""
        widths = [
            min(max(one.width, len(one.head), *(one.cell(row, rate).cell_len for row, rate in found)), one.limit)
            for found in [list(zip(shown, rated, strict=True))]
            for one in _COLUMNS
        ]
        used, chosen = 0, {0}
        for place, number in enumerate(_PRIORITY):
            name = min(NAME_WIDTH_MIN, widths[0]) if place < _BEFORE_NAME else widths[0]
            if name + used + widths[number] + _GAP <= width:
                used += widths[number] + _GAP
                chosen.add(number)
        widths[0] = min(widths[0], max(width - used, 1))
        return [(_COLUMNS[number], widths[number]) for number in sorted(chosen)]


def plain(value: Any) -> Any:
    """Rows without what a terminal obeys, whoever wrote their words."""
    if isinstance(value, str):
        return printable(value, _LINE)
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {name: plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def is_good(row: Row) -> bool:
    """Whether a mirror is as asked."""
    return row["state"] in GOOD_STATES and row["reason"] not in ("LeaseEnded", "Storm")


def name_of(row: Row) -> str:
    """Of a mirror, as people write it."""
    return row["name"] if row["namespace"] is None else f"{row['namespace']}/{row['name']}"


def state_of(row: Row) -> str:
    """State and reason of a mirror, where they say two things."""
    return row["state"] if row["reason"] in (None, row["state"]) else f"{row['state']}: {row['reason']}"


def _order(row: Row) -> tuple[bool, int, str]:
    """What is not as asked first; then the busiest, by all that they ever matched: those change places rarely."""
    return is_good(row), -int(row["matched"]["packets"]), name_of(row)


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _of_hook(hook: Row) -> str:
    if hook["state"] == "bypassed":
        return f"bypassed by {', '.join(f'program {number}' for number in hook['ahead'])}"
    return str(hook["state"])


def _state(row: Row, _: Rates | None) -> Text:
    return Text(state_of(row), style=_STYLES.get(row["state"], _BAD) if is_good(row) else _BAD)


def _per_s(value: Callable[[Rates], float], unit: str = "") -> Callable[[Row, Rates | None], Text]:
    return lambda _, rates: Text("-", style="dim") if rates is None else Text(short(value(rates), unit))


def _reasons(value: Callable[[Rates], Mapping[str, float]], words: bool) -> Callable[[Row, Rates | None], Text]:
    def cell(_: Row, rates: Rates | None) -> Text:
        if rates is None:
            return Text("-", style="dim")
        found = value(rates)
        if not words:
            return Text(short(sum(found.values())), style="red" if found else "dim")
        return Text(", ".join(f"{name} {short(rate)}" for name, rate in found.items()), style="red")

    return cell


def _lease(row: Row, _: Rates | None) -> Text:
    left_s = row["lease_s"]
    return Text(f"{left_s:.0f} s", style="red" if 0 < left_s < _LEASE_SHORT_S else "" if left_s else "dim")


def _to(row: Row, _: Rates | None) -> Text:
    parts = []
    for target in row["targets"]:
        good = all(endpoint["state"] == "reachable" for endpoint in target["endpoints"])
        parts.append((target["name"], "" if good else "red"))
    return Text(" ").join(Text(*part) for part in parts)


def _on(row: Row, _: Rates | None) -> Text:
    names = row["interfaces"]
    return Text(" ".join(names) if len(names) < 3 else f"{len(names)} interfaces")


_COLUMNS = (
    _Column("mirror", lambda row, _: Text(name_of(row)), right=False, limit=NAME_WIDTH_MAX),
    _Column("state", _state, right=False, limit=34),
    _Column("matched/s", _per_s(lambda rates: rates.matched_per_s), 9),
    _Column("sent/s", _per_s(lambda rates: rates.sent_per_s), 7),
    _Column("wire", _per_s(lambda rates: rates.wire_bits_per_s, "bit/s"), 11),
    _Column("dropped/s", _reasons(lambda rates: rates.dropped_per_s, words=False), 9),
    _Column("lost/s", _reasons(lambda rates: rates.lost_per_s, words=False), 7),
    _Column("lease", _lease, 5),
    _Column("matched", lambda row, _: Text(short(row["matched"]["packets"])), 7),
    _Column("to", _to, right=False, limit=30),
    _Column("on", _on, right=False, limit=30),
    _Column("reasons", _reasons(lambda rates: {**rates.dropped_per_s, **rates.lost_per_s}, words=True), right=False),
)
_PRIORITY = (2, 5, 1, 4, 6, 3, 7, 11, 9, 10, 8)
"""In which order columns find room, by their numbers above."""
_BEFORE_NAME = 3
"""So many of them come before the whole name."""
