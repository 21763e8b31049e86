"""How long to wait before the API server is asked again.

Two promises pull apart: it must never be stormed, and a view must have converged within five seconds of its return.
Where nobody answers an attempt costs the server nothing: every two seconds. Where it answers with errors the wait
doubles up to thirty seconds, and `Reflector` asks /readyz meanwhile, which costs next to nothing.
"""

import random
from dataclasses import dataclass
from enum import Enum, auto

from sniffer.errors import ApiError

QUICK_S = (0.1, 0.5)
BASE_S = 0.8
CHEAP_S = 2.0
LIMIT_S = 30.0
RETRY_AFTER_LIMIT_S = 60.0


class Fault(Enum):
    """Why a reflector has to begin again."""

    CLOSED = auto()
    """The server ended the watch, or the connection broke."""
    SILENT = auto()
    """No answer at all."""
    EXPIRED = auto()
    """410: a new list is needed."""
    CRD_GONE = auto()
    """The kind is not served, or its objects are being removed with it."""
    FAILED = auto()
    """429, 500 and whatever else the server said."""


def fault_of(error: ApiError) -> Fault:
    """Which of them an error is."""
    if error.status == 0 and error.reason == "NoAnswer":
        return Fault.SILENT
    if error.status == 410 or error.reason in ("Expired", "Gone"):
        return Fault.EXPIRED
    return Fault.FAILED


@dataclass(slots=True)
class Backoff:
    """Waits of one reflector; another kind of fault begins anew, because the server has come a step further."""

    fault: Fault | None = None
    failures: int = 0

    def reset(self) -> None:
        """After success."""
        self.fault, self.failures = None, 0

    def wait_s(self, fault: Fault, retry_after_s: float | None = None) -> float:
        """Seconds to wait after this fault; the first time after a closed watch or a 410 at most half a second."""
        if fault != self.fault:
            self.fault, self.failures = fault, 0
        self.failures += 1
        quick = fault in (Fault.CLOSED, Fault.EXPIRED)
        if quick and self.failures == 1:
            wait_s = random.uniform(*QUICK_S)
        elif fault in (Fault.FAILED, Fault.EXPIRED):
            doubled_s = BASE_S * 2 ** min(self.failures - 1 - quick, 10)
            wait_s = max(random.uniform(0, min(doubled_s, LIMIT_S)), QUICK_S[0])
        else:
            wait_s = random.uniform(CHEAP_S / 2, CHEAP_S)
        if retry_after_s is not None:
            least_s = min(retry_after_s, RETRY_AFTER_LIMIT_S)
            wait_s = max(wait_s, least_s + random.uniform(*QUICK_S))
        return wait_s
