"""Work that may wait for long, one piece at a time, in a thread of its own: whoever gives it goes on meanwhile."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Errand(Generic[Result]):
    """`start`, and `take` when it has `ended`; both by one thread.

    Its thread ends with the process, whatever it waits for: who is told to end does not wait for it.
    """

    def __init__(self, called: Callable[[], None]) -> None:
        """called: in the errand's thread, when it has ended; must not block."""
        self._called = called
        self._given: SimpleQueue[tuple[Future[Result], Callable[[], Result]]] = SimpleQueue()
        self._future: Future[Result] | None = None
        self._thread: threading.Thread | None = None

    @property
    def under_way(self) -> bool:
        """Whether something was given and is not taken yet."""
        return self._future is not None

    @property
    def ended(self) -> bool:
        """Whether `take` need not wait."""
        return self._future is not None and self._future.done()

    def start(self, work: Callable[[], Result]) -> None:
        """Gives it a piece of work. RuntimeError: there is another that has not been taken."""
        if self._future:
            raise RuntimeError("one errand at a time")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="errand", daemon=True)
            self._thread.start()
        self._future = Future()
        self._given.put((self._future, work))

    def take(self) -> Result:
        """What came of it; waits for that. Raises what the work has raised; RuntimeError: nothing was given."""
        future, self._future = self._future, None
        if future is None:
            raise RuntimeError("no errand")
        return future.result()

    def drop(self) -> None:
        """Waits until nothing is under way; what came of it is not wanted."""
        if self._future:
            self._future.exception()
        self._future = None

    def _run(self) -> None:
        while True:
            future, work = self._given.get()
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001 (whoever takes it has it raised)
                future.set_exception(error)
            del future, work  # while it waits for the next it holds on to nothing
            self._called()
