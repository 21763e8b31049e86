"""Conditions: what they say, and how they are written. A time changes only with a status."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sniffer.model.problem import printable

MESSAGE_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class Said:
    """What a condition says."""

    type: str
    holds: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something about an object that its users should hear of."""

    reason: str
    message: str
    warning: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an object's status should be, and what is news in it."""

    status: Mapping[str, Any]
    notes: tuple[Note, ...] = ()


def conditions(
    said: Iterable[Said], generation: int, stored: Mapping[str, Any], now: datetime
) -> list[dict[str, object]]:
    """As JSON, in the order given. `stored` is the object's status so far: times hold on while a status does."""
    written: list[dict[str, object]] = []
    for one in said:
        status = "True" if one.holds else "False"
        former = condition(stored, one.type)
        since = former.get("lastTransitionTime") if former.get("status") == status else None
        written.append(
            {
                "type": one.type,
                "status": status,
                "observedGeneration": generation,
                "lastTransitionTime": since or instant(now),
                "reason": one.reason,
                "message": printable(one.message, MESSAGE_LENGTH),
            }
        )
    return written


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The stored condition of a type; empty where there is none."""
    listed = status.get("conditions")
    found = (item for item in listed if isinstance(item, Mapping)) if isinstance(listed, list) else iter(())
    return next((item for item in found if item.get("type") == kind), {})


def acceptance(accepted: Said, status: Mapping[str, Any]) -> tuple[Note, ...]:
    """The news in a condition Accepted, over what the status says so far; () when it is none."""
    former = condition(status, accepted.type)
    was_accepted = former.get("status") == "True"
    if (was_accepted and accepted.holds) or former.get("reason") == accepted.reason:
        return ()
    removed = was_accepted and accepted.reason == "TargetNotAllowed"
    return (Note("TargetGrantRemoved" if removed else accepted.reason, accepted.message, not accepted.holds),)


def instant(at: datetime) -> str:
    """RFC 3339 in UTC, to the second, as the API server takes it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def named(names: Iterable[str], count: int, most: int) -> str:
    """Names, and how many more than the most there are."""
    more = f" and {count - most} more" if count > most else ""
    return ", ".join(names) + more
