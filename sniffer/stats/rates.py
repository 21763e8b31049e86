"""Two looks at the counters of a mirror -> what passes in a second."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sniffer.stats.rows import Row

Key = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one mirror, or of many together. `dropped` and `lost` by reason, those that are not 0."""

    matched_per_s: float = 0.0
    sent_per_s: float = 0.0
    wire_bits_per_s: float = 0.0
    dropped_per_s: Mapping[str, float] = field(default_factory=dict)
    lost_per_s: Mapping[str, float] = field(default_factory=dict)


def key_of(row: Row) -> Key:
    """Which mirror a row is about."""
    return row["kind"], row["namespace"], row["name"]


def rates(before: Sequence[Row], after: Sequence[Row], seconds: float) -> dict[Key, Rates]:
    """By mirror, of those that are in both. seconds: between the two looks, more than 0.

    A counter that fell began anew meanwhile: what it shows now is what came since.
    """
    former = {key_of(row): row for row in before}
    return {key_of(row): _rates(former[key_of(row)], row, seconds) for row in after if key_of(row) in former}


def total(many: Mapping[Key, Rates]) -> Rates:
    """Of all together."""
    found = list(many.values())
    return Rates(
        matched_per_s=sum(one.matched_per_s for one in found),
        sent_per_s=sum(one.sent_per_s for one in found),
        wire_bits_per_s=sum(one.wire_bits_per_s for one in found),
        dropped_per_s=_summed([one.dropped_per_s for one in found]),
        lost_per_s=_summed([one.lost_per_s for one in found]),
    )


def _summed(many: Sequence[Mapping[str, float]]) -> dict[str, float]:
    reasons = dict.fromkeys(reason for one in many for reason in one)
    return {reason: sum(one.get(reason, 0.0) for one in many) for reason in reasons}


def _rates(before: Row, after: Row, seconds: float) -> Rates:
    anew = after["matched"]["packets"] < before["matched"]["packets"]

    def rate(name: str, unit: str) -> float:
        return _risen(0 if anew else before[name][unit], after[name][unit]) / seconds

    def by_reason(name: str) -> dict[str, float]:
        risen = {reason: _risen(0 if anew else before[name].get(reason, 0), now) for reason, now in after[name].items()}
        return {reason: count / seconds for reason, count in risen.items() if count}

    return Rates(
        matched_per_s=rate("matched", "packets"),
        sent_per_s=rate("sent", "packets"),
        wire_bits_per_s=8 * rate("wire", "bytes"),
        dropped_per_s=by_reason("dropped"),
        lost_per_s=by_reason("lost"),
    )


def _risen(before: int, now: int) -> int:
    """What is on its way through the relay counts as lost for a moment: that falls by a few, and nothing began anew."""
    return max(now - before, 0)
