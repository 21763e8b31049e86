"""A BPF ring buffer, read by libbpf, which knows the barriers of every architecture."""

import ctypes
from ctypes import c_void_p

from sniffer.errors import KernelError
from sniffer.kernel.libbpf import SAMPLE, call, library

_FULL = -1


class Ring:
    """The reader's end of a BPF_MAP_TYPE_RINGBUF; there may be one at a time. Not for threads."""

    def __init__(self, map_fd: int) -> None:
        """Of an open fd, which stays the caller's."""
        self._records: list[bytes] = []
        self._room = 0
        self._take = SAMPLE(self._sample)  # libbpf keeps a pointer to it
        self._handle: int | None = library().ring_buffer__new(map_fd, self._take, None, None)
        if not self._handle:
            raise KernelError("ring_buffer__new", ctypes.get_errno())
        self.fd: int = call("ring_buffer__epoll_fd", self._handle)
        """Readable when there are records; for poll(2)."""

    def _sample(self, _context: c_void_p, record: int, length: int) -> int:
        self._records.append(ctypes.string_at(record, length))
        self._room -= length
        return _FULL if self._room <= 0 else 0

    def read(self, length: int) -> list[bytes]:
        """The records that are there, oldest first, until they come to `length` bytes; never waits."""
        self._records, self._room = [], length
        call("ring_buffer__consume", self._handle, allow=(-_FULL,))
        return self._records

    def close(self) -> None:
        """Once; the map stays."""
        handle, self._handle = self._handle, None
        if handle:
            library().ring_buffer__free(handle)
