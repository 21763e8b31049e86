"""Netlink events, as the one thing that the agent wants of them: whether to look again."""

import contextlib
import errno
import socket
import struct

# RTNLGRP_* as bits: link, neigh, tc; addresses, routes, rules of IPv4 and of IPv6; nexthop objects.
_GROUPS = sum(1 << group - 1 for group in (1, 3, 4, 5, 7, 8, 9, 11, 19, 32))
_SO_RCVBUFFORCE = 33
_BUFFER = 1 << 20
_HEADER = struct.Struct("=IHHII")
_LINK, _NEIGHBOUR = frozenset({16, 17}), frozenset({28, 29})  # RTM_NEW*, RTM_DEL*
_AF_BRIDGE = 7
_DATAGRAMS = 4096


def monitor() -> socket.socket:
    """A socket for a selector, readable when links, addresses, routes, neighbours or filters have changed."""
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    events.setblocking(False)
    with contextlib.suppress(OSError):  # without the capability the default will do: an overflow is noticed
        events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    events.bind((0, _GROUPS))
    return events


def drain(events: socket.socket) -> bool:
    """Reads what has come; whether any of it may matter. Events that were lost (ENOBUFS) may.

    Does not matter: what a bridge learns about its own table. In a storm it ends before the socket is empty; the
    selector then comes back at once.
    """
    relevant = False
    for _ in range(_DATAGRAMS):
        try:
            datagram = events.recv(1 << 16)
        except BlockingIOError:
            return relevant
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            relevant = True
            continue
        relevant = relevant or _matters(datagram)
    return True


def _matters(datagram: bytes) -> bool:
    position = 0
    while position + 17 <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, position)
        if kind not in _LINK | _NEIGHBOUR or datagram[position + 16] != _AF_BRIDGE:
            return True
        position += max(16, length + 3 & ~3)
    return False
