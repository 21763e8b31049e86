"""`sniffer recv`: the analyzer's side without a tunnel device."""

import json
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sniffer.cli.received import CaptureFile, words
from sniffer.decap.prefilter import PORTS_MAX, program
from sniffer.decap.receiver import ETHERTYPE_IPV4, ETHERTYPE_IPV6, Arrival, Asked, Receiver, lost
from sniffer.decap.tunnels import Kind
from sniffer.errors import InputError
from sniffer.kernel.ring import ETHERTYPE_ALL, RETIRE_MS, Packet, Ring
from sniffer.kernel.silence import silence
from sniffer.model.problem import quoted

STANDARD_OUTPUT = Path("-")
LOOK_MS = 100
"""How often signals and time are looked at where nothing arrives."""
BUFFER_MIB = range(1, 4097)


@dataclass(frozen=True, slots=True)
class Options:
    """As given; `count` frames and `duration_s` end it, None: a signal does. `buffer_mib`: of the ring."""

    vxlan: Sequence[int]
    geneve: Sequence[int]
    gre: bool
    erspan: bool
    device: str = ""
    file: Path | None = None
    count: int | None = None
    duration_s: float | None = None
    buffer_mib: int = 32
    as_json: bool = False


def recv(options: Options) -> int:
    """Receives until it is told to end, and says what it has seen. 1: something was lost, or dropped here.

    InputError: options that contradict each other, no such device, a file that cannot be written.
    KernelError: not permitted, or the file's disk is full.
    """
    receiver = Receiver(_asked(options))
    started = time.monotonic()
    with _signals() as is_over:
        dropped = _receive(options, receiver, is_over)
        row = {"seconds": round(time.monotonic() - started, 3), "dropped": {"ring": dropped}, **receiver.row()}
        to_standard_output = options.as_json and options.file != STANDARD_OUTPUT
        text = json.dumps(row) if options.as_json else words(row)
        print(text, file=sys.stdout if to_standard_output else sys.stderr, flush=True)
    return 1 if dropped or any(lost(tunnel) for tunnel in receiver.tunnels.values()) else 0


def _receive(options: Options, receiver: Receiver, is_over: Sequence[int]) -> int:
    """Fills the receiver and the file; returns packets for which there was no room."""
    with ExitStack() as stack:
        rings = [stack.enter_context(ring) for ring in _rings(options, receiver.asked)]
        file = CaptureFile(stack.enter_context(_opened(options.file)))
        stack.enter_context(silence(receiver.asked.ports, bool(receiver.asked.over_gre)))
        print(f"sniffer: receiving on {options.device or 'any device'}; Ctrl-C ends it", file=sys.stderr, flush=True)
        _loop(options, receiver, rings, file, is_over)
        receiver.reassembly.finish()
        file.end(receiver.tunnels.values())
        return sum(ring.drops() for ring in rings)


def _asked(options: Options) -> Asked:
    ports: dict[int, Kind] = {}
    for kind, given in ((Kind.VXLAN, options.vxlan), (Kind.GENEVE, options.geneve)):
        for port in given:
            if not 1 <= port <= 65535:
                raise InputError(f"--{kind}: given {port}, allowed a UDP port, 1 to 65535")
            if ports.setdefault(port, kind) != kind:
                raise InputError(f"--{kind}: given {port}, allowed a port that --{ports[port]} has not")
    over_gre = frozenset(
        kind for kind, is_asked in ((Kind.GRE, options.gre), (Kind.ERSPAN, options.erspan)) if is_asked
    )
    if not ports and not over_gre:
        raise InputError("given no tunnel, allowed one or more of --vxlan PORT, --geneve PORT, --gre, --erspan")
    if len(ports) > PORTS_MAX:
        raise InputError(f"given {len(ports)} ports, allowed {PORTS_MAX}")
    if options.count is not None and options.count < 1:
        raise InputError(f"--count: given {options.count}, allowed 1 or more")
    if options.duration_s is not None and not options.duration_s > 0:
        raise InputError(f"--duration: given {options.duration_s}, allowed more than 0 seconds")
    if options.buffer_mib not in BUFFER_MIB:
        raise InputError(
            f"--buffer: given {options.buffer_mib}, allowed {BUFFER_MIB.start} to {BUFFER_MIB.stop - 1} MiB"
        )
    return Asked(ports, over_gre)


def _rings(options: Options, asked: Asked) -> Iterator[Ring]:
    """One for a device, two for any: there, only sockets for one protocol see every packet once."""
    code = program(asked)
    if options.device:
        devices = [name for _, name in socket.if_nameindex()]
        if options.device not in devices:
            raise InputError(f"--interface: given {quoted(options.device)}, allowed one of {', '.join(devices)}")
        yield Ring(ETHERTYPE_ALL, options.device, code, options.buffer_mib)
    else:
        for ethertype in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
            yield Ring(ethertype, "", code, options.buffer_mib)


@contextmanager
def _opened(path: Path | None) -> Iterator[int | None]:
    """The descriptor to write to."""
    if path is None or path == STANDARD_OUTPUT:
        if path and sys.stdout.isatty():
            raise InputError("--write: given -, which is a terminal, allowed a file or a pipe")
        yield sys.stdout.fileno() if path else None
        return
    try:
        file = path.open("wb")
    except OSError as error:
        raise InputError(f"--write: given {quoted(str(path))}, allowed a file to write: {error.strerror}") from None
    with file:
        yield file.fileno()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The list has an element once SIGINT or SIGTERM came; a second one ends the process."""
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _loop(
    options: Options, receiver: Receiver, rings: Sequence[Ring], file: CaptureFile, is_over: Sequence[int]
) -> None:
    poll = select.poll()
    for ring in rings:
        poll.register(ring, select.POLLIN)
    end = time.monotonic() + options.duration_s if options.duration_s else float("inf")
    while not (is_over or file.is_closed) and (left := end - time.monotonic()) > 0:
        if not _take(options, receiver, rings, file):
            poll.poll(min(LOOK_MS, left * 1000))
        if receiver.frames == options.count:
            return
    for ring in rings:
        ring.stop()
    while _take(options, receiver, rings, file) or poll.poll(2 * RETIRE_MS):
        pass


def _take(options: Options, receiver: Receiver, rings: Sequence[Ring], file: CaptureFile) -> bool:
    """Whether there was a block to take."""
    blocks = [block for ring in rings if (block := ring.block())]
    for block in blocks:
        file.write(_arrivals(receiver, block, options.count))
    for ring in rings:
        ring.drops()  # the kernel's own count has 32 bits
    return bool(blocks)


def _arrivals(receiver: Receiver, packets: Iterator[Packet], count: int | None) -> Iterator[tuple[Arrival, int]]:
    for packet in packets:
        if receiver.frames == count:
            return
        arrival = receiver.receive(*packet)
        if arrival:
            yield arrival, packet.time_ns
