"""The records of bpf/capture.h: what a live capture is told, and the frames that it hands out."""

import struct
from dataclasses import dataclass

from sniffer.abi.limits import Direction

FRAME_MAX = 262144
"""Bytes kept of one frame at most."""

FOR_EVER = (1 << 64) - 1
VALID_UNTIL_WORD = 1
"""Of the value of `captures`, which words of 64 bits make up."""

_CAPTURE = struct.Struct("=IIQ")
_CAPTURED = struct.Struct("=QIIIHH")


@dataclass(frozen=True, slots=True)
class Captured:
    """One frame as it was on the wire, from its Ethernet header on, a VLAN tag put back."""

    when_ns: int
    """CLOCK_MONOTONIC, nanoseconds."""
    ifindex: int
    direction: Direction
    """The interface's: what a pod sends is ingress of its host's veth."""
    length: int
    """Bytes of the whole frame; `octets` may be fewer."""
    octets: bytes

    @classmethod
    def unpack(cls, record: bytes) -> "Captured":
        """From a record of the ring `frames`, host byte order. struct.error where it is too short."""
        when_ns, length, kept, ifindex, start, direction = _CAPTURED.unpack_from(record)
        first = _CAPTURED.size + start
        return cls(when_ns, ifindex, Direction(direction), length, record[first : first + kept])


def pack_capture(snap_length: int, filter_id: int, valid_until: int = FOR_EVER) -> bytes:
    """The value of `captures`: bytes kept of a frame; the id of the filter, 0 for every frame; when the programs are to
    stop by themselves, CLOCK_MONOTONIC in nanoseconds. ValueError.
    """
    if not 1 <= snap_length <= FRAME_MAX:
        raise ValueError(f"a snap length of {snap_length}, not 1 to {FRAME_MAX}")
    return _CAPTURE.pack(snap_length, filter_id, valid_until)
