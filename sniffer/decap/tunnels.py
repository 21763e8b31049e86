"""Tunnel headers: VXLAN (RFC 7348), GENEVE (RFC 8926), GRE (RFC 2784, RFC 2890), ERSPAN I, II and III
(draft-foschiano-erspan-03), each to the Ethernet frame inside and what the header says of it.
"""

import struct
from enum import StrEnum
from typing import NamedTuple

from sniffer.decap.options import Said, said
from sniffer.decap.outer import Octets, gre_sums_up
from sniffer.decap.refusal import Refusal
from sniffer.pcapng import Direction

FRAME_LENGTH_MIN = 14


class Kind(StrEnum):
    """Of a tunnel."""

    VXLAN = "vxlan"
    GENEVE = "geneve"
    GRE = "gre"
    ERSPAN = "erspan"


class Inner(NamedTuple):
    """A frame, from its Ethernet header on, and what its tunnel header says.

    `key`: VNI, GRE key or ERSPAN session id; None for GRE without one. `sequence`: 32 bits, or None.
    `original_length`: bytes before the frame was cut, None where nobody says. `comment`: words, for a person.
    """

    kind: Kind
    key: int | None
    frame: Octets
    sequence: int | None = None
    original_length: int | None = None
    direction: Direction = Direction.UNKNOWN
    comment: str = ""


_ETHERNET = 0x6558
_ERSPAN_II, _ERSPAN_III = 0x88BE, 0x22EB
_VNI_VALID, _GENERIC_PROTOCOL = 0x08, 0x04
_GENERIC_ETHERNET = 3
_CHECKSUM, _KEY, _SEQUENCE = 0x8000, 0x2000, 0x1000
_FORBIDDEN = 0x4C07
"""Of GRE: routing, strict source route, the first bit of recursion, and any version but 0 (RFC 2784, 2.2)."""
_OPTION_LENGTHS, _CONTROL = 0x3F, 0x80
_TRUNCATED = 1 << 10
_GRANULARITIES = ("100 us", "100 ns", "1588", "own")
_DEFECTS = ("", "short", "oversized", "bad")
_THIRD = struct.Struct(">III")
_SECOND = struct.Struct(">II")


def vxlan(octets: Octets) -> Inner | Refusal:
    """From the VXLAN header on; its generic form (draft-ietf-nvo3-vxlan-gpe) too, where it carries Ethernet."""
    if len(octets) < 8 or not octets[0] & _VNI_VALID:
        return Refusal.TUNNEL_HEADER
    if octets[0] & _GENERIC_PROTOCOL and octets[3] != _GENERIC_ETHERNET:
        return Refusal.NOT_ETHERNET
    return _inner(Kind.VXLAN, int.from_bytes(octets[4:7]), octets[8:])


def geneve(octets: Octets) -> Inner | Refusal:
    """From the GENEVE header on."""
    if len(octets) < 8 or octets[0] >> 6:
        return Refusal.TUNNEL_HEADER
    end = 8 + (octets[0] & _OPTION_LENGTHS) * 4
    if len(octets) < end:
        return Refusal.TUNNEL_HEADER
    if octets[1] & _CONTROL:
        return Refusal.CONTROL
    if int.from_bytes(octets[2:4]) != _ETHERNET:
        return Refusal.NOT_ETHERNET
    words = said(bytes(octets[8:end])) if end > 8 else Said()
    if isinstance(words, Refusal):
        return words
    key, frame = int.from_bytes(octets[4:7]), octets[end:]
    return _inner(Kind.GENEVE, key, frame, None, words.original_length, words.direction, words.comment)


def gre(octets: Octets, checked: bool = False) -> Inner | Refusal:
    """From the GRE header on, with ERSPAN inside of it or an Ethernet frame. `checked`: as in outer.udp."""
    if len(octets) < 4:
        return Refusal.TUNNEL_HEADER
    flags, protocol = int.from_bytes(octets[:2]), int.from_bytes(octets[2:4])
    if flags & _FORBIDDEN:
        return Refusal.TUNNEL_HEADER
    length = 4 + 4 * (bool(flags & _CHECKSUM) + bool(flags & _KEY) + bool(flags & _SEQUENCE))
    if len(octets) < length:
        return Refusal.TUNNEL_HEADER
    if flags & _CHECKSUM and not checked and not gre_sums_up(octets):
        return Refusal.OUTER_CHECKSUM
    at = 8 if flags & _CHECKSUM else 4
    key = sequence = None
    if flags & _KEY:
        key, at = int.from_bytes(octets[at : at + 4]), at + 4
    if flags & _SEQUENCE:
        sequence = int.from_bytes(octets[at : at + 4])
    if protocol == _ETHERNET:
        return _inner(Kind.GRE, key, octets[length:], sequence)
    if protocol == _ERSPAN_II:
        # The first type has no header of its own; what tells it from the second is a bare GRE header, as in Linux.
        return _inner(Kind.ERSPAN, None, octets[4:]) if length == 4 else _second(octets[length:], sequence)
    return _third(octets[length:], sequence) if protocol == _ERSPAN_III else Refusal.NOT_ETHERNET


def _second(octets: Octets, sequence: int | None) -> Inner | Refusal:
    if len(octets) < 8 or octets[0] >> 4 != 1:
        return Refusal.TUNNEL_HEADER
    words, index = _SECOND.unpack_from(octets)
    index &= 0xFFFFF
    comment = _comment(words, f"index={index}" if index else "")
    return _inner(Kind.ERSPAN, words & 0x3FF, octets[8:], sequence, comment=comment)


def _third(octets: Octets, sequence: int | None) -> Inner | Refusal:
    if len(octets) < 12 or octets[0] >> 4 != 2:
        return Refusal.TUNNEL_HEADER
    words, timestamp, rest = _THIRD.unpack_from(octets)
    length = 20 if rest & 1 else 12
    if len(octets) < length:
        return Refusal.TUNNEL_HEADER
    if rest >> 10 & 31:  # the frame's type: 0 is Ethernet
        return Refusal.NOT_ETHERNET
    direction = Direction.EGRESS if rest & 8 else Direction.INGRESS
    comment = _comment(words, _DEFECTS[words >> 11 & 3])
    comment += f"{' ' * bool(comment)}timestamp={timestamp} ({_GRANULARITIES[rest >> 1 & 3]})"
    return _inner(Kind.ERSPAN, words & 0x3FF, octets[length:], sequence, None, direction, comment)


def _comment(words: int, more: str) -> str:
    vlan = words >> 16 & 0xFFF
    parts = (f"vlan={vlan}" if vlan else "", "truncated" if words & _TRUNCATED else "", more)
    return " ".join(filter(None, parts))


def _inner(
    kind: Kind,
    key: int | None,
    frame: Octets,
    sequence: int | None = None,
    original_length: int | None = None,
    direction: Direction = Direction.UNKNOWN,
    comment: str = "",
) -> Inner | Refusal:
    if len(frame) < FRAME_LENGTH_MIN:
        return Refusal.SHORT_FRAME
    if original_length is not None and original_length < len(frame):
        original_length = None
    return Inner(kind, key, frame, sequence, original_length, direction, comment)
