"""The records of bpf/sniffer.h as values: each packs into, and unpacks from, the bytes that lie in its map.

Integers are in host byte order; addresses and templates are bytes in network order. What there are thousands of is a
NamedTuple: it is hashed and compared in C.
"""

import struct
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

from sniffer.abi.limits import (
    BUDGET_BYTE_FRACTION,
    BUDGET_UNITS_PER_NS,
    ENDPOINTS_LENGTH,
    HOOK_GUARD_SHIFT,
    HOOK_LIST_MASK,
    HOOK_STAMPS,
    HOOKS_MAX,
    HOOKS_PROBES,
    HOOKS_ROW,
    HOOKS_STRIDE,
    LIST_LENGTH,
    NAME_LENGTH,
    PROGRAM_LENGTH,
    TARGETS_LENGTH,
    TEMPLATE_LENGTH,
    Direction,
    Encapsulation,
    Guard,
    NameKind,
    Outcome,
    OuterKind,
)

_INSTRUCTION = struct.Struct("=HBBI")
_LIST = struct.Struct(f"={LIST_LENGTH}I")
_MIRROR = struct.Struct(f"=IIII{TARGETS_LENGTH}IIIII")
_TUNNEL = struct.Struct(f"=IBBHII{ENDPOINTS_LENGTH}I")
_BUDGET = struct.Struct("=9Q")
_BUCKET = struct.Struct("=I4xQQ")
_EGRESS = struct.Struct(f"=II16sIIIBBBB{TEMPLATE_LENGTH}s")
_NAME_KEY = struct.Struct("=II")
_OUTER = struct.Struct("=16sIHBB")
_TALLY = struct.Struct("=QQ")

READ_AGAIN = 4096
"""Records to remember by their bytes: the loop reads the same ones again and again."""

WORD_SIZE = 8
FILTER_SIZE = PROGRAM_LENGTH * _INSTRUCTION.size
LIST_SIZE = _LIST.size
MIRROR_SIZE = _MIRROR.size
TUNNEL_SIZE = _TUNNEL.size
EGRESS_SIZE = _EGRESS.size
BUDGET_SIZE = _BUDGET.size
BUCKET_SIZE = _BUCKET.size
COUNTERS_SIZE = len(Outcome) * _TALLY.size


class Instruction(NamedTuple):
    """One classic BPF instruction (struct sock_filter of <linux/filter.h>, or CODE_RULE)."""

    code: int
    jt: int
    jf: int
    k: int


Program = tuple[Instruction, ...]


def pack_program(program: Program) -> bytes:
    """FILTER_SIZE bytes; at most PROGRAM_LENGTH instructions."""
    return b"".join(_INSTRUCTION.pack(i.code, i.jt, i.jf, i.k) for i in program).ljust(FILTER_SIZE, b"\0")


