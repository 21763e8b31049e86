"""How the demo talks: progress and tables, for people on a terminal and for those who read a log."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demo.stage import Line, Witnesses
from demo.verify import KINDS

PICTURE = """\
peer: the client ───── peer0 ┐
                             ├ bridge of the node
pod: HTTP and DNS ───── pod0 ┘
                         ╚═ a copy of every frame ═ up0 ═ VXLAN or GRE ═▶ ana: the analyzer, tshark
"""
COLOURS = {"HTTP": "green", "DNS": "cyan", "ICMP": "magenta", "ARP": "yellow"}
PER_KIND = 2


class Teller:
    """Prints to a console; every step with the seconds since the start."""

    def __init__(self, console: Console) -> None:
        self.console, self._began = console, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def title(self, words: str) -> None:
        self.console.print(f"\n[bold]{escape(words)}[/bold]", highlight=False)

    def step(self, words: str) -> None:
        self.console.print(f"[dim]{self.seconds:5.1f} s[/dim]  {escape(words)}", highlight=False, soft_wrap=True)

    def text(self, words: str, style: str = "dim") -> None:
        for line in words.rstrip("\n").splitlines():
            self.console.print(f"         {line}", style=style, highlight=False, markup=False, soft_wrap=True)

    def edit(self, before: str, after: str) -> None:
        """One line of a manifest, before and after."""
        self.text(f"- {before}", "red")
        self.text(f"+ {after}", "green")

    def good(self, words: str) -> None:
        self.console.print(f"         [green]✓[/green] {escape(words)}", highlight=False, soft_wrap=True)

    def bad(self, words: str) -> None:
        self.console.print(f"         [bold red]✗ {escape(words)}[/bold red]", highlight=False, soft_wrap=True)

    @contextmanager
    def watching(self, seen: Witnesses) -> Iterator["Watch"]:
        """While traffic flows; on a terminal with numbers that move."""
        with self.console.status("") as status:
            yield Watch(lambda: status.update(f"{len(seen.pod.frames)} frames at the pod's interface"))

    def decoded(self, lines: Iterable[tuple[str, Line]]) -> None:
        """A handful of what tshark decoded, the first few of each kind."""
        table = Table.grid(padding=(0, 1))
        left = dict.fromkeys(COLOURS, PER_KIND)
        for kind, line in lines:
            if left.get(kind, 0) and _telling(kind, line):
                left[kind] -= 1
                protocol = f"[{COLOURS[kind]}]{line.protocol}[/]"
                words = escape(line.words if len(line.words) <= 64 else f"{line.words[:63]}…")
                table.add_row("        ", protocol, f"{line.source} → {line.destination}", words)
        self.console.print(table, highlight=False)

    def table(self, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[int]]], bad: Sequence[str] = ()) -> None:
        """One row per kind that occurred and their sum; in the columns `bad` anything but 0 is red."""
        table = Table("", *columns, show_footer=True, box=SIMPLE, pad_edge=False)
        listed = sorted(rows, key=lambda row: KINDS.index(row[0]))
        for column in table.columns[1:]:
            column.justify = "right"
        for kind, numbers in listed:
            named = zip(columns, numbers, strict=True)
            cells = [f"[bold red]{number}[/]" if name in bad and number else str(number) for name, number in named]
            table.add_row(kind, *cells)
        table.columns[0].footer = "all"
        for place, column in enumerate(table.columns[1:]):
            column.footer = str(sum(numbers[place] for _, numbers in listed))
        grid = Table.grid()
        grid.add_row("         ", table)
        self.console.print(grid)


class Watch:
    """Sleeps with its eyes open."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._look()
            time.sleep(0.1)


def _telling(kind: str, line: Line) -> bool:
    """HTTP without bare TCP segments: what people know at a glance."""
    return line.protocol.startswith("HTTP") if kind == "HTTP" else kind in line.protocol
