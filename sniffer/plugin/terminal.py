"""What people see: tables, colours on a terminal only, and no control character that came from a cluster."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from threading import Event, Thread
from typing import TypeVar

from sniffer.model.problem import printable

Key = TypeVar("Key")
Value = TypeVar("Value")

_COLOURS = {
    "ok": "32", "Ready": "32", "warn": "33", "fail": "1;31", "Accepted": "32", "Programmed": "32", "Pending": "33",
    "Degraded": "33", "Suspended": "2", "Expired": "2",
}  # fmt: skip
_OTHER = "31"
ASKING = "asking the API server"
_CELL = 600
PATIENCE_S = 2.0
"""How long nobody wonders what goes on."""
_REDRAWN_S = 1.0
_ERASE = "\r\x1b[K"
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
    say_line(f"sniffer: {printable(text, 2000)}")


def say_line(line: str) -> None:
    """On standard error; a line of progress gives way to it."""
    print(f"{_ERASE if sys.stderr.isatty() else ''}{line}", file=sys.stderr, flush=True)


@contextmanager
def progress(words: str) -> Iterator[Callable[[str], None]]:
    """What goes on, and since when, from PATIENCE_S on; call it with other words. Gone at the end.

    On standard error, and only where that is a terminal.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    now, over, began_s = [words], Event(), time.monotonic()

    def show_it() -> None:
        wait_s = PATIENCE_S
        while not over.wait(wait_s):
            wait_s = _REDRAWN_S
            line = f"{_ERASE}{now[-1]}, {time.monotonic() - began_s:.0f} s"
            print(line, end="", file=sys.stderr, flush=True)

    showing = Thread(target=show_it, daemon=True)
    showing.start()
    try:
        yield now.append
    finally:
        over.set()
        showing.join()
        if time.monotonic() - began_s >= PATIENCE_S:
            print(_ERASE, end="", file=sys.stderr, flush=True)


def ask_all(
    words: str, keys: Iterable[Key], ask: Callable[[Key], Value], tell: Callable[[str], None]
) -> Mapping[Key, Value]:
    """The answers, some questions at a time; `tell` of a progress hears how many have come."""
    wanted = list(keys)
    answers: dict[Key, Value] = {}
    tell(f"{words}: 0 of {len(wanted)}")
    with ThreadPoolExecutor(_WORKERS) as pool:
        asked = {pool.submit(ask, key): key for key in wanted}
        for number, future in enumerate(as_completed(asked), start=1):
            answers[asked[future]] = future.result()
            tell(f"{words}: {number} of {len(wanted)}")
    return {key: answers[key] for key in wanted}
