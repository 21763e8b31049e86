"""libpcap's compiler: the text of a pcap-filter(7) expression -> classic BPF. The one door to libpcap."""

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock

from sniffer.abi.limits import PROGRAM_LENGTH
from sniffer.abi.records import Instruction, Program
from sniffer.errors import FilterError, InputError, MachineError
from sniffer.model.problem import printable
from sniffer.model.words import KEYWORDS, check

SNAP_LENGTH = 262144
"""Bytes: what a program returns for a frame that matches."""

LENGTH = PROGRAM_LENGTH - 1
"""Instructions of one filter; the one that starts its rule comes before them."""

ROUGH_LENGTH = 9_000
REMEMBERED = 4096
"""Texts whose programs are kept."""
"""Instructions before libpcap's optimiser: 120 ports have 7,700 of them and 511 after; 20,000 cost it 4 s."""

_DLT_EN10MB = 1
_ERROR_LENGTH = 256
_NEXT_FRAME = 1
_NETMASK_UNKNOWN = 0xFFFFFFFF
_SYNTAX_ERROR = "syntax error"
_LIBRARIES = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")

# Not every libpcap's pcap_compile is thread safe, nor are the tables of services and protocols that it reads.
_lock = Lock()


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_Instruction)))


class _Timeval(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("microseconds", ctypes.c_long))


class _PacketHeader(ctypes.Structure):
    _fields_ = (("time", _Timeval), ("captured", ctypes.c_uint32), ("length", ctypes.c_uint32))


@cache
def _libpcap() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        break
    else:
        raise MachineError("libpcap is not installed", "install the package libpcap0.8 or libpcap")
    program = ctypes.POINTER(_Program)
    library.pcap_open_dead.argtypes = (ctypes.c_int, ctypes.c_int)
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_close.argtypes = (ctypes.c_void_p,)
    library.pcap_close.restype = None
    library.pcap_compile.argtypes = (ctypes.c_void_p, program, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32)
    library.pcap_geterr.argtypes = (ctypes.c_void_p,)
    library.pcap_geterr.restype = ctypes.c_char_p
    library.pcap_freecode.argtypes = (program,)
    library.pcap_freecode.restype = None
    library.bpf_image.argtypes = (ctypes.POINTER(_Instruction), ctypes.c_int)
    library.bpf_image.restype = ctypes.c_char_p
    library.pcap_open_offline.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
    library.pcap_open_offline.restype = ctypes.c_void_p
    library.pcap_datalink.argtypes = (ctypes.c_void_p,)
    library.pcap_datalink_val_to_name.argtypes = (ctypes.c_int,)
    library.pcap_datalink_val_to_name.restype = ctypes.c_char_p
    header, octets = ctypes.POINTER(_PacketHeader), ctypes.POINTER(ctypes.c_ubyte)
    library.pcap_next_ex.argtypes = (ctypes.c_void_p, ctypes.POINTER(header), ctypes.POINTER(octets))
    library.pcap_offline_filter.argtypes = (program, ctypes.POINTER(_PacketHeader), ctypes.c_char_p)
    return library


def compile(text: str) -> Program:
    """The program that tcpdump would run on Ethernet frames, at most LENGTH instructions.

    Raises FilterError: for names that libpcap would look up (nobody is ever asked), for whatever else libpcap refuses,
    in its words, and for a program that is too long. Takes a second or two at most; a text seen lately takes no time.
    """
    result = _result(text)
    if isinstance(result, FilterError):
        # A new one: an exception that is raised again grows its traceback.
        raise FilterError(result.message, result.offset)
    return result


_results: dict[str, Program | FilterError] = {}
"""What libpcap made of the texts seen last; the oldest goes first."""


def is_compiled(text: str) -> bool:
    """Whether `compile` takes no time for this text."""
    return text in _results


def _result(text: str) -> Program | FilterError:
    found = _results.get(text)
    if found is None:
        found = _results[text] = _new_result(text)
        if len(_results) > REMEMBERED:
            _results.pop(next(iter(_results)), None)
    return found


