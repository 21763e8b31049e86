"""Sockets that take what a packet socket reads anyway and throw it away, so that no ICMP error goes to the sender."""

import socket
from collections.abc import Iterable
from contextlib import ExitStack, suppress

from sniffer.kernel.ring import NOTHING, attach_filter

_IPPROTO_GRE = 47
_UDP_NO_CHECK6_RX = 102


def silence(ports: Iterable[int], gre: bool) -> ExitStack:
    """Opens them, for these UDP ports and for GRE, IPv4 and IPv6; they end with the stack.

    What is taken already, by a tunnel device say, is answered by who took it; a machine without IPv6 answers nothing.
    """
    with ExitStack() as opened:
        for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            for port in ports:
                with suppress(OSError):
                    _sink(opened, family, socket.SOCK_DGRAM, 0).bind((anywhere, port))
            if gre:
                with suppress(OSError):
                    _sink(opened, family, socket.SOCK_RAW, _IPPROTO_GRE)
        return opened.pop_all()


def _sink(opened: ExitStack, family: int, kind: int, protocol: int) -> socket.socket:
    sink = opened.enter_context(socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol))
    attach_filter(sink, NOTHING)
    if family == socket.AF_INET6:
        sink.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_DGRAM:
            sink.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_RX, 1)
    return sink
