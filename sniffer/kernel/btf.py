"""The kernel's own types, of /sys/kernel/btf/vmlinux: where fields lie, what the numbers of an enum are called.

BTF as the kernel's Documentation/bpf/btf.rst has it, in the machine's byte order.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from sniffer.errors import MachineError

KERNEL = Path("/sys/kernel/btf/vmlinux")
_MAGIC = 0xEB9F
_HEADER = struct.Struct(
    "=HBBIIIII"
)  # magic, version, flags, its length, types: offset, length, strings: offset, length
_TYPE = struct.Struct("=III")  # name, number of members, kind and more, size or type
_MEMBER = struct.Struct("=III")  # name, type, offset in bits and perhaps the width of a bit field
_VALUE = struct.Struct("=Ii")  # name, value
_STRUCT, _UNION, _ENUM = 4, 5, 6
# Bytes that follow a type of this kind: of its own, and of each of its members.
_FOLLOWING = {
    1: (4, 0),
    3: (12, 0),
    _STRUCT: (0, 12),
    _UNION: (0, 12),
    _ENUM: (0, 8),
    13: (0, 8),
    14: (4, 0),
    15: (0, 12),
    17: (4, 0),
    19: (0, 12),
}


class Btf:
    """All types, read once: half a second."""

    def __init__(self, path: Path = KERNEL) -> None:
        """MachineError where the kernel has no BTF, or one that nobody can read."""
        try:
            self._octets = path.read_bytes()
            magic, _, _, length, types, types_length, strings, _ = _HEADER.unpack_from(self._octets)
        except (OSError, struct.error) as error:
            raise MachineError(f"no types of the kernel: {error}", "use a kernel with CONFIG_DEBUG_INFO_BTF") from None
        if magic != _MAGIC:
            raise MachineError(f"{path} is no BTF of this machine", "use a kernel with CONFIG_DEBUG_INFO_BTF")
        self._strings = length + strings
        self._types = [(0, 0, 0, 0), *self._walk(length + types, length + types + types_length)]
        """(kind, name's place, number of members, place of the first) of each type, by its id."""

    def _walk(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        while at < end:
            name, more, _ = _TYPE.unpack_from(self._octets, at)
            kind, number = more >> 24 & 0x1F, more & 0xFFFF
            own, each = _FOLLOWING.get(kind, (0, 0))
            yield kind, name, number, at + _TYPE.size
            at += _TYPE.size + own + each * number

    def _text(self, place: int) -> str:
        begin = self._strings + place
        return self._octets[begin : self._octets.index(b"\0", begin)].decode(errors="replace")

    def _named(self, kind: int, name: str) -> tuple[int, int, int, int]:
        for one in self._types:
            if one[0] == kind and self._text(one[1]) == name:
                return one
        raise MachineError(f"this kernel has no type {name}", "use a kernel that has it")

    def offset(self, structure: str, field: str) -> int:
        """Bytes from a struct's begin to a field of it, those of nameless structs and unions inside too."""
        found = self._offset(self._named(_STRUCT, structure), field)
        if found is None:
            raise MachineError(f"struct {structure} of this kernel has no {field}", "use a kernel that has it")
        return found

    def _offset(self, structure: tuple[int, int, int, int], field: str) -> int | None:
        _, _, number, at = structure
        for place in range(at, at + number * _MEMBER.size, _MEMBER.size):
            name, inner, bits = _MEMBER.unpack_from(self._octets, place)
            begin = (bits & 0xFFFFFF) // 8
            if name and self._text(name) == field:
                return begin
            if not name and self._types[inner][0] in (_STRUCT, _UNION):
                below = self._offset(self._types[inner], field)
                if below is not None:
                    return begin + below
        return None

    def enum(self, name: str) -> Mapping[int, str]:
        """An enum's names by number."""
        _, _, number, at = self._named(_ENUM, name)
        values = (_VALUE.unpack_from(self._octets, at + n * _VALUE.size) for n in range(number))
        return {value: self._text(place) for place, value in values}
