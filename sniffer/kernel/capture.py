"""Live capture of interfaces: a small program of its own on their hooks, for as long as this process lives.

Nothing is pinned and nothing is shared with the mirror's programs: maps, programs and links end with their last fd, so
kill -9 leaves nothing. Filters of clsact, on kernels without TCX, have a watchdog (kernel/watchdog.py).
"""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import product
from mmap import mmap
from pathlib import Path
from typing import Self

from sniffer.abi.capture import VALID_UNTIL_WORD, Captured, pack_capture
from sniffer.abi.limits import Direction, Outcome
from sniffer.abi.records import Program, Tally, pack_program, unpack_counters
from sniffer.errors import KernelError, MachineError
from sniffer.kernel import bpf, tcx
from sniffer.kernel.pins import Pins
from sniffer.kernel.programs import built_digest, refusal
from sniffer.kernel.ringbuf import Ring
from sniffer.kernel.watchdog import Watched
from sniffer.plan.facts import Mechanism

_PROGRAMS = {Direction.INGRESS: "capture_ingress", Direction.EGRESS: "capture_egress"}
_TAPS = ("tap_ingress", "tap_egress")
_FILTER = 1
_ATTEMPTS = 8
RING_BYTES = 8 << 20
LEASE_S = 10


class Capture:
    """Frames from the moment it is made; `close` or the process's end takes everything away."""

    def __init__(
        self,
        ifindexes: Sequence[int],
        program: Program,
        snap_length: int,
        pin_root: Path,
        mechanism: Mechanism | None = None,
        ring: int = RING_BYTES,
    ) -> None:
        """program: as plan.rules links it, () for every frame. snap_length: bytes kept of each. ring: bytes, 2^n.

        pin_root: of an agent whose programs may be on the interfaces; ours run right behind them. MachineError: this
        kernel cannot, or we may not. KernelError (ENODEV): no such interface. mechanism: None is TCX, where there is.
        """
        self._open = ExitStack()
        try:
            by_link = tcx.has_tcx() if mechanism is None else mechanism is Mechanism.TCX
            loaded = self._open.enter_context(_loaded(ring))
            self._counters = self._map(loaded, "counters")
            if program:
                self._map(loaded, "filters").update(struct.pack("=I", _FILTER), pack_program(program))
            wanted = self._map(loaded, "captures")
            wanted.update(struct.pack("=I", 0), pack_capture(snap_length, _FILTER if program else 0))
            self._ring = Ring(self._map(loaded, "frames").fd)
            self._open.callback(self._ring.close)
            self._links = ExitStack()
            self._open.push(self._links)
            fds = {direction: loaded.program(name).fd for direction, name in _PROGRAMS.items()}
            self._lease: mmap | None = None
            self._watched: Watched | None = None
            if by_link:
                for ifindex, direction in product(ifindexes, fds):
                    self._links.callback(os.close, _attach(ifindex, direction, fds[direction], pin_root))
            else:
                self._lease = self._open.enter_context(wanted.mmap(writable=True))
                self.renew()
                self._watched = Watched(ifindexes, fds)
                self._links.callback(self._watched.close)
        except BaseException:
            self._open.close()
            raise
        self.fd = self._ring.fd
        """Readable when there are frames; for poll(2)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _map(self, loaded: bpf.Object, name: str) -> bpf.Map:
        found = loaded.map(name)
        self._open.callback(found.close)
        return found

    def read(self, length: int) -> Iterator[Captured]:
        """Frames that are there, oldest first, until their records come to `length` bytes; never waits."""
        return map(Captured.unpack, self._ring.read(length))

    def renew(self) -> None:
        """Lets the programs go on: where they could outlive us they stop LEASE_S after this was last called."""
        if self._lease is not None:
            bpf.store_word(self._lease, VALID_UNTIL_WORD, bpf.monotonic_ns() + LEASE_S * 10**9)

    def is_safe(self) -> bool:
        """Whether somebody would take the programs away if we died now."""
        return self._watched is None or self._watched.is_watched()

    def detach(self) -> None:
        """Off the hooks; what was captured can still be read."""
        self._links.close()

    def tallies(self) -> dict[Outcome, Tally]:
        """What became of the frames so far: MATCHED = SENT (into the ring) + DROPPED_NO_MEMORY (no room there)."""
        found = unpack_counters(self._counters.lookup(struct.pack("=I", 0)) or b"")
        return {outcome: found[outcome] for outcome in Outcome}

    def close(self) -> None:
        """Everything goes."""
        self._open.close()


def object_path() -> Path:
    """The compiled object, beside the agent's. MachineError: it is not there."""
    path = Path(__file__).with_name("capture.bpf.o")
    if not path.is_file():
        raise MachineError(f"the BPF object {path} is missing", "run `make build`")
    return path


def _loaded(ring: int) -> bpf.Object:
    entries = {"frames": ring, "captures": 1, "filters": _FILTER + 1, "counters": 1, "scratches": 1}
    try:
        path = object_path()
        return bpf.Object.open(path, digest=built_digest(path), entries=entries)
    except KernelError as error:
        raise refusal(error) from error


def _attach(ifindex: int, direction: Direction, program_fd: int, pin_root: Path) -> int:
    """A link behind the agent's tap, where there is one, else at the head: an agent is to find nobody ahead of it."""
    for _ in range(_ATTEMPTS):
        taps = _taps(Pins(pin_root))
        tap = next((number for number in tcx.query_tcx(ifindex, direction) if number in taps), None)
        try:
            if tap is None:
                return tcx.attach_tcx(ifindex, direction, program_fd)
            return tcx.attach_tcx_after(ifindex, direction, program_fd, tap)
        except KernelError as error:
            if tap is None:
                raise
            failure = error  # the agent has just changed or removed its program
    raise failure


def _taps(pins: Pins) -> frozenset[int]:
    """Ids of the agent's taps: while it upgrades, of two objects."""
    found = set()
    with suppress(OSError):
        for path in (home / name for home in pins.programs.iterdir() for name in _TAPS):
            with suppress(KernelError):
                fd = bpf.get_pinned(path)
                found.add(bpf.program_of(fd).id)
                os.close(fd)
    return frozenset(found)
