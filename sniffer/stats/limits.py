"""What a mirror and its targets are limited to, as status shows it."""

from typing import Any

from sniffer.abi.limits import Sampling
from sniffer.abi.records import BudgetRecord, MirrorRecord, TunnelRecord
from sniffer.plan.state import State

Row = dict[str, Any]


def of_mirror(state: State, record: MirrorRecord | None) -> Row:
    """Its part of a mirror's row; record: None where it is on no hook."""
    if record is None:
        return {"snap_length": None, "sampling": None, "rate_limit": None}
    per = Sampling(record.sampling).name.capitalize() if record.sampling in tuple(Sampling) else None
    return {
        "snap_length": record.snap_length or None,
        "sampling": {"one_in": record.one_in, "per": per} if record.one_in else None,
        "rate_limit": rate_limit(state.budgets.get(record.budget)),
    }


def of_target(state: State, record: TunnelRecord) -> Row:
    """Its part of a target's row: only what is limited."""
    found = {"snap_length": record.snap_length, "rate_limit": rate_limit(state.budgets.get(record.budget))}
    return {name: value for name, value in found.items() if value}


def rate_limit(record: BudgetRecord | None) -> Row | None:
    """A rate that is not limited is null, with its burst."""
    if record is None:
        return None
    return {
        "packets_per_second": record.packets_per_second or None,
        "burst_packets": record.burst_packets or None,
        "kilobits_per_second": record.kilobits_per_second or None,
        "burst_kilobits": record.burst_bits / 1000 or None,
    }


def words(row: Row) -> str:
    """For people; empty where nothing is limited. row: of a mirror, or of one of its targets."""
    found = []
    if row.get("snap_length"):
        found.append(f"{row['snap_length']} bytes of a frame")
    if row.get("sampling"):
        found.append(f"one in {row['sampling']['one_in']} {row['sampling']['per'].lower()}s")
    limit = row.get("rate_limit") or {}
    if limit.get("packets_per_second"):
        found.append(f"{limit['packets_per_second']} packets/s")
    if limit.get("kilobits_per_second"):
        found.append(f"{limit['kilobits_per_second']} kbit/s")
    return ", ".join(found)
