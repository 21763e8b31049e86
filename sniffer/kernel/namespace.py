"""A network namespace that nobody else sees."""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator

from sniffer.errors import KernelError, MachineError
from sniffer.kernel.libbpf import libc

_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def private_network() -> Iterator[None]:
    """The calling thread is in a new network namespace meanwhile.

    The namespace ends with the last socket that was opened in it. MachineError without CAP_SYS_ADMIN.
    """
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc().unshare(_CLONE_NEWNET):
            number = ctypes.get_errno()
            if number == errno.EPERM:
                raise MachineError("a network namespace needs CAP_SYS_ADMIN", "run as root")
            raise KernelError("unshare(CLONE_NEWNET)", number)
        try:
            yield
        finally:
            if libc().setns(here, _CLONE_NEWNET):
                raise KernelError("setns back from a private namespace", ctypes.get_errno())
    finally:
        os.close(here)
