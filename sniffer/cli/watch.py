"""`sniffer status --watch`: the same look again and again, on a screen of its own until Ctrl-C."""

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.live import Live

from sniffer.cli.screen import Rated, Screen
from sniffer.stats.rates import rates
from sniffer.stats.rows import Look, Row, status

REFRESH_S = 1.0


def watch(look: Callable[[], Look], console: Console) -> Row:
    """The last rows, after Ctrl-C or SIGTERM: what was on the terminal before is there again.

    Where it is no terminal, one picture after another is printed. Whatever `look` raises ends it as well.
    """
    signal.signal(signal.SIGTERM, _interrupt)  # else it would leave the terminal as it is
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
    seen = look()
    rows, rated = status(seen), None
    try:
        if not console.is_terminal:
            while True:
                console.print(_screen(rows, rated))
                seen, rows, rated = _next(look, seen, rows)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(_screen(rows, rated), refresh=True)
                ends_s = time.monotonic() + REFRESH_S
                while (left_s := ends_s - time.monotonic()) > 0:
                    if signal.sigtimedwait({signal.SIGWINCH}, left_s):
                        live.refresh()  # the same for a window of another size
                seen, rows, rated = _now(look, seen, rows)
    except KeyboardInterrupt:
        return rows


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _next(look: Callable[[], Look], before: Look, rows: Row) -> tuple[Look, Row, Rated]:
    time.sleep(REFRESH_S)
    return _now(look, before, rows)


def _now(look: Callable[[], Look], before: Look, rows: Row) -> tuple[Look, Row, Rated]:
    seen = look()
    now = status(seen)
    return seen, now, rates(rows["mirrors"], now["mirrors"], max(seen.now_ns - before.now_ns, 1) / 1e9)


def _screen(rows: Row, rated: Rated) -> Screen:
    return Screen(rows, rated, time.strftime("%H:%M:%S"))
