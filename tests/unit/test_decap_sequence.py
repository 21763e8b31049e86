"""What is lost, late, doubled, or a new start."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer.decap.sequence import JUMP, RESTART_LENGTH_NEAR, SPACE, WINDOW, Sequence


def after(numbers: Iterable[int]) -> Sequence:
    sequence = Sequence()
    for number in numbers:
        sequence.add(number % SPACE)
    return sequence


def counts(sequence: Sequence) -> tuple[int, int, int, int]:
    return sequence.lost, sequence.late, sequence.duplicates, sequence.restarts


@pytest.mark.parametrize("start", [0, 1, 1000, SPACE - 5000, SPACE - 1])
@given(data=st.data())
def test_what_is_missing_is_lost_and_what_is_late_is_not(start: int, data: st.DataObject) -> None:
    """Any subset of a stream, moved about by less than the window."""
    length = data.draw(st.integers(1, 3000))
    mixed = random.Random(data.draw(st.integers(0, 2**32)))
    rate, moved = mixed.choice((0.0, 0.01, 0.5)), mixed.choice((0, 3, 1000))
    kept = [number for number in range(length) if mixed.random() >= rate] or [0]
    order = sorted(kept, key=lambda number: number + mixed.random() * moved)
    sequence = after(start + number for number in order)
    # What comes before the first that arrived is not known to be missing, unless it comes late.
    expected = max(order) - order[0] + 1 - sum(number >= order[0] for number in order)
    before = sum(number < order[0] for number in order)
    assert sequence.received == len(order)
    assert sequence.restarts == 0
    assert abs(sequence.lost - expected) <= before


@pytest.mark.parametrize("gap", [1, 2, WINDOW - 1, WINDOW, WINDOW + 1, 100_000, JUMP - 1])
@pytest.mark.parametrize("start", [0, SPACE - 10])
def test_gaps(gap: int, start: int) -> None:
    sequence = after([*range(start, start + 20), *range(start + 20 + gap, start + 20 + gap + 10)])
    assert counts(sequence) == (gap, 0, 0, 0)
    sequence.add((start + 20 + gap - 1) % SPACE)
    assert counts(sequence) == (gap - 1, 1, 0, 0)


def test_old_gaps_are_forgotten_and_counted() -> None:
    sequence = after(range(0, 20 * WINDOW, 2))
    assert counts(sequence) == (10 * WINDOW - 1, 0, 0, 0)
    assert len(sequence._missing) <= WINDOW
    sequence.add(1)
    assert sequence.lost == 10 * WINDOW - 1, "too late to be missed"
    assert counts(after([0, *range(2, WINDOW + 1), 1])) == (0, 1, 0, 0)
    assert counts(after([0, *range(2, WINDOW + 3), 1]))[:2] == (1, 0)


@pytest.mark.parametrize("before", [5000, 10 * JUMP, SPACE - 2 * JUMP])
@pytest.mark.parametrize("again", [0, 1, 2_000_000_000])
def test_a_new_start_is_no_loss(before: int, again: int) -> None:
    sequence = after([*range(before, before + 100), *range(again, again + 200)])
    assert counts(sequence) == (0, 0, 0, 1)
    # With losses among the first of the new numbers.
    sequence = after([*range(before, before + 100), again, again + 3, again + 4, *range(again + 6, again + 50)])
    assert counts(sequence) == (3, 0, 0, 1)


def test_a_new_start_soon_after_the_first() -> None:
    sequence = after([*range(1000), *range(500)])
    assert counts(sequence) == (0, 0, 0, 1)
    short = RESTART_LENGTH_NEAR - 2
    assert counts(after([*range(short), *range(100)])) == (0, 0, short, 0), "no false loss either"


def test_doubled_packets() -> None:
    assert counts(after(number // 2 for number in range(1000))) == (0, 0, 500, 0)
    bursts = [number for start in range(0, 1000, 10) for number in (*range(start, start + 10),) * 2]
    assert counts(after(bursts)) == (0, 0, 1000, 0)


def test_a_stray_number_makes_no_loss() -> None:
    """A forged packet, or one of hours ago."""
    assert counts(after([5, 6, 7, 3_000_000_000, 8, 9, 3_000_000_001, 10])) == (0, 0, 0, 0)
