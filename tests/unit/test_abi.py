"""Records are read back as they were written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer.abi import records
from sniffer.abi.limits import (
    ENDPOINTS_LENGTH,
    LIST_LENGTH,
    NAME_LENGTH,
    PROGRAM_LENGTH,
    TARGETS_LENGTH,
    TEMPLATE_LENGTH,
    Direction,
    Guard,
    NameKind,
)
from sniffer.abi.records import BudgetRecord, EgressRecord, Hook, Instruction, MirrorRecord, NameKey, TunnelRecord

U32 = st.integers(0, (1 << 32) - 1)
ID = st.integers(1, (1 << 32) - 1)
U8 = st.integers(0, 255)
INSTRUCTION = st.builds(Instruction, st.integers(0, 0xFFFF), U8, U8, U32)
LAST = Instruction(6, 0, 0, 0)


def rows(item: st.SearchStrategy[int], longest: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(item, max_size=longest).map(tuple)


@given(st.builds(MirrorRecord, U32, U32, U32, rows(U32, TARGETS_LENGTH), U32, U32, U32))
def test_mirror(record: MirrorRecord) -> None:
    assert MirrorRecord.unpack(record.pack()) == record


@given(st.builds(TunnelRecord, U32, U8, U8, U32, rows(U32, ENDPOINTS_LENGTH), U32))
def test_tunnel(record: TunnelRecord) -> None:
    assert TunnelRecord.unpack(record.pack()) == record


@given(
    st.builds(EgressRecord, U32, U32, st.binary(min_size=16, max_size=16), U32, U8, st.binary(max_size=TEMPLATE_LENGTH))
)
def test_egress(record: EgressRecord) -> None:
    assert EgressRecord.unpack(record.pack()) == record


RATE, BURST_S = st.integers(0, 10**8), st.integers(0, 3600)


@given(ID, RATE, BURST_S, RATE, BURST_S)
def test_budget(owner: int, packets: int, packets_s: int, kilobits: int, bits_s: int) -> None:
    record = BudgetRecord(owner, packets, packets * packets_s, kilobits, kilobits * 1000 * bits_s)
    assert BudgetRecord.unpack(record.pack()) == record


@given(rows(ID, LIST_LENGTH))
def test_list(mirrors: tuple[int, ...]) -> None:
    assert records.unpack_list(records.pack_list(mirrors)) == mirrors


def test_a_list_ends_at_its_first_zero() -> None:
    assert records.unpack_list(bytes(8) + records.pack_list((1, 2, 3))[8:]) == ()


@given(st.lists(INSTRUCTION, max_size=20).map(tuple))
def test_program(program: records.Program) -> None:
    assert records.unpack_program(records.pack_program((*program, LAST))) == (*program, LAST)


def test_the_longest_program() -> None:
    program = (LAST,) * PROGRAM_LENGTH
    assert len(records.pack_program(program)) == records.FILTER_SIZE
    assert records.unpack_program(records.pack_program(program)) == program


@given(st.integers(1, (1 << 32) - 1), st.sampled_from(Direction), st.integers(1, (1 << 28) - 1), st.sampled_from(Guard))
def test_hook(ifindex: int, direction: Direction, number: int, guard: Guard) -> None:
    hook = Hook(ifindex, direction)
    assert Hook.of_word(hook.word(number, guard)) == (hook, number, guard)


@given(st.sampled_from(NameKind), U32)
def test_name_key(kind: NameKind, number: int) -> None:
    assert NameKey.unpack(NameKey(kind, number).pack()) == NameKey(kind, number)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=NAME_LENGTH // 4))
def test_name(text: str) -> None:
    assert records.unpack_name(records.pack_name(text)) == text


@pytest.mark.parametrize("record", [MirrorRecord(0, 0, 0, (1,) * 5), TunnelRecord(0, 0, 0, 0, (1,) * 9)])
def test_what_does_not_fit_is_refused(record: MirrorRecord | TunnelRecord) -> None:
    with pytest.raises(records.struct.error):
        record.pack()
