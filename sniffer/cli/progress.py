"""What goes on, on a terminal, for whoever has waited two seconds."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

PATIENCE_S = 2.0


@contextlib.contextmanager
def progress(words: str) -> Iterator[Callable[[str], None]]:
    """Shows the words, and those that it is called with later, from PATIENCE_S on; gone at the end.

    On standard error, and only where that is a terminal.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    status = Console(stderr=True).status(words)
    timer = threading.Timer(PATIENCE_S, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield status.update
    finally:
        timer.cancel()
        timer.join()  # it may just be starting
        status.stop()
