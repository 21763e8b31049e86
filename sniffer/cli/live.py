"""A live capture from the kernel to standard output: pcapng, until somebody or something ends it.

Whoever reads is far away (`kubectl exec`) and may die without a word. So nothing here waits without looking at all:
output that nobody reads any more, input that has ended or fallen silent, signals, time, the interfaces themselves.
"""

import errno
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

from sniffer import pcapng
from sniffer.abi.capture import Captured
from sniffer.abi.limits import Direction, Outcome
from sniffer.errors import KernelError
from sniffer.kernel import bpf
from sniffer.kernel.capture import Capture

_READ = 256 << 10
_PENDING = 1 << 20
"""Bytes that wait to be written before no more are taken out of the ring."""
_LOOK_S = 1.0
"""How often clocks are compared and interfaces looked for."""
_FLUSH_S = 2.0
"""How long a reader may take over the last bytes."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """When to end without being told."""

    frames: int | None = None
    duration_s: float | None = None
    keepalive_s: float | None = None
    """Something must come from standard input so often, and it must not end; None: it is not read."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a capture."""

    frames: int
    octets: int
    lost: int
    """Frames that were wanted and found no room, because the reader was too slow."""
    ended: str
    """Why, in words."""


class Live:
    """`run` once."""

    def __init__(
        self, capture: Capture, numbers: Mapping[int, int], ways: Mapping[Direction, pcapng.Direction], output: int
    ) -> None:
        """numbers: of pcapng's interfaces by ifindex. ways: what their directions are called. output: an fd."""
        self._capture, self._numbers, self._ways, self._output = capture, numbers, ways, output
        self._pending = bytearray()
        self._frames = self._octets = 0
        self._heard_s = 0.0
        self._offset_ns = _offset_ns()

    def run(self, head: bytes, bounds: Bounds, is_there: Callable[[], bool], wake: int, stdin: int = 0) -> Summary:
        """Writes `head`, then frames, then statistics. is_there: whether anything is left to capture from. wake: an fd
        that is readable when it is to end, as `signals` makes it.
        """
        began_ns = time.time_ns()
        self._pending += head
        with _not_blocking(self._output):
            ended = self._loop(bounds, is_there, stdin, wake)
            self._capture.detach()
            lost = self._capture.tallies()[Outcome.DROPPED_NO_MEMORY].packets
            if ended != _NOBODY:
                self._finish(bounds, began_ns, lost)
        return Summary(self._frames, self._octets, lost, ended)

    def _loop(self, bounds: Bounds, is_there: Callable[[], bool], stdin: int, wake: int) -> str:
        """Until something ends it, which is the answer."""
        over_s = time.monotonic() + (inf if bounds.duration_s is None else bounds.duration_s)
        self._heard_s = time.monotonic()
        silence_s = inf if bounds.keepalive_s is None else bounds.keepalive_s
        look_s = time.monotonic() + _LOOK_S
        while True:
            ready = self._wait(
                min(over_s, look_s, self._heard_s + silence_s), wake, None if silence_s == inf else stdin
            )
            ended = "told to" if wake in ready else self._react(ready, stdin, bounds.frames)
            now_s = time.monotonic()
            if not ended and now_s >= look_s:
                look_s, self._offset_ns = now_s + _LOOK_S, _offset_ns()
                self._capture.renew()
                ended = "" if is_there() else "the interface is gone"
                ended = ended or ("" if self._capture.is_safe() else "its watchdog is dead")
            if not ended and now_s >= over_s:
                ended = f"{bounds.duration_s:g} s"
            if not ended and now_s >= self._heard_s + silence_s:
                ended = f"nothing came from standard input for {silence_s:g} s"
            if ended:
                return ended

    def _wait(self, until_s: float, wake: int, stdin: int | None) -> set[int]:
        """The fds on which something has happened, at the latest when it is time."""
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        poll.register(self._output, select.POLLOUT if self._pending else 0)
        if len(self._pending) < _PENDING:
            poll.register(self._capture.fd, select.POLLIN)
        if stdin is not None:
            poll.register(stdin, select.POLLIN)
        return {fd for fd, _ in poll.poll(max(until_s - time.monotonic(), 0) * 1000)}

    def _react(self, ready: set[int], stdin: int, limit: int | None) -> str:
        """Reads and writes; why it is over, or ""."""
        if stdin in ready:
            if not os.read(stdin, 1 << 12):
                return "standard input has ended"
            self._heard_s = time.monotonic()
        if self._output in ready and not self._write():
            return _NOBODY
        if self._capture.fd in ready and self._take(limit):
            return f"{limit} frames"
        return ""

    def _take(self, limit: int | None) -> bool:
        """Out of the ring, as blocks; True: as many as were wanted."""
        for frame in self._capture.read(_READ):
            if self._frames == limit:
                return True
            self._frames += 1
            self._octets += len(frame.octets)
            self._pending += self._block(frame)
        return self._frames == limit

    def _block(self, frame: Captured) -> bytes:
        way = self._ways[frame.direction]
        number, time_ns = self._numbers.get(frame.ifindex, 0), frame.when_ns + self._offset_ns
        return pcapng.packet(number, time_ns, frame.octets, frame.length, direction=way)

    def _write(self) -> bool:
        """As much as there is room for; False: nobody reads any more. KernelError: it cannot be written, for good."""
        try:
            if self._pending:
                del self._pending[: os.write(self._output, memoryview(self._pending)[:_PENDING])]
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                return False
            raise KernelError("write to standard output", error.errno or 0) from None
        return bool(self._pending) or _has_reader(self._output)

    def _finish(self, bounds: Bounds, began_ns: int, lost: int) -> None:
        """What is in the ring still, and the statistics, as far as somebody takes them."""
        until_s = time.monotonic() + _FLUSH_S
        while (before := self._frames) != bounds.frames:
            self._take(bounds.frames)
            if self._frames == before or not self._drain(until_s):
                break
        accepted = self._capture.tallies()[Outcome.MATCHED].packets
        for number in sorted(set(self._numbers.values())):
            counts = (accepted, lost) if number == 0 else (0, 0)  # they are counted together
            self._pending += pcapng.statistics(number, began_ns, time.time_ns(), *counts)
        self._drain(until_s)

    def _drain(self, until_s: float) -> bool:
        """Writes what is pending; False: not all of it in time."""
        while self._pending:
            poll = select.poll()
            poll.register(self._output, select.POLLOUT)
            if not poll.poll(max(until_s - time.monotonic(), 0) * 1000) or not self._write():
                return False
        return True


_NOBODY = "nobody reads any more"


def _offset_ns() -> int:
    """What to add to CLOCK_MONOTONIC for nanoseconds since 1970."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - bpf.monotonic_ns()


def _has_reader(output: int) -> bool:
    poll = select.poll()
    poll.register(output, 0)
    return not poll.poll(0)


@contextmanager
def signals() -> Iterator[int]:
    """An fd that is readable after a signal to end."""
    ours, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    former = {n: signal.signal(n, lambda *_: None) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    wakeup = signal.set_wakeup_fd(theirs)
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in former.items():
            signal.signal(number, handler)
        os.close(ours)
        os.close(theirs)


@contextmanager
def _not_blocking(output: int) -> Iterator[None]:
    before = os.get_blocking(output)
    os.set_blocking(output, False)
    try:
        yield
    finally:
        os.set_blocking(output, before)
