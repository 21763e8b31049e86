"""Outer packets: from the IP header on to what UDP or GRE carries, whole or one fragment of it."""

import struct
from typing import NamedTuple

from sniffer.decap.refusal import Refusal

Octets = bytes | memoryview

GRE, UDP = 47, 17
FRAGMENT = 44
PACKET_LENGTH = 65535
"""Bytes: the longest payload that fragments may make."""

_EXTENSIONS = frozenset((0, 43, 60))
"""Hop-by-hop options, routing, destination options (RFC 8200, 4): of the same shape."""
_EXTENSIONS_MAX = 8
_IPV4 = struct.Struct(">BxHHHxB2x4s4s")
_IPV6 = struct.Struct(">BxxxHBx16s16s")
_UDP = struct.Struct(">HHHH")
_FRAGMENT = struct.Struct(">BxHI")


class Datagram(NamedTuple):
    """A whole outer packet: addresses of 4 or 16 bytes, the protocol number and what it carries."""

    source: bytes
    destination: bytes
    protocol: int
    payload: Octets


class Fragment(NamedTuple):
    """A part of an outer packet.

    `offset`: bytes from the start of the payload; `more`: it is not the last. `protocol`: of IPv6 that of the part with
    offset 0 counts.
    """

    source: bytes
    destination: bytes
    protocol: int
    identification: int
    offset: int
    more: bool
    payload: Octets


def ipv4(octets: Octets) -> Datagram | Fragment | Refusal:
    """From an IPv4 header on (RFC 791); what lies behind the packet's end is padding."""
    if len(octets) < _IPV4.size:
        return Refusal.OUTER_HEADER
    first, length, identification, flags, protocol, source, destination = _IPV4.unpack_from(octets)
    header = (first & 15) * 4
    if first >> 4 != 4 or header < _IPV4.size or not header <= length <= len(octets):
        return Refusal.OUTER_HEADER
    if not _sums_up(octets[:header]):
        return Refusal.OUTER_CHECKSUM
    payload = octets[header:length]
    if flags & 0x3FFF:
        offset, more = (flags & 0x1FFF) * 8, bool(flags & 0x2000)
        return Fragment(source, destination, protocol, identification, offset, more, payload)
    return Datagram(source, destination, protocol, payload)


def ipv6(octets: Octets) -> Datagram | Fragment | Refusal:
    """From an IPv6 header on (RFC 8200). A packet that says to be its own only fragment is whole (RFC 6946)."""
    if len(octets) < _IPV6.size:
        return Refusal.OUTER_HEADER
    first, length, protocol, source, destination = _IPV6.unpack_from(octets)
    end = _IPV6.size + length
    if first >> 4 != 6 or end > len(octets):
        return Refusal.OUTER_HEADER
    found = _behind_extensions(protocol, octets[_IPV6.size : end])
    if isinstance(found, Refusal):
        return found
    protocol, payload = found
    if protocol != FRAGMENT:
        return Datagram(source, destination, protocol, payload)
    if len(payload) < _FRAGMENT.size:
        return Refusal.OUTER_HEADER
    protocol, place, identification = _FRAGMENT.unpack_from(payload)
    part = Fragment(
        source, destination, protocol, identification, place & 0xFFF8, bool(place & 1), payload[_FRAGMENT.size :]
    )
    return part if place & 0xFFF9 else whole(part, part.payload)


def whole(first: Fragment, payload: bytes | memoryview) -> Datagram | Refusal:
    """The packet of which `first` was the part with offset 0, and `payload` is what all parts make."""
    if len(first.source) == 4:
        return Datagram(first.source, first.destination, first.protocol, payload)
    found = _behind_extensions(first.protocol, payload)
    if isinstance(found, Refusal):
        return found
    protocol, payload = found
    if protocol == FRAGMENT:  # fragments of fragments: nobody sends these
        return Refusal.OUTER_HEADER
    return Datagram(first.source, first.destination, protocol, payload)


def udp(datagram: Datagram, checked: bool) -> tuple[int, Octets] | Refusal:
    """The destination port and what UDP carries. `checked`: the checksum is known to be right, or not yet made.

    A checksum of zero stands for none, over IPv6 too (RFC 6935).
    """
    octets = datagram.payload
    if len(octets) < _UDP.size:
        return Refusal.OUTER_HEADER
    _, port, length, checksum = _UDP.unpack_from(octets)
    if not _UDP.size <= length <= len(octets):
        return Refusal.OUTER_HEADER
    if checksum and not checked:
        pseudo = int.from_bytes(datagram.source + datagram.destination) + UDP + length
        if not _sums_up(octets[:length], pseudo):
            return Refusal.OUTER_CHECKSUM
    return port, octets[_UDP.size : length]


def _behind_extensions(protocol: int, octets: Octets) -> tuple[int, Octets] | Refusal:
    for _ in range(_EXTENSIONS_MAX + 1):
        if protocol not in _EXTENSIONS:
            return protocol, octets
        if len(octets) < 8 or len(octets) < (length := 8 + octets[1] * 8):
            break
        protocol, octets = octets[0], octets[length:]
    return Refusal.OUTER_HEADER


def _sums_up(octets: Octets, more: int = 0) -> bool:
    """Whether the Internet checksum in there is right (RFC 1071).

    2**16 is 1 modulo 2**16 - 1: the number that the bytes are has the same remainder as the sum of its 16-bit words.
    """
    number = int.from_bytes(octets)
    if len(octets) & 1:
        number <<= 8
    return (number + more) % 0xFFFF == 0


def gre_sums_up(octets: Octets) -> bool:
    """Whether the checksum over a GRE header and what follows is right (RFC 2784, 2.3)."""
    return _sums_up(octets)
