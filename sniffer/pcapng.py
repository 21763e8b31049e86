"""Blocks of a pcapng file of Ethernet frames (draft-ietf-opsawg-pcapng), little-endian, times in nanoseconds.

A file is `section`, then blocks in any order, an `interface` before what refers to it. Interfaces are numbered from 0
in the order in which they are written.
"""

import struct
from enum import IntEnum

Octets = bytes | bytearray | memoryview

LINK_TYPE_ETHERNET = 1
COMMENT_LENGTH = 4096
"""Bytes of UTF-8; a longer text is cut."""

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER, _VERSION, _LENGTH_UNKNOWN = 0x1A2B3C4D, (1, 0), -1
_COMMENT, _APPLICATION = 1, 4
_NAME, _DESCRIPTION, _RESOLUTION, _FILTER = 2, 3, 9, 11
_FLAGS = 2
_START, _END, _RECEIVED, _DROPPED = 2, 3, 4, 5
_NANOSECONDS = bytes([9])
_END_OF_OPTIONS = bytes(4)

_EDGE = struct.Struct("<II")
_TRAILER = struct.Struct("<I")
_OPTION = struct.Struct("<HH")
_PACKET_HEAD = struct.Struct("<IIIIIII")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Direction(IntEnum):
    """Of a packet, as its interface sees it: bits 0 and 1 of epb_flags."""

    UNKNOWN = 0
    INGRESS = 1
    EGRESS = 2


def section(application: str) -> bytes:
    """The block that a file starts with; `application` names what wrote it."""
    body = struct.pack("<IHHq", _BYTE_ORDER, *_VERSION, _LENGTH_UNKNOWN)
    return _block(_SECTION, body + _options((_APPLICATION, _text(application))))


def interface(name: str, description: str = "", filter: str = "", snap_length: int = 0) -> bytes:
    """Describes an Ethernet interface; empty words are left out. `snap_length`: bytes, 0 for no limit."""
    options = _options(
        (_NAME, _text(name)),
        (_DESCRIPTION, _text(description)),
        (_RESOLUTION, _NANOSECONDS),
        (_FILTER, b"\0" * bool(filter) + _text(filter)),  # the first byte: a text as libpcap compiles it
    )
    return _block(_INTERFACE, struct.pack("<HHI", LINK_TYPE_ETHERNET, 0, snap_length) + options)


def packet(
    interface: int,
    time_ns: int,
    octets: Octets,
    original_length: int | None = None,
    comment: str = "",
    direction: Direction = Direction.UNKNOWN,
) -> bytes:
    """One frame. `time_ns`: since 1970, UTC; `original_length`: bytes on the wire, None: as many as there are."""
    options = b""
    if comment or direction:
        flags = struct.pack("<I", direction) if direction else b""
        options = _options((_COMMENT, _text(comment)), (_FLAGS, flags))
    captured = len(octets)
    padding = _PADDING[captured & 3]
    length = _PACKET_HEAD.size + captured + len(padding) + len(options) + _TRAILER.size
    original = captured if original_length is None else original_length
    head = _PACKET_HEAD.pack(_PACKET, length, interface, time_ns >> 32, time_ns & 0xFFFFFFFF, captured, original)
    return b"".join((head, octets, padding, options, _TRAILER.pack(length)))


def statistics(interface: int, start_ns: int, end_ns: int, received: int, dropped: int) -> bytes:
    """What an interface has seen in a time: packets received, and among these dropped before they could be written."""
    options = _options(
        (_START, _time(start_ns)),
        (_END, _time(end_ns)),
        (_RECEIVED, struct.pack("<Q", received)),
        (_DROPPED, struct.pack("<Q", dropped)),
    )
    return _block(_STATISTICS, struct.pack("<I", interface) + _time(end_ns) + options)


def _block(kind: int, body: bytes) -> bytes:
    length = _EDGE.size + len(body) + _TRAILER.size
    return _EDGE.pack(kind, length) + body + _TRAILER.pack(length)


def _options(*options: tuple[int, bytes]) -> bytes:
    """Those that have a value, and the end of the list."""
    parts = [_OPTION.pack(code, len(value)) + value + _PADDING[len(value) & 3] for code, value in options if value]
    return b"".join((*parts, _END_OF_OPTIONS))


def _text(text: str) -> bytes:
    # What was cut within a character, or came from a file name that is no UTF-8, must not break the reader.
    return text.encode("utf-8", "replace")[:COMMENT_LENGTH].decode("utf-8", "ignore").encode()


def _time(time_ns: int) -> bytes:
    return struct.pack("<II", time_ns >> 32, time_ns & 0xFFFFFFFF)
