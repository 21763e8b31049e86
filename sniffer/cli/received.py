"""What `sniffer recv` hands on: a capture file, and words about it."""

import errno
import os
from collections.abc import Iterable
from typing import Any

import sniffer
from sniffer import pcapng
from sniffer.decap.receiver import Arrival, Tunnel, lost
from sniffer.errors import KernelError


class CaptureFile:
    """A capture file with an interface for each tunnel. Without a descriptor all is taken and thrown away.

    KernelError: it cannot be written.
    """

    def __init__(self, descriptor: int | None) -> None:
        self.is_closed = False
        """Nobody reads it any more."""
        self._descriptor = descriptor
        self._interfaces = 0
        self._put([pcapng.section(f"sniffer {sniffer.__version__}")])

    def write(self, arrivals: Iterable[tuple[Arrival, int]]) -> None:
        """Frames with the times of their arrival, in nanoseconds since 1970."""
        blocks: list[bytes] = []
        for (tunnel, inner), time_ns in arrivals:
            if self._descriptor is None:
                continue
            if tunnel.number == self._interfaces:
                name = name_of(tunnel.kind, tunnel.key, tunnel.sender)
                blocks.append(pcapng.interface(name, tunnel.receiver and f"to {tunnel.receiver}"))
                self._interfaces += 1
            packet = (tunnel.number, time_ns, inner.frame, inner.original_length, inner.comment, inner.direction)
            blocks.append(pcapng.packet(*packet))
        self._put(blocks)

    def end(self, tunnels: Iterable[Tunnel]) -> None:
        """Writes the counts; what is missing by the numbers counts as dropped by the interface."""
        known = (tunnel for tunnel in tunnels if tunnel.number < self._interfaces)
        self._put([pcapng.statistics(t.number, t.first_ns, t.last_ns, t.frames + lost(t), lost(t)) for t in known])

    def _put(self, blocks: Iterable[bytes]) -> None:
        octets = memoryview(b"".join(blocks))
        try:
            while octets and self._descriptor is not None and not self.is_closed:
                octets = octets[os.write(self._descriptor, octets) :]
        except BrokenPipeError:
            self.is_closed = True
        except OSError as error:
            raise KernelError("write of the capture file", error.errno or errno.EIO) from None


def name_of(kind: str, key: int | None, sender: str) -> str:
    """`gre 42 from 10.9.0.1`"""
    return " ".join([kind, *([] if key is None else [str(key)]), "from", sender or "many others"])


def words(row: dict[str, Any]) -> str:
    """The counts for a person; what is zero is hardly said."""
    lines = [f"{row['frames']} frames, {row['bytes']} bytes, of {row['packets']} packets in {row['seconds']:.1f} s"]
    for tunnel in row["tunnels"]:
        name, sequence = name_of(tunnel["kind"], tunnel["key"], tunnel["sender"]), tunnel["sequence"]
        numbers = f", {_counts(sequence, 'lost', 'late', 'duplicates', 'restarts')}" if sequence else ""
        lines.append(f"{name}: {tunnel['frames']} frames, {tunnel['bytes']} bytes{numbers}")
    for title in ("refused", "fragments"):
        counts = {word: number for word, number in row[title].items() if number}
        lines += [f"{title}: {_counts(counts, *counts)}"] * bool(counts)
    if row["dropped"]["ring"]:
        lines.append(f"dropped here for want of room: {row['dropped']['ring']} packets (--buffer makes more)")
    return "\n".join(lines)


def _counts(counts: dict[str, int], *titles: str) -> str:
    return ", ".join(f"{counts[title]} {title}" for title in titles)
