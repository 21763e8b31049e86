"""What a doctor found: lines for people and scripts."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Result(StrEnum):
    """What a check found: fine; works, but; cannot mirror."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's; `fix` is "" where nothing is to be done."""

    check: str
    result: Result
    text: str
    fix: str = ""


Findings = Iterator[Finding]
