"""Rate limits to budgets: default bursts, costs that never let more pass, and who has which."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer.abi.limits import BUDGET_BYTE_FRACTION, BUDGET_UNITS_PER_NS
from sniffer.abi.records import BudgetRecord
from sniffer.model.identity import Identity
from sniffer.model.limit import RATE_MAX, RateLimit
from sniffer.plan.budget import budget

ME, OTHER = Identity("TrafficMirror", "shop", "web"), Identity("TrafficMirror", "shop", "api")


def said(snap_length: int = 0, **fields: int) -> tuple[int, int, int, int]:
    record = budget(RateLimit(**fields), ME, snap_length)
    assert record
    return record.packets_per_second, record.burst_packets, record.kilobits_per_second, record.burst_bits


@pytest.mark.parametrize(
    ("fields", "snap_length", "wanted"),
    [
        ({"packets_per_second": 10}, 0, (10, 1, 0, 0)),
        ({"packets_per_second": 50_000}, 0, (50_000, 1000, 0, 0)),
        ({"packets_per_second": 50_000, "burst_packets": 7}, 0, (50_000, 7, 0, 0)),
        ({"kilobits_per_second": 1}, 0, (0, 0, 1, 524_280)),
        ({"kilobits_per_second": 1}, 96, (0, 0, 1, 768)),
        ({"kilobits_per_second": 1_000_000}, 0, (0, 0, 1_000_000, 20_000_000)),
        ({"kilobits_per_second": 500, "burst_kilobits": 3}, 0, (0, 0, 500, 3000)),
        ({"packets_per_second": 99, "kilobits_per_second": 50_000}, 0, (99, 1, 50_000, 1_000_000)),
    ],
)
def test_default_bursts(fields: dict[str, int], snap_length: int, wanted: tuple[int, int, int, int]) -> None:
    """A fiftieth of the rate, at least one packet or one longest frame."""
    assert said(snap_length, **fields) == wanted


def test_budgets_are_their_owners() -> None:
    limit = RateLimit(packets_per_second=10)
    assert budget(None, ME, 0) is None
    assert budget(limit, ME, 0) == budget(limit, ME, 0)
    assert budget(limit, ME, 0) != budget(limit, OTHER, 0)


@given(st.integers(1, RATE_MAX), st.integers(14, 65535))
def test_costs_are_never_too_small(rate: int, length: int) -> None:
    """Within 0.98 of what was said; of the bits, up to 20 Gb/s of shortest frames."""
    packed = BudgetRecord(1, rate, 1, rate, 1).pack()
    packet, _, byte, _ = (int.from_bytes(packed[8 * n : 8 * n + 8], "little") for n in range(1, 5))
    second = BUDGET_UNITS_PER_NS * 10**9
    assert rate * packet >= second
    assert rate * packet <= second / 0.98
    frame = -(-byte * length // BUDGET_BYTE_FRACTION)
    exact = 8 * length * second / (1000 * rate)
    assert frame >= exact * 0.999999
    assert frame <= exact / 0.98 or exact < 50