def unpack_program(blob: bytes) -> Program:
    """The instructions up to the last one that is not all zero (`ld #0` never ends a program)."""
    used = len(blob.rstrip(b"\0"))
    length = -(-used // _INSTRUCTION.size)
    return _program(blob[: length * _INSTRUCTION.size])


@lru_cache(maxsize=READ_AGAIN)
def _program(blob: bytes) -> Program:
    return tuple(Instruction(*fields) for fields in _INSTRUCTION.iter_unpack(blob))


class Hook(NamedTuple):
    """Where a tap sits."""

    ifindex: int
    direction: Direction

    def places(self) -> tuple[int, ...]:
        """Where its word may lie in `hooks`, in the order in which the programs look."""
        first = 2 * self.ifindex + self.direction
        further = (HOOKS_STRIDE * n for n in range(1, HOOKS_PROBES - HOOKS_ROW + 1))
        return tuple((first + n) % HOOKS_MAX for n in (*range(HOOKS_ROW), *further))

    def word(self, list_id: int, guard: Guard = Guard.NONE, stamps: bool = False) -> int:
        """Its word in `hooks`: ifindex << 32 | direction << 31 | guard << HOOK_GUARD_SHIFT | HOOK_STAMPS | list id."""
        flags = guard << HOOK_GUARD_SHIFT | (HOOK_STAMPS if stamps else 0)
        return self.ifindex << 32 | self.direction << 31 | flags | list_id

    @classmethod
    @lru_cache(maxsize=READ_AGAIN)
    def of_word(cls, word: int) -> tuple["Hook", int, Guard]:
        """Hook, list id, guard; a guard that nobody knows is none."""
        number = word >> HOOK_GUARD_SHIFT & 3
        guard = Guard(number) if number in tuple(Guard) else Guard.NONE
        return cls(word >> 32, Direction(word >> 31 & 1)), word & HOOK_LIST_MASK, guard


def pack_list(mirrors: tuple[int, ...]) -> bytes:
    """At most LIST_LENGTH mirror ids, none of them 0."""
    return _LIST.pack(*mirrors, *([0] * (LIST_LENGTH - len(mirrors))))


def unpack_list(blob: bytes) -> tuple[int, ...]:
    """The mirror ids as the tap walks them, up to the first 0: a list may be half cleared, by an agent that died."""
    return tuple(takewhile(bool, _LIST.unpack(blob)))


@dataclass(frozen=True, slots=True)
class MirrorRecord:
    """Value of `mirrors`."""

    filter: int
    snap_length: int
    counter: int
    tunnels: tuple[int, ...]
    one_in: int = 0
    """0: every frame."""
    sampling: int = 0
    budget: int = 0
    from_pod: bool = False
    """What leaves the hook is what the pod behind it receives."""

    def pack(self) -> bytes:
        tunnels = (*self.tunnels, *([0] * (TARGETS_LENGTH - len(self.tunnels))))
        limits = self.one_in, self.sampling, self.budget, self.from_pod
        return _MIRROR.pack(self.filter, self.snap_length, self.counter, len(self.tunnels), *tunnels, *limits)

    @classmethod
    def unpack(cls, blob: bytes) -> "MirrorRecord":
        filter_id, snap_length, counter, count, *rest = _MIRROR.unpack(blob)
        one_in, sampling, budget, from_pod = rest[TARGETS_LENGTH:]
        return cls(filter_id, snap_length, counter, tuple(rest[:count]), one_in, sampling, budget, bool(from_pod))


@dataclass(frozen=True, slots=True)
class BudgetRecord:
    """Value of `budgets`: a rate limit of somebody. A rate of 0 is no limit, and has no burst."""

    owner: int
    """Whose it is; never 0."""
    packets_per_second: int
    burst_packets: int
    kilobits_per_second: int
    burst_bits: int

    def pack(self) -> bytes:
        said = self.packets_per_second, self.burst_packets, self.kilobits_per_second, self.burst_bits
        return _BUDGET.pack(self.owner, *self._packet_costs(), *self._byte_costs(), *said)

    def _packet_costs(self) -> tuple[int, int]:
        """Of a packet, and of the burst. Rounded so that never more passes than was said."""
        if not self.packets_per_second:
            return 0, 0
        cost = -(-BUDGET_UNITS_PER_NS * 10**9 // self.packets_per_second)
        return cost, self.burst_packets * cost

    def _byte_costs(self) -> tuple[int, int]:
        if not self.kilobits_per_second:
            return 0, 0
        second, rate = BUDGET_UNITS_PER_NS * 10**9, 1000 * self.kilobits_per_second
        return -(-8 * second * BUDGET_BYTE_FRACTION // rate), self.burst_bits * second // rate

    @classmethod
    def unpack(cls, blob: bytes) -> "BudgetRecord":
        owner, _, _, _, _, *said = _BUDGET.unpack(blob)
        return cls(owner, *said)


@dataclass(frozen=True, slots=True)
class TunnelRecord:
    """Value of `tunnels`; cleared when it has no endpoints and no encapsulation."""

    generation: int
    encapsulation: int
    oversize: int
    snap_length: int
    endpoints: tuple[int, ...]
    budget: int = 0

    def pack(self) -> bytes:
        padding = [0] * (ENDPOINTS_LENGTH - len(self.endpoints))
        return _TUNNEL.pack(
            self.generation,
            self.encapsulation,
            self.oversize,
            len(self.endpoints),
            self.snap_length,
            self.budget,
            *self.endpoints,
            *padding,
        )

    @classmethod
    def unpack(cls, blob: bytes) -> "TunnelRecord":
        generation, encapsulation, oversize, count, snap_length, budget, *endpoints = _TUNNEL.unpack(blob)
        return cls(generation, encapsulation, oversize, snap_length, tuple(endpoints[:count]), budget)


@dataclass(frozen=True, slots=True)
class EgressRecord:
    """Value of `egress`: device, nexthop and outer header of the copies for one endpoint."""

    ifindex: int
    mtu: int
    nexthop: bytes
    checksum: int
    family: int
    template: bytes
    encapsulation: int = Encapsulation.VXLAN
    flags: int = 0
    pseudo: int = 0
    sequence: int = field(default=0, compare=False)
    """Which stream of sequence numbers it goes on with: no part of what it is."""

    def pack(self) -> bytes:
        numbers = (self.checksum, self.pseudo, self.sequence)
        kinds = (self.family, len(self.template), self.encapsulation, self.flags)
        return _EGRESS.pack(self.ifindex, self.mtu, self.nexthop, *numbers, *kinds, self.template)

    @classmethod
    def unpack(cls, blob: bytes) -> "EgressRecord":
        ifindex, mtu, nexthop, checksum, pseudo, sequence, family, length, kind, flags, template = _EGRESS.unpack(blob)
        return cls(ifindex, mtu, nexthop, checksum, family, template[:length], kind, flags, pseudo, sequence)


class NameKey(NamedTuple):
    """Key of `names`."""

    kind: NameKind
    id: int

    def pack(self) -> bytes:
        return _NAME_KEY.pack(self.kind, self.id)

    @classmethod
    @lru_cache(maxsize=READ_AGAIN)
    def unpack(cls, blob: bytes) -> "NameKey":
        kind, number = _NAME_KEY.unpack(blob)
        return cls(NameKind(kind), number)


@dataclass(frozen=True, slots=True, order=True)
class OuterKey:
    """Key of `outers`: part of what a copy of another node looks like."""

    kind: OuterKind
    address: bytes
    """16 bytes in network order, IPv4 as ::ffff:a.b.c.d: of a node; else of an analyzer."""
    protocol: int = 0
    port: int = 0
    key: int = 0

    def pack(self) -> bytes:
        return _OUTER.pack(self.address, self.key, self.port, self.protocol, self.kind)

    @classmethod
    def unpack(cls, blob: bytes) -> "OuterKey":
        address, key, port, protocol, kind = _OUTER.unpack(blob)
        return cls(OuterKind(kind), address, protocol, port, key)


def pack_name(text: str) -> bytes:
    """NAME_LENGTH bytes of UTF-8; the caller keeps the text short enough."""
    return text.encode().ljust(NAME_LENGTH, b"\0")


@lru_cache(maxsize=READ_AGAIN)
def unpack_name(blob: bytes) -> str:
    """The text; what is not UTF-8 is replaced."""
    return blob.rstrip(b"\0").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Tally:
    """One outcome, summed over the CPUs."""

    packets: int
    bytes: int


def unpack_counters(blob: bytes) -> tuple[Tally, ...]:
    """Sums per-CPU values of `counters` (each COUNTERS_SIZE bytes) into one tally per Outcome."""
    rows = [struct.unpack_from(f"={2 * len(Outcome)}Q", blob, at) for at in range(0, len(blob), COUNTERS_SIZE)]
    sums = [sum(column) & (1 << 64) - 1 for column in zip(*rows, strict=True)]
    return tuple(Tally(sums[2 * o], sums[2 * o + 1]) for o in range(len(Outcome)))
