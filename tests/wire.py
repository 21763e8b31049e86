"""Frames out of and into a network namespace, byte for byte, by packet sockets."""

import ctypes
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.topology import wait_until

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000

# <linux/if_packet.h>, <linux/socket.h>
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_AUXDATA, _PACKET_IGNORE_OUTGOING = 263, 6, 8, 23
_PACKET_OUTGOING = 4
_ETH_P_ALL = 3
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_STATUS_CHECKSUM_NOT_READY, _STATUS_VLAN_VALID, _STATUS_TPID_VALID = 1 << 3, 1 << 4, 1 << 6
_AUXDATA = struct.Struct("=IIIHHHH")  # status, len, snaplen, mac, net, vlan tci, vlan tpid


def socket_in(netns: str | None, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that lives in a named network namespace; this thread leaves it again at once."""
    if netns is None:
        return socket.socket(family, kind, protocol)
    with Path("/proc/thread-self/ns/net").open() as home, Path(f"/run/netns/{netns}").open() as there:
        _enter(there.fileno())
        try:
            return socket.socket(family, kind, protocol)
        finally:
            _enter(home.fileno())


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


def send(frames: Iterable[bytes], device: str = "eth0", netns: str | None = "pod", pause: float = 0.0) -> int:
    """Sends frames as they are, tags in the payload, and returns how many. `pause`: seconds after each.

    A frame that the device refuses (longer than its MTU and header, shorter than a header) raises OSError.
    """
    count = 0
    with socket_in(netns, socket.AF_PACKET, socket.SOCK_RAW) as packets:
        packets.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 64 << 20)
        packets.bind((device, 0))
        for frame in frames:
            packets.send(frame)
            count += 1
            if pause:
                time.sleep(pause)
    return count


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it was on the wire, its tag put back; `when` in seconds of the monotonic clock.

    `checksum_ready` False: the sender left the transport checksum to hardware that a virtual link does not have.
    """

    octets: bytes
    when: float
    outgoing: bool
    checksum_ready: bool


class Capture:
    """Captures every frame that a device receives (`outgoing`: and sends), between `with` and its end, losing none.

    `frames` may be read at any time; a frame lost for want of buffer raises on stop: a witness that slept is none.
    """

    def __init__(self, device: str = "eth0", netns: str | None = None, outgoing: bool = False) -> None:
        self.frames: list[Frame] = []
        self.device, self.netns = device, netns
        self._socket = socket_in(netns, socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 512 << 20)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        if not outgoing:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        # Binding the protocol last: from here on, and from this device only, frames arrive.
        self._socket.bind((device, _ETH_P_ALL))
        self._over, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._read, name=f"capture {device}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.stop(check=kind is None)

    def octets(self) -> list[bytes]:
        """The bytes of every frame so far, in order of arrival."""
        return [frame.octets for frame in self.frames]

    def wait(self, count: int, timeout: float = 5.0) -> list[bytes]:
        """Waits for `count` frames at least; returns what has arrived, also when that is fewer."""
        end = time.monotonic() + timeout
        while len(self.frames) < count and time.monotonic() < end:
            time.sleep(0.005)
        return self.octets()

    def settle(self, quiet: float = 0.2, timeout: float = 10.0) -> list[bytes]:
        """Waits until nothing has arrived for `quiet` seconds."""
        state = [-1, time.monotonic()]

        def still() -> bool:
            if len(self.frames) != state[0]:
                state[:] = [len(self.frames), time.monotonic()]
            return time.monotonic() - state[1] > quiet

        wait_until(still, timeout, what=f"quiet on {self.device}")
        return self.octets()

    def stop(self, check: bool = True) -> list[bytes]:
        """Ends the capture after what is queued; AssertionError if the socket had to drop anything."""
        if self._socket.fileno() >= 0:
            self._wake.close()
            self._thread.join()
            _, lost = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            self._socket.close()
            self._over.close()
            assert not (check and lost), f"the capture on {self.device} lost {lost} frames"
        return self.octets()

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._over, select.POLLIN)
        space = socket.CMSG_SPACE(_AUXDATA.size)
        receive, append = self._socket.recvmsg, self.frames.append
        while True:
            over = any(descriptor == self._over.fileno() for descriptor, _ in poll.poll())
            for _ in range(1 << 30 if over else 4096):
                try:
                    octets, control, _, address = receive(1 << 17, space, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno != errno.ENETDOWN:  # the link went down; it may come up again
                        raise
                    break
                append(_frame(octets, control, address[2] == _PACKET_OUTGOING))
            if over:
                return


def _frame(octets: bytes, control: Sequence[tuple[int, int, bytes]], outgoing: bool) -> Frame:
    status = 0
    for level, kind, content in control:
        if level == _SOL_PACKET and kind == _PACKET_AUXDATA:
            status, _, _, _, _, tci, tpid = _AUXDATA.unpack(content)
            if status & _STATUS_VLAN_VALID:
                protocol = tpid if status & _STATUS_TPID_VALID else 0x8100
                octets = octets[:12] + struct.pack("!HH", protocol, tci) + octets[12:]
    return Frame(octets, time.monotonic(), outgoing, not status & _STATUS_CHECKSUM_NOT_READY)


def write_pcap(path: Path, frames: Iterable[bytes]) -> None:
    """Writes frames as a pcap file of Ethernet, one microsecond apart."""
    with path.open("wb") as file:
        file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 1))
        for number, frame in enumerate(frames):
            file.write(struct.pack("=IIII", *divmod(number, 1_000_000), len(frame), len(frame)) + frame)


def collect(action: Callable[[], object], *captures: Capture, quiet: float = 0.2) -> tuple[list[bytes], ...]:
    """Does `action`, waits until all captures are quiet, and returns what each has seen."""
    action()
    return tuple(capture.settle(quiet) for capture in captures)
