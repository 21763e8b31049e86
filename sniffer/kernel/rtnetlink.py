"""Questions to rtnetlink, answered fast: one socket, synchronous, and only the attributes that somebody asks for.

pyroute2 decodes every attribute of every message, 0.2 ms a link; on a node with a thousand links that would be the
agent's whole second. What changes the kernel goes through pyroute2, in kernel/netlink.py.
"""

import socket
import struct
from collections.abc import Iterator

from sniffer.errors import KernelError

# Message types of <linux/rtnetlink.h>.
GET_LINK, GET_ADDRESS, GET_ROUTE, NEW_NEIGHBOUR, GET_NEIGHBOUR, GET_QDISC, GET_FILTER = 18, 22, 26, 28, 30, 38, 46
NEW_NSID, GET_NSID = 88, 90
REQUEST, ACK, REPLACE, DUMP, CREATE = 0x1, 0x4, 0x100, 0x300, 0x400

Attributes = dict[int, bytes]

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR, _DONE = 2, 3
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: something changed under the dump
_ACK_TLVS = 0x200
_NESTED_MASK = 0x3FFF
_EXT_ACK_MESSAGE = 1
_SOL_NETLINK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 11, 12
_ATTEMPTS = 5
_BUFFER = 1 << 18


def attribute(number: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(len(value) + 4, number) + value + bytes(-len(value) % 4)


def attributes(raw: bytes, start: int = 0) -> Attributes:
    """The attributes that begin at `start`, by number; of several with one number, the last."""
    found: Attributes = {}
    position, end, unpack = start, len(raw), _ATTRIBUTE.unpack_from
    while position + 4 <= end:
        length, number = unpack(raw, position)
        if length < 4:
            break
        found[number & _NESTED_MASK] = raw[position + 4 : position + length]
        position += length + 3 & ~3
    return found


def u32(raw: bytes | None) -> int | None:
    """A 32-bit number in host byte order; None for an absent attribute."""
    return int.from_bytes(raw[:4], "little" if _LITTLE else "big") if raw else None


def s32(raw: bytes | None) -> int | None:
    """A signed 32-bit number in host byte order; None for an absent attribute."""
    return int.from_bytes(raw[:4], "little" if _LITTLE else "big", signed=True) if raw else None


def text(raw: bytes | None) -> str | None:
    """A string that ends with a zero byte; None for an absent attribute."""
    return None if raw is None else raw.rstrip(b"\0").decode(errors="replace")


_LITTLE = struct.pack("=H", 1) == b"\1\0"


class Socket:
    """A NETLINK_ROUTE socket in the network namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        for option in (_NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    def close(self) -> None:
        """Closes the socket; twice is fine."""
        self._socket.close()

    def dump(self, name: str, kind: int, body: bytes) -> list[bytes]:
        """Everything that a GET request lists: messages without their netlink header. `name` is for the error."""
        for _ in range(_ATTEMPTS):
            answers, interrupted = self._exchange(name, kind, DUMP, body)
            if not interrupted:
                break
        return answers  # still torn after that many changes: netlink events will have us ask again

    def ask(self, name: str, kind: int, body: bytes, flags: int = 0) -> bytes:
        """The one message that answers a request; b"" for a mere acknowledgement (`flags` has ACK)."""
        answers, _ = self._exchange(name, kind, flags, body)
        return answers[0] if answers else b""

    def _exchange(self, name: str, kind: int, flags: int, body: bytes) -> tuple[list[bytes], bool]:
        self._sequence += 1
        self._socket.send(_HEADER.pack(16 + len(body), kind, flags | REQUEST, self._sequence, 0) + body)
        answers: list[bytes] = []
        interrupted = False
        while True:
            for answer, of, message in _messages(self._socket.recv(_BUFFER), self._sequence):
                interrupted |= bool(of & _INTERRUPTED)
                if answer in (_ERROR, _DONE):
                    _check(name, message, of, answer)
                    return answers, interrupted
                answers.append(message)
            if answers and flags & (DUMP | ACK) == 0:
                return answers, interrupted


def _messages(datagram: bytes, sequence: int) -> Iterator[tuple[int, int, bytes]]:
    """(type, flags, body) of each message of a datagram that answers the request with this number."""
    position = 0
    while position + 16 <= len(datagram):
        length, kind, flags, number, _ = _HEADER.unpack_from(datagram, position)
        if number == sequence:
            yield kind, flags, datagram[position + 16 : position + length]
        position += length + 3 & ~3


def _check(name: str, message: bytes, flags: int, kind: int) -> None:
    """Raises KernelError for an error, with the kernel's own words where it has some."""
    number = struct.unpack_from("=i", message)[0] if len(message) >= 4 else 0
    if number >= 0:
        return
    said = None
    if flags & _ACK_TLVS:
        start = 4
        if kind == _ERROR:
            start += struct.unpack_from("=I", message, 4)[0] + 3 & ~3  # our own request, whole
        said = text(attributes(message, start).get(_EXT_ACK_MESSAGE))
    raise KernelError(name, -number, said or "")
