"""The records of bpf/capture.h: what a live capture is told, and the frames that it hands out."""

import struct
from dataclasses import dataclass

from sniffer.abi.limits import Direction

FRAME_MAX = 262144
"""Bytes kept of one frame at most."""

_CAPTURE = struct.Struct("=II")
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


def pack_capture(snap_length: int, filter_id: int) -> bytes:
    """The value of `captures`: bytes kept of a frame, and the id of the filter, 0 for every frame. ValueError."""
    if not 1 <= snap_length <= FRAME_MAX:
        raise ValueError(f"a snap length of {snap_length}, not 1 to {FRAME_MAX}")
    return _CAPTURE.pack(snap_length, filter_id)
