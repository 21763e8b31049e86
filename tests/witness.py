"""Programs of the tests on hooks beside ours: production sent on as a switch would, what it looks like behind the tap,
what arrives counted in the kernel; and the kernel's own log.
"""

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sniffer.kernel import bpf
from tests.inventory import ifindex
from tests.topology import run

OBJECT = Path(__file__).parents[1] / "build/tests/bpf/witness.bpf.o"
PINS = Path("/sys/fs/bpf/witness")
FAULTS = ("WARNING:", "BUG:", "Oops", "hw csum failure", "bad gso", "dead loop", "recursion limit", "suspicious RCU")
"""What a kernel says when something is wrong in it, in any case of letters."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What the last packet looked like to whoever came after the tap, and how many there were."""

    tstamp: int
    mark: int
    priority: int
    packets: int


class Witness:
    """The programs, loaded and pinned meanwhile; attached as clsact filters, so behind a tap that is."""

    def __enter__(self) -> Self:
        PINS.mkdir()
        self._loaded = bpf.Object.open(OBJECT)
        self._maps = {name: self._loaded.map(name) for name in ("towards", "arrived", "seen", "numbered")}
        for name in self._loaded.programs():
            bpf.pin(self._loaded.program(name).fd, PINS / name)
        return self

    def __exit__(self, *_: object) -> None:
        for path in PINS.iterdir():
            path.unlink()
        PINS.rmdir()
        for each in self._maps.values():
            each.close()
        self._loaded.close()

    def forward(self, source: str, to: str) -> None:
        """Whatever comes in by `source` goes out by `to`, whatever it is: a wire."""
        self._maps["towards"].update(struct.pack("=I", 0), struct.pack("=I", ifindex(to)))
        self.attach("forward", source, "ingress")

    def attach(self, program: str, device: str, direction: str, netns: str | None = None) -> None:
        """`tally` counts what comes in and drops it; `look` remembers what passes; `tag` and `tag_twice` add tags."""
        run("tc", "qdisc", "add", "dev", device, "clsact", netns=netns, check=False)
        words = f"filter add dev {device} {direction} prio 90 protocol all bpf da pinned {PINS / program}"
        run("tc", *words.split(), netns=netns)

    def arrived(self) -> tuple[int, int]:
        """IPv4 packets at the `tally`, and their bytes from the IP header on; what else came is not in it."""
        packets, octets = struct.unpack("=QQ", self._maps["arrived"].lookup(struct.pack("=I", 0)) or b"")
        return packets, octets

    def numbered(self) -> tuple[int, int]:
        """Packets at the `tally` with a GRE sequence number, and how many numbers there are from their first to their
        last."""
        of_cpus = self._maps["numbered"].lookup(struct.pack("=I", 0)) or b""
        rows = [row for row in struct.iter_unpack("=QQQ", of_cpus) if row[0]]
        return sum(row[0] for row in rows), max(row[2] for row in rows) + 1 - min(row[1] for row in rows)

    def seen(self, copies: bool = False) -> Sight:
        """By `look`: the last packet of production, or the last copy."""
        tstamp, mark, priority, packets = struct.unpack(
            "=QIIQ", self._maps["seen"].lookup(struct.pack("=I", copies)) or b""
        )
        return Sight(tstamp, mark, priority, packets)


@contextmanager
def quiet_kernel() -> Iterator[None]:
    """AssertionError if the kernel complains meanwhile: of whatever, it is one machine."""
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.lseek(log, 0, os.SEEK_END)
        yield
        lines = []
        with suppress(BlockingIOError):
            while True:
                with suppress(BrokenPipeError):  # overwritten before it was read
                    lines.append(os.read(log, 8192).decode(errors="replace"))
    finally:
        os.close(log)
    found = [line for line in lines if any(fault.lower() in line.lower() for fault in FAULTS)]
    assert not found, "".join(found)


def packed(pieces: Mapping[str, bytes] | list[bytes], unit: int = 1) -> bytes:
    """Pieces as tests/traffic/frames.h reads them; lengths in `unit` bytes."""
    items = list(pieces.values()) if isinstance(pieces, Mapping) else pieces
    return struct.pack("=I", len(items)) + b"".join(struct.pack("=I", len(one) // unit) + one for one in items)
