"""The one door to libbpf: objects, programs, maps, pins and test runs. kernel/tcx.py attaches programs.

Works with libbpf 1.1 (Debian 12) and later. Nothing here knows what our maps mean. Everything that fails raises
KernelError with the name of the call and the errno; a program that the verifier refuses carries the end of its log.
"""

import contextlib
import ctypes
import errno
import functools
import hashlib
import mmap
import os
import platform
import struct
import time
from collections.abc import Iterator, Mapping
from ctypes import byref, c_uint32, c_uint64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from sniffer.errors import KernelError, MachineError
from sniffer.kernel.libbpf import (
    FlagsOptions,
    MapInfo,
    ObjectOptions,
    ProgramInfo,
    TestRunOptions,
    call,
    libc,
    library,
    take_messages,
)

MMAPABLE = 1 << 10
NOEXIST = 1
EXIST = 2
BPFFS_MAGIC = 0xCAFE4A11

_READ_ONLY = 1 << 3
_PER_CPU_TYPES = frozenset({5, 6, 10, 21})  # per-CPU hash, array, LRU hash, cgroup storage
_NOT_SUPPORTED = 524  # ENOTSUPP, which <errno.h> does not have
_BATCH_BYTES = 1 << 20
_LOG_LINES = 20
_OFFSETS = Path("/proc/self/timens_offsets")
_MEMBARRIER_CMD_GLOBAL = 1
_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283}
_WORD = struct.Struct("@Q")
_LONG = struct.Struct("@l")
_HEADROOM = 4096  # bytes that a test run may add to its frame


@dataclass(frozen=True, slots=True)
class Program:
    """A loaded program. `fd` belongs to whoever made it; `name` is what the kernel keeps, its first 15 characters."""

    fd: int
    id: int
    name: str
    tag: str
    load_time: int
    """Nanoseconds since boot."""


def program_of(fd: int) -> Program:
    """What the kernel says of the program behind `fd`."""
    answer = ProgramInfo()
    call("bpf_obj_get_info_by_fd", fd, byref(answer), byref(c_uint32(ctypes.sizeof(answer))))
    return Program(fd, answer.id, answer.name.decode(errors="replace"), bytes(answer.tag).hex(), answer.load_time)


def program_fd_by_id(program_id: int) -> int | None:
    """A new fd of the program with this id; None when it is gone or CAP_SYS_ADMIN is missing."""
    fd = call("bpf_prog_get_fd_by_id", program_id, allow=(errno.ENOENT, errno.EPERM))
    return fd if fd >= 0 else None


