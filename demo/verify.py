"""What was at the pod's interface against what the analyzer decoded, frame by frame. Pure.

Identical frames (an ARP request looks like the last one) are told apart by order: the n-th copy of some bytes belongs
to the n-th frame with these bytes.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

KINDS = ("HTTP", "DNS", "ICMP", "ARP", "other")
"""`other`: nothing that the demo sends, but whatever a kernel thinks of is verified, too."""


def kind_of(frame: bytes) -> str:
    """Which of KINDS an Ethernet frame is, by ethertype, protocol and port."""
    ethertype, protocol = frame[12:14], frame[23:24]
    if ethertype == b"\x08\x06":
        return "ARP"
    if ethertype != b"\x08\x00" or len(frame) < 34:
        return "other"
    ports = {frame[start : start + 2] for start in (14 + (frame[14] & 15) * 4, 16 + (frame[14] & 15) * 4)}
    if protocol == b"\x01":
        return "ICMP"
    if protocol == b"\x06" and b"\0\x50" in ports:
        return "HTTP"
    if protocol == b"\x11" and b"\0\x35" in ports:
        return "DNS"
    return "other"


@dataclass(frozen=True, slots=True)
class Sent:
    """One frame at the pod's interface. `part`: of the experiment, as the demo names it (before, after an edit).

    `expected`: must the analyzer have it? None: either way is right, the edit was on its way.
    """

    frame: bytes
    part: str
    expected: bool | None = True


@dataclass(frozen=True, slots=True)
class Copy:
    """One frame that the analyzer decoded, and the tunnel that it came by."""

    frame: bytes
    tunnel: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """`pairs`: every sent frame with its copy or None. `missing`, `unwanted` (copied though the filter says no) and
    `alien` (no such frame was sent, or not as often) are what went wrong."""

    pairs: tuple[tuple[Sent, Copy | None], ...]
    missing: tuple[Sent, ...]
    unwanted: tuple[Sent, ...]
    alien: tuple[Copy, ...]

    @property
    def exact(self) -> bool:
        return not (self.missing or self.unwanted or self.alien)


def compare(sent: Sequence[Sent], copies: Sequence[Copy]) -> Comparison:
    """Pairs frames with copies of the very same bytes; both in order of arrival."""
    waiting: dict[bytes, deque[Copy]] = defaultdict(deque)
    for copy in copies:
        waiting[copy.frame].append(copy)
    pairs = tuple((item, waiting[item.frame].popleft() if waiting[item.frame] else None) for item in sent)
    return Comparison(
        pairs=pairs,
        missing=tuple(item for item, copy in pairs if item.expected and copy is None),
        unwanted=tuple(item for item, copy in pairs if item.expected is False and copy is not None),
        alien=tuple(copy for left in waiting.values() for copy in left),
    )


def count(pairs: Iterable[tuple[Sent, Copy | None]], of: Callable[[Sent, Copy | None], str | None]) -> Counter[str]:
    """How many pairs `of` gives each name; None: not counted."""
    return Counter(name for item, copy in pairs if (name := of(item, copy)) is not None)


ALTERED_BYTES = 8
"""A missing and an alien frame that differ in no more bytes are called one frame, altered on its way."""


def altered(comparison: Comparison) -> list[tuple[Sent, Copy, int]]:
    """Missing and alien frames that look like one frame before and after: (sent, copy, first differing byte)."""
    left, found = list(comparison.missing), []
    for copy in comparison.alien:
        alike = [(_differences(item.frame, copy.frame), item) for item in left if len(item.frame) == len(copy.frame)]
        places, best = min(alike, key=lambda pair: len(pair[0]), default=([], None))
        if best is not None and len(places) <= ALTERED_BYTES:
            left.remove(best)
            found.append((best, copy, places[0]))
    return found


def _differences(one: bytes, other: bytes) -> list[int]:
    return [place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
