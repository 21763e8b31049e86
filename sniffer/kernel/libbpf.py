"""libbpf.so.1 by ctypes: the records it takes, the signatures we use, its messages. Only kernel/bpf.py,
kernel/ringbuf.py and kernel/tcx.py call it. libbpf 1.1 (Debian 12) has everything named here.
"""

import ctypes
import functools
from ctypes import POINTER, byref, c_bool, c_char, c_char_p, c_int, c_long, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

from sniffer.errors import KernelError, MachineError


class ProgramInfo(ctypes.Structure):
    """The head of struct bpf_prog_info; the kernel fills as much as it is given."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_length", c_uint32),
        ("xlated_length", c_uint32),
        ("jited", c_uint64),
        ("xlated", c_uint64),
        ("load_time", c_uint64),
        ("uid", c_uint32),
        ("map_count", c_uint32),
        ("maps", c_uint64),
        ("name", c_char * 16),
    ]


class MapInfo(ctypes.Structure):
    """The head of struct bpf_map_info."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("flags", c_uint32),
        ("name", c_char * 16),
    ]


class LinkInfo(ctypes.Structure):
    """struct bpf_link_info with the arm of its union that TCX has."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("program", c_uint32),
        ("pad", c_uint32),
        ("ifindex", c_uint32),
        ("attach_type", c_uint32),
    ]


class FlagsOptions(ctypes.Structure):
    """The head of bpf_link_create_opts, and of bpf_obj_get_opts: libbpf's option records start with their size."""

    _fields_ = [("size", c_size_t), ("flags", c_uint32), ("pad", c_uint32)]


class ObjectOptions(ctypes.Structure):
    """The head of bpf_object_open_opts."""

    _fields_ = [("size", c_size_t), ("name", c_char_p)]


class TestRunOptions(ctypes.Structure):
    """bpf_test_run_opts."""

    __test__ = False
    _fields_ = [
        ("size", c_size_t),
        ("data_in", c_char_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("context_in", c_void_p),
        ("context_out", c_void_p),
        ("context_size_in", c_uint32),
        ("context_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    ]


SAMPLE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
"""ring_buffer_sample_fn: context, record, its bytes; an answer below 0 ends the reading behind this record."""

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_U32 = POINTER(c_uint32)
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "bpf_object__open_mem": (c_void_p, (c_char_p, c_size_t, POINTER(ObjectOptions))),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__set_autoload": (c_int, (c_void_p, c_bool)),
    "bpf_map__name": (c_char_p, (c_void_p,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__is_internal": (c_bool, (c_void_p,)),
    "bpf_map__set_autocreate": (c_int, (c_void_p, c_bool)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__set_pin_path": (c_int, (c_void_p, c_char_p)),
    "bpf_map_lookup_elem": (c_int, (c_int, c_char_p, c_void_p)),
    "bpf_map_update_elem": (c_int, (c_int, c_char_p, c_char_p, c_uint64)),
    "bpf_map_delete_elem": (c_int, (c_int, c_char_p)),
    "bpf_map_get_next_key": (c_int, (c_int, c_char_p, c_void_p)),
    "bpf_map_lookup_batch": (c_int, (c_int, c_void_p, c_void_p, c_void_p, c_void_p, _U32, c_void_p)),
    "bpf_obj_pin": (c_int, (c_int, c_char_p)),
    "bpf_obj_get_opts": (c_int, (c_char_p, POINTER(FlagsOptions))),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, _U32)),
    "bpf_prog_get_fd_by_id": (c_int, (c_uint32,)),
    "bpf_prog_query": (c_int, (c_int, c_int, c_uint32, _U32, _U32, _U32)),
    "bpf_prog_test_run_opts": (c_int, (c_int, POINTER(TestRunOptions))),
    "bpf_link_create": (c_int, (c_int, c_int, c_int, POINTER(FlagsOptions))),
    "bpf_link_update": (c_int, (c_int, c_int, c_void_p)),
    "bpf_link_detach": (c_int, (c_int,)),
    "ring_buffer__new": (c_void_p, (c_int, SAMPLE, c_void_p, c_void_p)),
    "ring_buffer__consume": (c_int, (c_void_p,)),
    "ring_buffer__epoll_fd": (c_int, (c_void_p,)),
    "ring_buffer__free": (None, (c_void_p,)),
    "libbpf_num_possible_cpus": (c_int, ()),
    "libbpf_set_print": (c_void_p, (_PRINT,)),
}

_messages: list[str] = []


@functools.cache
def libc() -> ctypes.CDLL:
    """The C library, for what Python has no function for."""
    c = ctypes.CDLL(None, use_errno=True)
    c.vasprintf.restype, c.vasprintf.argtypes = c_int, (POINTER(c_void_p), c_char_p, c_void_p)
    c.free.restype, c.free.argtypes = None, (c_void_p,)
    c.statfs.restype, c.statfs.argtypes = c_int, (c_char_p, c_void_p)
    c.syscall.restype, c.syscall.argtypes = c_long, (c_long, c_long, c_long, c_long)
    return c


@_PRINT
def _print(_level: int, form: bytes, arguments: int) -> int:
    """libbpf's messages. A va_list is passed by address on x86-64, arm64 and riscv64 alike."""
    text = c_void_p()
    length: int = libc().vasprintf(byref(text), form, arguments)
    if length >= 0:
        _messages.append(ctypes.string_at(text.value or 0, length).decode(errors="replace"))
        libc().free(text)
    return 0


@functools.cache
def library() -> ctypes.CDLL:
    """libbpf with its signatures declared and its messages caught. MachineError where it is missing or too old."""
    try:
        so = ctypes.CDLL("libbpf.so.1", use_errno=True)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(so, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise MachineError(f"libbpf 1.1 or later is needed: {error}", "apt-get install libbpf1") from None
    so.libbpf_set_print(_print)
    return so


def call(name: str, *arguments: Any, allow: tuple[int, ...] = (), about: object = None) -> int:
    """Calls one of libbpf's functions that answer an int: the answer, or minus an errno that is in `allow`.

    Raises KernelError for any other negative answer, with `about` (a path, an interface) after the function's name.
    """
    answer: int = getattr(library(), name)(*arguments)
    if answer < 0 and -answer not in allow:
        raise KernelError(name if about is None else f"{name} of {about}", -answer)
    return answer


def take_messages() -> str:
    """What libbpf said since this was last asked, the verifier's logs among it."""
    text = "".join(_messages)
    _messages.clear()
    return text
