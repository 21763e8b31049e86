"""The network namespaces that a container runtime keeps by name: who they are and which addresses they have.

All of it by netlink from outside: the kernel answers for a namespace that we have an nsid for (RTM_GETADDR with
IFA_TARGET_NETNSID, since 5.0). Nobody enters a namespace, so CAP_NET_ADMIN suffices, and nobody holds one open.
"""

import errno
import os
import socket
import struct
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path

from sniffer.errors import KernelError
from sniffer.kernel import rtnetlink
from sniffer.kernel.netlink import Netlink
from sniffer.kernel.rtnetlink import attribute, attributes, s32
from sniffer.plan.binding import Key, Namespace

_RTGEN = bytes(4)  # struct rtgenmsg, padded
_ADDRESS_HEADER = struct.Struct("=BBBBI")  # struct ifaddrmsg
_NETNSA_NSID, _NETNSA_FD = 1, 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_TARGET_NETNSID = 1, 2, 10
_OWN = "/proc/thread-self/ns/net"


class Namespaces:
    """A directory of bind mounts of network namespaces, such as /run/netns."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._nsids: dict[Key, int | None] = {}
        self.fault: str | None = None
        """What could not be read in the last look, in words."""

    def look(self, netlink: Netlink, fresh: bool = False, owned: Container[Key] = ()) -> tuple[Namespace, ...] | None:
        """Every network namespace in the directory but our own; None where the directory cannot be read (see `fault`).

        Links that are to be compared with these must have been dumped before: an nsid is used again.
        fresh: with their addresses, but for those whose keys are in `owned`.
        """
        self.fault = None
        try:
            entries = list(self._entries())
        except OSError as error:
            self.fault = f"{self._directory}: {error.strerror}"
            return None
        self._nsids = {key: self._nsids[key] for key, _ in entries if key in self._nsids}
        looked = (self._look_at(netlink, name, key, fresh and key not in owned) for key, name in entries)
        return tuple(namespace for namespace in looked if namespace)

    def _entries(self) -> Iterator[tuple[Key, str]]:
        """Namespaces of any kind, each once. Nothing is opened: what else lies there may hang whoever opens it."""
        own = os.stat(_OWN)  # noqa: PTH116
        inodes = {own.st_ino}
        with os.scandir(self._directory) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        for entry in entries:
            try:
                stat = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.st_dev == own.st_dev and stat.st_ino not in inodes:
                inodes.add(stat.st_ino)
                yield (stat.st_ino, stat.st_ctime_ns), entry.name

    def _look_at(self, netlink: Netlink, name: str, key: Key, fresh: bool) -> Namespace | None:
        known = key in self._nsids
        if known and self._nsids[key] is None:
            return None
        if known and not fresh:
            return Namespace(*key, self._nsids[key] or 0, name)
        try:
            fd = os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            return self._unread(key, name, error.strerror or "")
        try:
            stat = os.fstat(fd)
            if (stat.st_ino, stat.st_ctime_ns) != key:
                return None
            nsid = self._nsids[key] if known else _nsid(netlink, fd)
            self._nsids[key] = nsid
            if nsid is None:
                return None
            namespace = Namespace(*key, nsid, name)
            return replace(namespace, addresses=_addresses(netlink, nsid)) if fresh else namespace
        except KernelError as error:
            return self._unread(key, name, str(error))
        finally:
            os.close(fd)

    def _unread(self, key: Key, name: str, why: str) -> Namespace:
        """One that is there and cannot be asked may be anybody's: who asks for addresses must know of it."""
        self.fault = f"{self._directory / name}: {why}"
        nsid = self._nsids.get(key)
        return Namespace(*key, -1 if nsid is None else nsid, name)


def _nsid(netlink: Netlink, fd: int) -> int | None:
    """The nsid of an open namespace, given to it now if it had none; None where it is of another kind."""
    which = attribute(_NETNSA_FD, struct.pack("=I", fd))
    create = _RTGEN + attribute(_NETNSA_NSID, struct.pack("=i", -1)) + which
    try:
        nsid = _known_nsid(netlink, which)
        if nsid >= 0:
            return nsid
        try:
            netlink.questions.ask("RTM_NEWNSID", rtnetlink.NEW_NSID, create, rtnetlink.ACK)
        except KernelError as error:
            if error.errno != errno.EEXIST:  # somebody else was faster: a dump of links gives nsids too
                raise
        return _known_nsid(netlink, which)
    except KernelError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def _known_nsid(netlink: Netlink, which: bytes) -> int:
    message = netlink.questions.ask("RTM_GETNSID", rtnetlink.GET_NSID, _RTGEN + which)
    nsid = s32(attributes(message, len(_RTGEN)).get(_NETNSA_NSID))
    return -1 if nsid is None else nsid


def _addresses(netlink: Netlink, nsid: int) -> frozenset[str]:
    """The IPv4 and IPv6 addresses in the namespace, which must be held open meanwhile: else the nsid is another's.

    One family after the other: for all at once the kernel waits for its one lock of links, which it holds for long
    where pods come and go; for one it has not, since 6.9.
    """
    found = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        body = _ADDRESS_HEADER.pack(family, 0, 0, 0, 0) + attribute(_IFA_TARGET_NETNSID, struct.pack("=i", nsid))
        for message in netlink.questions.dump(f"RTM_GETADDR of nsid {nsid}", rtnetlink.GET_ADDRESS, body):
            told = attributes(message, _ADDRESS_HEADER.size)
            # The kernel repeats the nsid where it has heeded it; addresses of our own would have none.
            if message[0] != family or s32(told.get(_IFA_TARGET_NETNSID)) != nsid:
                continue
            raw = told.get(_IFA_LOCAL) or told.get(_IFA_ADDRESS)
            if raw:
                found.add(socket.inet_ntop(family, raw))
    return frozenset(found)