class Map:
    """A map by its fd. Keys and values are bytes as the programs see them, host byte order.

    A value of a per-CPU map is the values of all possible CPUs one after the other, each rounded up to 8 bytes.
    """

    def __init__(self, fd: int, name: str | None = None) -> None:
        """Of an open fd; `close` closes it. `name` where the kernel's 15 characters are too few."""
        facts = MapInfo()
        call("bpf_obj_get_info_by_fd", fd, byref(facts), byref(c_uint32(ctypes.sizeof(facts))))
        self.fd = fd
        self.id: int = facts.id
        self.name: str = name or facts.name.decode(errors="replace")
        self.type: int = facts.type
        self.flags: int = facts.flags
        self.key_size: int = facts.key_size
        self.value_size: int = facts.value_size
        self.max_entries: int = facts.max_entries
        rounded = self.value_size + 7 & ~7
        self.stride = rounded
        """Bytes from one element of an mmap, or one CPU's value, to the next."""
        self.length = rounded * possible_cpus() if self.type in _PER_CPU_TYPES else self.value_size
        """Bytes of what `lookup` answers."""

    def _key(self, key: bytes) -> bytes:
        if len(key) != self.key_size:
            raise ValueError(f"map {self.name}: a key of {len(key)} bytes, not {self.key_size}")
        return key

    def lookup(self, key: bytes) -> bytes | None:
        """The value at `key`, None where there is none."""
        value = ctypes.create_string_buffer(self.length)
        answer = call("bpf_map_lookup_elem", self.fd, self._key(key), value, allow=(errno.ENOENT,))
        return value.raw if answer == 0 else None

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """Writes `value`; with NOEXIST KernelError (EEXIST) when there is one. E2BIG when the map is full."""
        if len(value) != self.length:
            raise ValueError(f"map {self.name}: a value of {len(value)} bytes, not {self.length}")
        call("bpf_map_update_elem", self.fd, self._key(key), value, flags)

    def delete(self, key: bytes) -> bool:
        """Removes the element; False when there was none."""
        return call("bpf_map_delete_elem", self.fd, self._key(key), allow=(errno.ENOENT,)) == 0

    def keys(self) -> Iterator[bytes]:
        """Every key. Under concurrent deletes of a hash the walk may start over, so a key may come twice."""
        key: bytes | None = None
        following = ctypes.create_string_buffer(self.key_size)
        while call("bpf_map_get_next_key", self.fd, key, following, allow=(errno.ENOENT,)) == 0:
            key = following.raw
            yield key

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key with its value: by batches where this kernel has them for the map's type, else one by one."""
        batches = self._batches()
        first = next(batches, None)
        if first is None:
            yield from ((key, value) for key in self.keys() if (value := self.lookup(key)) is not None)
            return
        yield from first
        for batch in batches:
            yield from batch

    def _batches(self) -> Iterator[list[tuple[bytes, bytes]]]:
        """Nothing at all where batches are not supported; one list, perhaps empty, at least where they are."""
        room = max(1, min(self.max_entries, _BATCH_BYTES // (self.key_size + self.length)))
        # A hash writes its own 32-bit cursor, an array the last key.
        cursor, following = (ctypes.create_string_buffer(max(self.key_size, 8)) for _ in range(2))
        start: Any = None
        while True:
            keys = ctypes.create_string_buffer(room * self.key_size)
            values = ctypes.create_string_buffer(room * self.length)
            count = c_uint32(room)
            answer = call(
                "bpf_map_lookup_batch",
                *(self.fd, start, following, keys, values, byref(count), None),
                allow=(errno.ENOENT, errno.ENOSPC, errno.EINVAL, errno.EOPNOTSUPP, _NOT_SUPPORTED),
            )
            if answer == -errno.ENOSPC:  # one bucket of a hash holds more than there is room for
                room *= 2
                continue
            if answer not in (0, -errno.ENOENT):
                if start is not None:
                    raise KernelError("bpf_map_lookup_batch", -answer)
                return
            k, v = keys.raw, values.raw
            yield [
                (k[n * self.key_size : (n + 1) * self.key_size], v[n * self.length : (n + 1) * self.length])
                for n in range(count.value)
            ]
            if answer:
                return
            cursor, following = following, cursor
            start = cursor

    def first(self, number: int) -> bytes:
        """The values of the elements 0 to `number` - 1 of an array, one after the other."""
        keys, values = (ctypes.create_string_buffer(number * size) for size in (self.key_size, self.length))
        count, allow = c_uint32(number), (errno.EINVAL, errno.EOPNOTSUPP, _NOT_SUPPORTED)
        arguments = (self.fd, None, ctypes.create_string_buffer(8), keys, values, byref(count), None)
        if call("bpf_map_lookup_batch", *arguments, allow=allow) == 0:
            return values.raw
        return b"".join(self.lookup(struct.pack("=I", n)) or b"" for n in range(number))

    def mmap(self, writable: bool) -> mmap.mmap:
        """The memory of a BPF_F_MMAPABLE array itself: element n starts at n * `stride`. See store_word."""
        protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        try:
            return mmap.mmap(self.fd, self.stride * self.max_entries, mmap.MAP_SHARED, protection)
        except OSError as error:
            raise KernelError("mmap", error.errno or 0, f"map {self.name}") from None

    def close(self) -> None:
        """Closes the fd, once; an mmap stays good."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Object:
    """A loaded BPF object file. Its maps and programs live until `close`, or longer where pinned or attached."""

    def __init__(self, handle: int, digest: str) -> None:
        """Use `open`."""
        self._handle: int | None = handle
        self.digest = digest
        """SHA-256 of the file, hexadecimal."""

    @classmethod
    def open(
        cls,
        path: Path,
        pin_maps: Path | None = None,
        autoload: Mapping[str, bool] | None = None,
        digest: str | None = None,
        entries: Mapping[str, int] | None = None,
    ) -> Self:
        """Loads the object at `path`; with `digest` (SHA-256, hexadecimal) only that very one, else MachineError.

        With `entries` only the maps that it names are made, with so many elements; programs may use no others.

        With `pin_maps` (a directory on a bpffs) every map is pinned there under its name, and a compatible one that
        is there already is used instead of a new one; constants and globals are never shared. `autoload` says of
        programs, by name, whether they are loaded. KernelError carries the end of libbpf's
        words, the verifier's among them; all of them are in the error's note.
        """
        take_messages()
        # From memory: between a check and a second look at the file it could be another.
        content, found = read_object(path, digest)
        options = ObjectOptions(ctypes.sizeof(ObjectOptions), path.stem.encode())
        handle = library().bpf_object__open_mem(content, len(content), byref(options))
        if not handle:
            raise _refused("bpf_object__open_mem", ctypes.get_errno(), path)
        opened = cls(handle, found)
        try:
            programs, maps = opened._entries("program"), opened._entries("map")
            for name, wanted in (autoload or {}).items():
                call("bpf_program__set_autoload", programs[name], wanted)
            if entries is not None:
                opened._limit(entries)
            if pin_maps is not None:
                for name in opened.maps():
                    call("bpf_map__set_pin_path", maps[name], os.fsencode(pin_maps / name))
            answer = library().bpf_object__load(handle)
            if answer < 0:
                raise _refused("bpf_object__load", -answer, path)
        except BaseException:
            opened.close()
            raise
        return opened

    def _entries(self, kind: str) -> dict[str, int]:
        """libbpf's pointers by name; `kind` is program or map."""
        found: dict[str, int] = {}
        following, name = getattr(library(), f"bpf_object__next_{kind}"), getattr(library(), f"bpf_{kind}__name")
        entry = following(self._handle, None)
        while entry:
            found[name(entry).decode()] = entry
            entry = following(self._handle, entry)
        return found

    def _limit(self, entries: Mapping[str, int]) -> None:
        found = self._entries("map")
        for name in self.maps():
            call("bpf_map__set_autocreate", found[name], name in entries)
            if name in entries:
                call("bpf_map__set_max_entries", found[name], entries[name])

    def programs(self) -> tuple[str, ...]:
        """The names of all programs of the file, loaded or not."""
        return tuple(self._entries("program"))

    def maps(self) -> tuple[str, ...]:
        """The names of all maps, without libbpf's own for constants and globals."""
        return tuple(n for n, p in self._entries("map").items() if not library().bpf_map__is_internal(p))

    def loaded(self) -> tuple[str, ...]:
        """The names of the programs that are loaded: all of the file but those that `autoload` left out."""
        entries = self._entries("program").items()
        return tuple(name for name, entry in entries if call("bpf_program__fd", entry, allow=(errno.ENOENT,)) >= 0)

    def program(self, name: str) -> Program:
        """A loaded program by its name in C, whole; its fd is closed with the object. KeyError where there is none."""
        return replace(program_of(call("bpf_program__fd", self._entries("program")[name])), name=name)

    def map(self, name: str) -> Map:
        """A map by its name in C, with an fd of its own that the caller closes. KeyError where there is none."""
        fd = os.dup(call("bpf_map__fd", self._entries("map")[name]))
        return _adopt(fd, name)

    def close(self) -> None:
        """Closes what is open. A second call does nothing."""
        handle, self._handle = self._handle, None
        if handle:
            library().bpf_object__close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_object(path: Path, digest: str | None) -> tuple[bytes, str]:
    """What the file holds, and its SHA-256 in hexadecimal. MachineError: it is not `digest`."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if digest not in (None, found):
        text = f"the BPF object {path} is not the one that this package was built with: SHA-256 {found}, not {digest}"
        raise MachineError(text, "install the package or pull the image anew; in a checkout run `make build`")
    return content, found


def _refused(function: str, number: int, path: Path) -> KernelError:
    """The error of an object that libbpf or the verifier refuses. Its note is the whole log."""
    log = take_messages()
    # Of every map that it takes back it says so.
    lines = [line for line in log.splitlines() if line.strip() and "unpinned map" not in line]
    error = KernelError(f"{function} of {path.name}", number, "\n".join(lines[-_LOG_LINES:]))
    error.add_note(log)
    return error


def _adopt(fd: int, name: str | None) -> Map:
    try:
        return Map(fd, name)
    except BaseException:
        os.close(fd)
        raise


def pin(fd: int, path: Path) -> None:
    """Pins a map, program or link at `path` on a bpffs; it lives until the file is unlinked. EEXIST when taken."""
    call("bpf_obj_pin", fd, os.fsencode(path), about=path)


def get_pinned(path: Path, read_only: bool = False) -> int:
    """A new fd of what is pinned at `path`. KernelError (ENOENT) where nothing is. `read_only` is for maps."""
    options = FlagsOptions(ctypes.sizeof(FlagsOptions), _READ_ONLY if read_only else 0)
    return call("bpf_obj_get_opts", os.fsencode(path), byref(options), about=path)


def open_pinned(path: Path, read_only: bool = False) -> Map:
    """The map pinned at `path`, named after the file; the caller closes it."""
    return _adopt(get_pinned(path, read_only), path.name)


def store_word(view: mmap.mmap, index: int, value: int) -> None:
    """Writes the 64-bit word `index` of a writable view (so at byte 8 * index), host byte order.

    It is one aligned store: a program that reads meanwhile sees the old word or the new one.
    """
    c_uint64.from_buffer(view, index * 8).value = value


def load_word(view: mmap.mmap, index: int) -> int:
    """The 64-bit word `index` of a view, read in one load."""
    word: int = _WORD.unpack_from(view, index * 8)[0]
    return word


def test_run(  # the kernel's name for it, not a test
    program_fd: int,
    frame: bytes,
    ifindex: int,
    mark: int = 0,  # noqa: PT028
    repeat: int = 1,  # noqa: PT028
) -> tuple[int, int, bytes]:
    """Runs a TC program on `frame` (from its Ethernet header on) as if the interface had it.

    Answers (what the program returned, as a signed 32-bit number; nanoseconds of one run on average; the frame
    afterwards). KernelError (EINVAL) for what the kernel's test run refuses: below 14 bytes, an IP packet with its
    header cut off, more than about a page.
    """
    context = bytearray(192)  # struct __sk_buff; it must be zero but for what a test run may set
    struct.pack_into("=I", context, 8, mark)
    struct.pack_into("=I", context, 40, ifindex)
    data = ctypes.create_string_buffer(len(frame) + _HEADROOM)
    options = TestRunOptions(
        size=ctypes.sizeof(TestRunOptions),
        data_in=frame,
        data_size_in=len(frame),
        data_out=ctypes.addressof(data),
        data_size_out=len(data),
        context_in=ctypes.addressof((ctypes.c_char * len(context)).from_buffer(context)),
        context_size_in=len(context),
        repeat=repeat,
    )
    call("bpf_prog_test_run_opts", program_fd, byref(options), about=f"a frame of {len(frame)} bytes")
    return ctypes.c_int32(options.retval).value, options.duration, data.raw[: options.data_size_out]


@functools.cache
def possible_cpus() -> int:
    """How many CPUs this machine may ever have, which is what per-CPU values are as long as."""
    return call("libbpf_num_possible_cpus")


def synchronize_rcu() -> None:
    """Waits until no program still runs that began before this call: some milliseconds."""
    number = _MEMBARRIER.get(platform.machine(), 324)
    if libc().syscall(number, _MEMBARRIER_CMD_GLOBAL, 0, 0):
        raise KernelError("membarrier", ctypes.get_errno())


def monotonic_ns() -> int:
    """The clock of bpf_ktime_get_ns: CLOCK_MONOTONIC of the kernel, nanoseconds, in whatever time namespace we are."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) - _ahead_ns()


@functools.cache
def _ahead_ns() -> int:
    """By how much our CLOCK_MONOTONIC is ahead of the kernel's: some containers have a time namespace."""
    with contextlib.suppress(OSError, ValueError):  # a kernel without them
        for line in _OFFSETS.read_text().splitlines():
            clock, seconds, nanoseconds = line.split()
            if clock in ("monotonic", "1"):
                return int(seconds) * 10**9 + int(nanoseconds)
    return 0


def is_bpffs(path: Path) -> bool:
    """Whether `path` lies on a bpffs; False when there is no such path."""
    answer = ctypes.create_string_buffer(512)  # struct statfs; its first word is the magic
    if libc().statfs(os.fsencode(path), answer):
        number = ctypes.get_errno()
        if number in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise KernelError(f"statfs of {path}", number)
    magic: int = _LONG.unpack_from(answer)[0]
    return magic == BPFFS_MAGIC
