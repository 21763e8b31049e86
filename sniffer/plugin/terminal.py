"""What people see: tables, colours on a terminal only, and no control character that came from a cluster."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

from sniffer.model.problem import printable

Key = TypeVar("Key")
Value = TypeVar("Value")

_COLOURS = {
    "ok": "32", "Ready": "32", "warn": "33", "fail": "1;31", "Accepted": "32", "Programmed": "32", "Pending": "33",
    "Degraded": "33", "Suspended": "2", "Expired": "2",
}  # fmt: skip
_OTHER = "31"
_CELL = 600
_GAP = "  "
_WORKERS = 8


def table(header: Sequence[str], rows: Iterable[Sequence[str]], coloured: int | None = None) -> str:
    """Columns as wide as they need to be, the last one free; `coloured`: the number of the column with the state."""
    cells = [[printable(cell, _CELL) for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in [list(header), *cells]) for n in range(len(header))]
    return "\n".join(_lines([list(header), *cells], widths, coloured))


def _lines(rows: Sequence[Sequence[str]], widths: Sequence[int], coloured: int | None) -> Iterator[str]:
    for number, row in enumerate(rows):
        shown = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if coloured is not None and number:
            shown[coloured] = paint(row[coloured], row[coloured]) + " " * (widths[coloured] - len(row[coloured]))
        yield _GAP.join(shown).rstrip()


def paint(text: str, state: str) -> str:
    """The text in the colour of a state, on a terminal."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ or not text:
        return text
    return f"\x1b[{_COLOURS.get(state, _OTHER)}m{text}\x1b[0m"


def show(text: str) -> None:
    """On standard output. Nothing here has control characters but line ends and colours of our own."""
    print(text)


def say(text: str) -> None:
    """On standard error, as one line."""
    print(f"sniffer: {printable(text, 2000)}", file=sys.stderr, flush=True)


@contextmanager
def progress(words: str) -> Iterator[Callable[[int, int], None]]:
    """A line on the terminal while it lasts; call it with how many of how many are done."""
    shown = sys.stderr.isatty()

    def tell(done: int, of: int) -> None:
        if shown:
            print(f"\r{words} {done}/{of}", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def ask_all(words: str, keys: Iterable[Key], ask: Callable[[Key], Value]) -> Mapping[Key, Value]:
    """The answers, some questions at a time, with progress on a terminal."""
    wanted = list(keys)
    answers: dict[Key, Value] = {}
    with progress(words) as tell, ThreadPoolExecutor(_WORKERS) as pool:
        asked = {pool.submit(ask, key): key for key in wanted}
        for number, future in enumerate(as_completed(asked), start=1):
            answers[asked[future]] = future.result()
            tell(number, len(wanted))
    return {key: answers[key] for key in wanted}
