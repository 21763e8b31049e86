"""Outer packets from their fragments, in bounded memory and time; those that overlap are refused (RFC 5722)."""

from bisect import bisect_left
from dataclasses import dataclass, field

from sniffer.decap.outer import PACKET_LENGTH, Datagram, Fragment, whole
from sniffer.decap.refusal import Refusal

TIME_NS = 500_000_000
"""How long parts wait for the others. IPv4 identifications of a busy sender come round in little more than a second."""
MEMORY = 32 << 20
"""Bytes of all parts together."""
OVERHEAD = 512
"""Bytes that a part takes beside its octets."""

Key = tuple[bytes, bytes, int, int]


@dataclass(slots=True)
class Counts:
    """Of what became of fragments. `received` counts parts; the others packets, but `damaged` and `duplicates`."""

    received: int = 0
    reassembled: int = 0
    incomplete: int = 0
    """Parts were missing when time was over, the first was there."""
    headless: int = 0
    """The first was missing: a part of whatever else this machine receives."""
    overlapping: int = 0
    evicted: int = 0
    """Given up for want of memory."""
    damaged: int = 0
    """Parts of an impossible length or place."""
    duplicates: int = 0
    """Parts that were there already."""


@dataclass(slots=True)
class _Parts:
    since_ns: int
    offsets: list[int] = field(default_factory=list)
    parts: list[Fragment] = field(default_factory=list)
    octets: int = 0
    end: int | None = None
    """Bytes of the whole payload, once the last part is there."""
    refused: bool = False


class Reassembly:
    """Takes fragments and gives whole packets."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._waiting: dict[Key, _Parts] = {}  # the oldest first
        self._memory = 0

    def add(self, fragment: Fragment, now_ns: int) -> Datagram | Refusal | None:
        """The packet that this part completes; None while parts are missing, or where it is given up."""
        self.counts.received += 1
        self.expire(now_ns)
        length = len(fragment.payload)
        if not length or fragment.offset + length > PACKET_LENGTH or (fragment.more and length & 7):
            self.counts.damaged += 1
            return None
        # The protocol of IPv6 is a part's own word; of IPv4 it tells packets of one identification from one another.
        protocol = fragment.protocol if len(fragment.source) == 4 else 0
        key = (fragment.source, fragment.destination, protocol, fragment.identification)
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = _Parts(now_ns)
            self._memory += OVERHEAD
        if waiting.refused:
            return None
        self._put(waiting, fragment)
        if waiting.octets == waiting.end:
            self._drop(key)
            self.counts.reassembled += 1
            return whole(waiting.parts[0], b"".join(part.payload for part in waiting.parts))
        while self._memory > MEMORY:
            self.counts.evicted += not self._drop(next(iter(self._waiting))).refused
        return None

    def expire(self, now_ns: int) -> None:
        """Gives up what has waited for too long."""
        while self._waiting:
            key, oldest = next(iter(self._waiting.items()))
            if now_ns - oldest.since_ns <= TIME_NS:
                return
            self._drop(key)
            if not oldest.refused:
                if oldest.offsets[0]:
                    self.counts.headless += 1
                else:
                    self.counts.incomplete += 1

    def finish(self) -> None:
        """Gives up everything that waits."""
        if self._waiting:
            self.expire(max(parts.since_ns for parts in self._waiting.values()) + TIME_NS + 1)

    def _put(self, waiting: _Parts, fragment: Fragment) -> None:
        offset, end = fragment.offset, fragment.offset + len(fragment.payload)
        at = bisect_left(waiting.offsets, offset)
        if at < len(waiting.parts) and waiting.parts[at][4:] == fragment[4:]:
            self.counts.duplicates += 1
            return
        before = at and waiting.offsets[at - 1] + len(waiting.parts[at - 1].payload)
        after = waiting.offsets[at] if at < len(waiting.offsets) else PACKET_LENGTH
        beyond = waiting.end is not None and (end > waiting.end or not fragment.more)
        if before > offset or after < end or beyond or (not fragment.more and at < len(waiting.offsets)):
            self._refuse(waiting)
            return
        waiting.offsets.insert(at, offset)
        waiting.parts.insert(at, fragment._replace(payload=bytes(fragment.payload)))
        waiting.octets += len(fragment.payload)
        self._memory += len(fragment.payload) + OVERHEAD
        if not fragment.more:
            waiting.end = end

    def _refuse(self, waiting: _Parts) -> None:
        """What has come is forgotten, and what still comes of this packet is not taken for a new one."""
        self.counts.overlapping += 1
        self._memory -= waiting.octets + OVERHEAD * len(waiting.parts)
        waiting.parts, waiting.offsets, waiting.octets, waiting.end, waiting.refused = [], [], 0, None, True

    def _drop(self, key: Key) -> _Parts:
        gone = self._waiting.pop(key)
        self._memory -= gone.octets + OVERHEAD * (len(gone.parts) + 1)
        return gone
