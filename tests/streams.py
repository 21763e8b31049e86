"""Streams and super-packets of real sockets, in the namespaces of a topology."""

import socket
import threading
from random import Random

from tests.wire import socket_in

UDP_SEGMENT = 103  # <linux/udp.h>


def content(length: int, seed: int = 1) -> bytes:
    """Bytes without any pattern, the same for the same arguments."""
    return Random(seed).randbytes(length)


def tcp(sent: bytes, address: str, source: str = "pod", sink: str = "peer", port: int = 0) -> bytes:
    """Sends a stream as fast as it goes, from one namespace to an address of another; returns what came out there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    got = bytearray()
    with socket_in(sink, family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
        receiver = threading.Thread(target=_receive, args=(listener, got))
        receiver.start()
        with socket_in(source, family, socket.SOCK_STREAM) as client:
            client.settimeout(30)
            client.connect(listener.getsockname())
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            client.recv(1)  # the other end has read everything
        receiver.join()
    return bytes(got)


def _receive(listener: socket.socket, got: bytearray) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(30)
        while octets := connection.recv(1 << 20):
            got.extend(octets)


def udp(sent: bytes, address: str, size: int, count: int = 1, source: str = "pod", port: int = 9) -> None:
    """Sends `count` times the same bytes, at most 65,507, as datagrams of `size` each, one super-packet a time."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket_in(source, family, socket.SOCK_DGRAM) as datagrams:
        datagrams.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        for _ in range(count):
            datagrams.sendto(sent, (address, port))