def _new_result(text: str) -> Program | FilterError:
    try:
        with _lock:
            check(text, _keywords())
            rough = len(_compiled(text, optimise=False))
            if rough > ROUGH_LENGTH:
                raise FilterError(f"too long: {rough} instructions before optimisation, at most {ROUGH_LENGTH}")
            program = _compiled(text, optimise=True)
        if len(program) > LENGTH:
            raise FilterError(f"too long: {len(program)} instructions, at most {LENGTH}")
    except FilterError as error:
        return error
    return program


@cache
def _keywords() -> frozenset[str]:
    """The keywords that this libpcap knows: to one that does not, `host vrrp` names a host."""

    def is_known(word: str) -> bool:
        try:
            _compiled(f"port {word}", optimise=False)
        except FilterError as error:
            return error.message == _SYNTAX_ERROR
        return False

    return frozenset(word for word in KEYWORDS if is_known(word))


def _compiled(text: str, *, optimise: bool) -> Program:
    libpcap = _libpcap()
    handle = libpcap.pcap_open_dead(_DLT_EN10MB, SNAP_LENGTH)
    if not handle:
        raise MemoryError
    compiled = _Program()
    try:
        if libpcap.pcap_compile(handle, ctypes.byref(compiled), text.encode("ascii"), optimise, _NETMASK_UNKNOWN):
            words = libpcap.pcap_geterr(handle).decode(errors="replace")
            raise FilterError(words.removeprefix("can't parse filter expression: "))
        try:
            found = compiled.instructions[: compiled.length]
            return tuple(Instruction(i.code, i.jt, i.jf, i.k) for i in found)
        finally:
            libpcap.pcap_freecode(ctypes.byref(compiled))
    finally:
        libpcap.pcap_close(handle)


def matches(program: Program, frame: bytes, wire_length: int | None = None) -> bool:
    """What libpcap's own interpreter decides about an Ethernet frame.

    `frame` is as much of it as was captured, `wire_length` (bytes) its length on the wire, where that is more.
    """
    instructions = (_Instruction * len(program))(*(_Instruction(i.code, i.jt, i.jf, i.k) for i in program))
    compiled = _Program(len(program), instructions)
    length = len(frame) if wire_length is None else wire_length
    header = _PacketHeader(_Timeval(), len(frame), length)
    return bool(_libpcap().pcap_offline_filter(ctypes.byref(compiled), ctypes.byref(header), frame))


def listing(program: Program) -> tuple[str, ...]:
    """One line for each instruction, as `tcpdump -d` prints them."""
    libpcap = _libpcap()
    with _lock:  # the text lies in a buffer of libpcap's own
        return tuple(
            libpcap.bpf_image(_Instruction(i.code, i.jt, i.jf, i.k), number).decode()
            for number, i in enumerate(program)
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a capture: the bytes that were kept, from the Ethernet header on, and how many there were."""

    octets: bytes
    wire_length: int


def frames(path: Path) -> Iterator[Frame]:
    """The frames of a capture file, pcap or pcapng, in order; whatever libpcap reads.

    Raises InputError: the file cannot be read, ends within a frame, or is not of Ethernet.
    """
    libpcap = _libpcap()
    words = ctypes.create_string_buffer(_ERROR_LENGTH)
    handle = libpcap.pcap_open_offline(os.fsencode(path), words)
    if not handle:
        raise _unreadable(path, words.value)
    try:
        link_type = libpcap.pcap_datalink(handle)
        if link_type != _DLT_EN10MB:
            name = libpcap.pcap_datalink_val_to_name(link_type) or b"unknown"
            raise InputError(
                f"{_shown(path)}: given link type {name.decode()} ({link_type}), allowed EN10MB (Ethernet)"
            )
        header, octets = ctypes.POINTER(_PacketHeader)(), ctypes.POINTER(ctypes.c_ubyte)()
        while (answer := libpcap.pcap_next_ex(handle, ctypes.byref(header), ctypes.byref(octets))) == _NEXT_FRAME:
            yield Frame(ctypes.string_at(octets, header[0].captured), header[0].length)
        if answer == -1:
            raise _unreadable(path, libpcap.pcap_geterr(handle))
    finally:
        libpcap.pcap_close(handle)


def _unreadable(path: Path, words: bytes) -> InputError:
    text = words.decode(errors="replace").removeprefix(f"{path}: ")
    return InputError(f"{_shown(path)}: cannot be read as pcap or pcapng: {printable(text, 200)}")


def _shown(path: Path) -> str:
    return printable(str(path), 1000)
