"""Programs on TCX hooks (kernel 6.6 and later), by links. BPF's names: ingress is what the interface receives."""

import ctypes
import errno
import platform
import struct
from ctypes import byref, c_uint32
from dataclasses import dataclass

from sniffer.abi.limits import Direction
from sniffer.errors import KernelError
from sniffer.kernel.libbpf import FlagsOptions, LinkInfo, call, libc

LINK_TYPE = 11  # BPF_LINK_TYPE_TCX

_ATTACH_TYPES = {Direction.INGRESS: 46, Direction.EGRESS: 47}  # BPF_TCX_INGRESS, BPF_TCX_EGRESS
_DIRECTIONS = {number: direction for direction, number in _ATTACH_TYPES.items()}
_BEFORE = 1 << 3  # BPF_F_BEFORE; relative to nothing it means the head
_AFTER, _BY_ID = 1 << 4, 1 << 5  # BPF_F_AFTER, BPF_F_ID
_LINK_CREATE = 28  # of enum bpf_cmd
_LINK_CREATE_ATTRIBUTES = struct.Struct(
    "=IIIIIxxxxQ"
)  # of union bpf_attr: program, ifindex, type, flags, relative, revision
_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}  # numbers of bpf(2)
_PROGRAMS = 64  # BPF_MPROG_MAX: as many as a hook can take
_LOOPBACK = 1


@dataclass(frozen=True, slots=True)
class Link:
    """A BPF link. `direction` is None when it is no TCX link, `ifindex` 0 when its interface is gone."""

    id: int
    type: int
    program: int
    """The program's id."""
    ifindex: int
    direction: Direction | None


def attach_tcx(ifindex: int, direction: Direction, program_fd: int) -> int:
    """Attaches at the head of the chain. The answer is the link's fd: unless pinned, the link ends with it."""
    options = FlagsOptions(ctypes.sizeof(FlagsOptions), _BEFORE)
    about = f"TCX {direction.name.lower()} of ifindex {ifindex}"
    return call("bpf_link_create", program_fd, ifindex, _ATTACH_TYPES[direction], byref(options), about=about)


def attach_tcx_after(ifindex: int, direction: Direction, program_fd: int, before_id: int) -> int:
    """Attaches right behind the program of this id, which is on the hook; the answer is the link's fd.

    libbpf can say "behind whom" from 1.3 on only, so it is not asked. ENOENT: that program is not there (any more).
    """
    attributes = _LINK_CREATE_ATTRIBUTES.pack(
        program_fd, ifindex, _ATTACH_TYPES[direction], _AFTER | _BY_ID, before_id, 0
    )
    address = ctypes.addressof(buffer := ctypes.create_string_buffer(attributes, len(attributes)))
    number = _BPF.get(platform.machine(), _BPF["aarch64"])
    fd: int = libc().syscall(number, _LINK_CREATE, address, len(buffer))
    if fd < 0:
        about = f"bpf(BPF_LINK_CREATE) of TCX {direction.name.lower()} of ifindex {ifindex}"
        raise KernelError(about, ctypes.get_errno())
    return fd


def link_update(link_fd: int, program_fd: int) -> None:
    """Puts another program into the link, in its place and atomically. ENOLINK when the interface is gone."""
    call("bpf_link_update", link_fd, program_fd, None)


def link_detach(link_fd: int) -> None:
    """Detaches now, whatever else holds the link; nothing where it is detached already."""
    call("bpf_link_detach", link_fd)


def link_of(fd: int) -> Link:
    """What the kernel says of the link behind `fd`."""
    answer = LinkInfo()
    call("bpf_obj_get_info_by_fd", fd, byref(answer), byref(c_uint32(ctypes.sizeof(answer))))
    tcx = answer.type == LINK_TYPE
    direction = _DIRECTIONS.get(answer.attach_type) if tcx else None
    return Link(answer.id, answer.type, answer.program, answer.ifindex if tcx else 0, direction)


def query_tcx(ifindex: int, direction: Direction) -> tuple[int, ...]:
    """The ids of the programs on the hook, in the order in which they run. ENODEV without such an interface."""
    ids, count = (c_uint32 * _PROGRAMS)(), c_uint32(_PROGRAMS)
    about = f"TCX {direction.name.lower()} of ifindex {ifindex}"
    call("bpf_prog_query", ifindex, _ATTACH_TYPES[direction], 0, None, ids, byref(count), about=about)
    return tuple(ids[: count.value])


def has_tcx() -> bool:
    """Whether this kernel has TCX: found out by asking for the programs on loopback."""
    count = c_uint32(0)
    answer = call(
        "bpf_prog_query",
        *(_LOOPBACK, _ATTACH_TYPES[Direction.INGRESS], 0, None, None, byref(count)),
        allow=(errno.EINVAL,),
    )
    return answer == 0
