"""Filters of a live capture on clsact, for kernels without TCX: unlike links they outlive the process that made them.

So a second process waits for the end of the first, however it comes, and takes them away; the first ends when the
second dies. Should both be killed at once (a container that ends), what they leave does nothing any more (the programs'
`valid_until`), and is removed by the next capture, the next agent, or `sniffer cleanup`: whose handle's name nobody
holds any more is dead.
"""

import errno
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from sniffer.abi.limits import Direction
from sniffer.errors import KernelError, MachineError, SnifferError
from sniffer.kernel import clsact
from sniffer.kernel.netlink import Netlink

_NAME = "\0sniffer-capture/{:x}"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT)


class Watched:
    """Filters on both directions of interfaces until `close`, or until this process is dead."""

    def __init__(self, ifindexes: Sequence[int], program_fds: dict[Direction, int]) -> None:
        """MachineError: no handle is free, or the qdisc leaves no room. KernelError."""
        self._hooks = [(ifindex, direction) for ifindex in ifindexes for direction in program_fds]
        self._netlink = Netlink()
        sweep(self._netlink)
        self.handle, self._name = _reserve()
        reading, self._lifeline = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if not self._pid:
            _watch(reading, self._name.fileno(), self._hooks, self.handle)
        os.close(reading)
        try:
            for ifindex, direction in self._hooks:
                clsact.add_capture(self._netlink, ifindex, direction, program_fds[direction], self.handle)
        except BaseException:
            self.close()
            raise

    def is_watched(self) -> bool:
        """Whether the other process lives."""
        if self._pid:
            with suppress(ChildProcessError):
                if os.waitpid(self._pid, os.WNOHANG)[0] == 0:
                    return True
            self._pid = 0
        return False

    def close(self) -> None:
        """Takes the filters away; the other process ends."""
        if self._lifeline < 0:
            return
        _remove(self._netlink, self._hooks, self.handle)
        os.close(self._lifeline)
        self._lifeline = -1
        if self._pid:
            with suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
        self._name.close()
        self._netlink.close()


def sweep(netlink: Netlink) -> list[str]:
    """Removes the filters of captures that are dead; what was removed, in words."""
    removed = []
    for ifindex, direction, handle in clsact.captures(netlink):
        name = _hold(handle)
        if name is not None:
            with name, suppress(KernelError):
                if clsact.delete_capture(netlink, ifindex, direction, handle):
                    removed.append(f"dead capture on ifindex {ifindex} {direction.name.lower()}")
    return removed


def _reserve() -> tuple[int, socket.socket]:
    """A handle of ours alone, and what makes it ours while it is open, in whichever process."""
    for handle in clsact.CAPTURES:
        name = _hold(handle)
        if name is not None:
            return handle, name
    raise MachineError(f"{len(clsact.CAPTURES)} captures run on this node", "end some of them")


def _hold(handle: int) -> socket.socket | None:
    """The abstract name of a handle, in this network namespace; None: somebody has it. The kernel lets go of it."""
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(_NAME.format(handle))
    except OSError as error:
        name.close()
        if error.errno != errno.EADDRINUSE:
            raise KernelError("bind of a capture's name", error.errno or 0) from None
        return None
    return name


def _remove(netlink: Netlink, hooks: Sequence[tuple[int, Direction]], handle: int) -> None:
    for ifindex, direction in hooks:
        with suppress(KernelError):  # gone with its interface
            clsact.delete_capture(netlink, ifindex, direction, handle)


def _watch(lifeline: int, name: int, hooks: Sequence[tuple[int, Direction]], handle: int) -> NoReturn:
    """The second process: holds nothing of the first but its end of the lifeline, and the name."""
    try:
        os.setsid()
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2 and fd not in (lifeline, name):
                with suppress(OSError):
                    os.close(fd)
        while os.read(lifeline, 1):
            pass
        with Netlink() as netlink:
            _remove(netlink, hooks, handle)
    except (OSError, SnifferError):
        os._exit(3)
    os._exit(0)
