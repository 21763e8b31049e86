"""GENEVE options: those of class 0xFF53, which docs/geneve-options.md describes; others are passed over."""

from functools import lru_cache
from typing import NamedTuple

from sniffer.decap.refusal import Refusal
from sniffer.pcapng import Direction

CLASS = 0xFF53
NODE, MIRROR, DIRECTION, ORIGINAL_LENGTH, SAMPLING = 1, 2, 3, 4, 5
_BODY_LENGTH = 4
_CRITICAL = 0x80


class Said(NamedTuple):
    """What the options of one packet say; `original_length` in bytes, None where they do not."""

    original_length: int | None = None
    direction: Direction = Direction.UNKNOWN
    comment: str = ""


@lru_cache(maxsize=4096)
def said(octets: bytes) -> Said | Refusal:
    """All options of a packet; a Refusal where one is cut, or is critical and unknown (RFC 8926, 3.5)."""
    words: list[str] = []
    length, direction = None, Direction.UNKNOWN
    at = 0
    while at < len(octets):
        if len(octets) - at < 4:
            return Refusal.TUNNEL_HEADER
        owner, kind = int.from_bytes(octets[at : at + 2]), octets[at + 2]
        body = octets[at + 4 : at + 4 + (octets[at + 3] & 31) * 4]
        at += 4 + (octets[at + 3] & 31) * 4
        if at > len(octets):
            return Refusal.TUNNEL_HEADER
        if owner == CLASS and kind <= SAMPLING and len(body) == _BODY_LENGTH:
            value = int.from_bytes(body)
            if kind == DIRECTION:
                direction = Direction(value) if value <= Direction.EGRESS else Direction.UNKNOWN
            elif kind == ORIGINAL_LENGTH:
                length = value
            elif kind in _WORDS and (kind != SAMPLING or value > 1):
                words.append(_WORDS[kind].format(value))
        elif kind & _CRITICAL:
            return Refusal.CRITICAL_OPTION
    return Said(length, direction, " ".join(words))


_WORDS = {NODE: "node={:08x}", MIRROR: "mirror={:08x}", SAMPLING: "sampled=1/{}"}
