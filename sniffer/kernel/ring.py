"""A packet socket with a ring that the kernel fills (TPACKET_V3, packet(7)): what arrives, from the IP header on."""

import mmap
import socket
import struct
from array import array
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

from sniffer.abi.records import Instruction, Program
from sniffer.errors import KernelError

BLOCK_SIZE = 1 << 20
"""Bytes; a packet that is longer is cut."""
NOTHING = (Instruction(0x06, 0, 0, 0),)
"""The program that takes no packet."""
RETIRE_MS = 50
"""A block that is not full is handed over after this time."""

ETHERTYPE_ALL = 0x0003

# <linux/if_packet.h>, <asm-generic/socket.h>
_SOL_PACKET, _RX_RING, _STATISTICS, _VERSION, _IGNORE_OUTGOING = 263, 5, 6, 10, 23
_TPACKET_V3 = 2
_SO_ATTACH_FILTER = 26
_STATUS_USER = 1
_CHECKSUM_NOT_READY, _CHECKSUM_VALID = 1 << 3, 1 << 7
_FRAME_SIZE = 2048  # of no meaning to this version, but checked
_INSTRUCTION = struct.Struct("=HBBI")
_REQUEST = struct.Struct("=7I")  # block size, blocks, frame size, frames, retire time in ms, private bytes, features
_BLOCK = struct.Struct("=8xIIII")  # status, packets, offset of the first, length
_BLOCK_STATUS = struct.Struct("=I")
_BLOCK_STATUS_AT = 8
# Next, seconds, nanoseconds, captured, length, status, place; then the address: protocol in network order.
_PACKET = struct.Struct("=6IH22x2xH")


class Packet(NamedTuple):
    """One packet. `time_ns`: since 1970, UTC. `checked`: the device vouches for its checksums, or they are not made."""

    ethertype: int
    octets: bytes | memoryview
    time_ns: int
    checked: bool


class Ring:
    """Captures from its making on. One thread uses it; KernelError: not permitted, no such device, no memory."""

    def __init__(self, ethertype: int, device: str, program: Program, blocks: int) -> None:
        """`device` "": any; then each packet is seen where it leaves the devices for the IP stack, once.

        On a named one it is seen as soon as it arrives, whatever becomes of it. `blocks`: of BLOCK_SIZE bytes each.
        """
        self.received = 0
        """That passed the filter, as of the last `drops`."""
        self.dropped = 0
        """Of these, packets for which the ring had no room."""
        self._blocks = blocks
        self._at = 0
        where = f"packet socket on {device or 'any device'}"
        try:
            # Of any device packets come at once, as only binding to one can start it later: those that come before the
            # filter is there go when the ring is made.
            protocol = 0 if device else socket.htons(ethertype)
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise KernelError(where, error.errno or 0) from None
        try:
            attach_filter(self._socket, program)
            self._socket.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
            request = (BLOCK_SIZE, blocks, _FRAME_SIZE, BLOCK_SIZE // _FRAME_SIZE * blocks, RETIRE_MS, 0, 0)
            self._socket.setsockopt(_SOL_PACKET, _RX_RING, _REQUEST.pack(*request))
            self._memory = mmap.mmap(self._socket.fileno(), BLOCK_SIZE * blocks)
            if device:
                self._socket.bind((device, ethertype))
            else:
                self.drops()
                self.received = self.dropped = 0
        except OSError as error:
            self._socket.close()
            raise KernelError(where, error.errno or 0) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._memory.close()
        self._socket.close()

    def fileno(self) -> int:
        """To be polled: readable when a block is full or old."""
        return self._socket.fileno()

    def block(self) -> Iterator[Packet] | None:
        """The packets of the next block that the kernel has handed over; None when there is none.

        They are a copy: the block is the kernel's again at once.
        """
        start = self._at * BLOCK_SIZE
        status, count, first, length = _BLOCK.unpack_from(self._memory, start)
        if not status & _STATUS_USER:
            # A link that went down is an error until somebody asks for it, and an error is there for every poll.
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            return None
        octets = self._memory[start : start + length]
        _BLOCK_STATUS.pack_into(self._memory, start + _BLOCK_STATUS_AT, 0)
        self._at = (self._at + 1) % self._blocks
        return _packets(octets, first, count)

    def stop(self) -> None:
        """Takes no more packets; those that are there are handed over within RETIRE_MS."""
        attach_filter(self._socket, NOTHING)

    def drops(self) -> int:
        """Packets dropped so far for want of room; asks the kernel."""
        received, dropped, _ = struct.unpack("=3I", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 12))
        self.received += received
        self.dropped += dropped
        return self.dropped


def attach_filter(to: socket.socket, program: Program) -> None:
    """Has the kernel drop what a classic BPF program does not take. OSError."""
    code = array("B", b"".join(_INSTRUCTION.pack(i.code, i.jt, i.jf, i.k) for i in program))
    address, _ = code.buffer_info()
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), address))


def _packets(block: bytes, at: int, count: int) -> Iterator[Packet]:
    view = memoryview(block)
    for _ in range(count):
        following, seconds, nanoseconds, captured, _, status, place, protocol = _PACKET.unpack_from(block, at)
        start = at + place
        yield Packet(
            socket.ntohs(protocol),
            view[start : start + captured],
            seconds * 1_000_000_000 + nanoseconds,
            bool(status & (_CHECKSUM_NOT_READY | _CHECKSUM_VALID)),
        )
        at += following
