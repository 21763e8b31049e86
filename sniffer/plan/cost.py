"""What a linked program (plan/rules.py) is made of, and what it can cost a frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sniffer.abi.limits import CODE_RULE, Action
from sniffer.abi.records import Instruction, Program

# Classes and modes of classic BPF instructions, <linux/bpf_common.h>.
_CLASS, _LD, _LDX, _ALU, _JMP, _RET = 0x07, 0x00, 0x01, 0x04, 0x05, 0x06
_MODE, _ABS, _IND, _MSH = 0xE0, 0x20, 0x40, 0xA0
_OPERATION, _DIV, _MOD, _JA = 0xF0, 0x30, 0x90, 0x00
_RETURN_A = 0x10
_NEVER = -1_000_000


@dataclass(frozen=True, slots=True)
class Part:
    """One rule: what its match means, and the program that libpcap made of its filter."""

    action: Action
    program: Program


def parts(program: Program) -> tuple[Part, ...]:
    """Takes a linked program apart; () for one that takes every frame."""
    starts = [index for index, instruction in enumerate(program) if instruction.code == CODE_RULE]
    return tuple(
        Part(Action(program[start].jt), program[start + 1 : end]) for start, end in pairwise([*starts, len(program)])
    )


def instruction_count(rules: Sequence[Part]) -> int:
    """libpcap's instructions, without those that link the rules."""
    return sum(len(rule.program) for rule in rules)


def longest_path(rules: Sequence[Part]) -> int | None:
    """The most of libpcap's instructions that one frame can take; None where a rule loops (`protochain`)."""
    longest = before = 0
    for rule in rules:
        found = _longest(rule.program)
        if found is None:
            return None
        fails, matches = found
        longest = max(longest, before + max(fails, matches))
        before += fails
    return longest


def _longest(program: Program) -> tuple[int, int] | None:
    """Of one filter: the longest ways to `no match` and to `match`. Jumps go forward, so it is solved from the end."""
    ways: list[tuple[int, int]] = [(_NEVER, _NEVER)] * len(program)
    for index in range(len(program) - 1, -1, -1):
        instruction = program[index]
        kind = instruction.code & _CLASS
        if kind == _RET:
            either = bool(instruction.code & _RETURN_A)
            ways[index] = (
                1 if either or not instruction.k else _NEVER,
                1 if either or instruction.k else _NEVER,
            )
            continue
        following = [index + 1 + offset for offset in _offsets(instruction)]
        if max(following) >= len(program):  # a jump backwards is one far ahead, modulo 2^32
            return None
        fails, matches = (1 + max(ways[place][way] for place in following) for way in (0, 1))
        ways[index] = (max(fails, 1) if _may_fail(instruction) else fails, matches)
    return ways[0]


def _offsets(instruction: Instruction) -> tuple[int, ...]:
    if instruction.code & _CLASS != _JMP:
        return (0,)
    if instruction.code & _OPERATION == _JA:
        return (instruction.k,)
    return instruction.jt, instruction.jf


def _may_fail(instruction: Instruction) -> bool:
    """A load may lie beyond the frame's end, a divisor may be 0: no match."""
    kind, mode = instruction.code & _CLASS, instruction.code & _MODE
    if kind == _ALU:
        return instruction.code & _OPERATION in (_DIV, _MOD)
    return (kind == _LD and mode in (_ABS, _IND)) or (kind == _LDX and mode == _MSH)
