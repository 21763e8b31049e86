"""Who may scrape: the API server is asked whose a token is (TokenReview) and what he may do (SubjectAccessReview)."""

import hashlib
import logging
import threading
import time
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sniffer.cluster.client import Client
from sniffer.errors import ApiError

ALLOWED_S = 60.0
"""How long an answer counts; one that is taken back reaches us that much later."""
REFUSED_S = 10.0
STALE_S = 600.0
"""So long who was allowed stays so while the API server does not answer: then above all the metrics are wanted."""
TIMEOUT_S = 3.0
PAUSE_S = 10.0
"""A server that did not answer is not asked again for so long."""
CALLERS_LIMIT = 128
REVIEWS_PER_S, REVIEWS_BURST = 5.0, 20.0
"""Strangers' tokens cost the API server no more than that."""
TOKEN_LENGTH = 16384

log = logging.getLogger(__name__)

_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class Decision(Enum):
    """Of a request, with the HTTP status and words of its answer."""

    ALLOWED = (200, "OK")
    UNAUTHENTICATED = (401, "Unauthorized")
    FORBIDDEN = (403, "Forbidden")
    BUSY = (429, "Too Many Requests")
    UNKNOWN = (503, "Service Unavailable")


@dataclass(frozen=True, slots=True)
class _Answer:
    decision: Decision
    asked_s: float

    def counts(self, now_s: float) -> bool:
        return now_s - self.asked_s < (ALLOWED_S if self.decision is Decision.ALLOWED else REFUSED_S)

    def is_stale_but_good(self, now_s: float) -> bool:
        return self.decision is Decision.ALLOWED and now_s - self.asked_s < STALE_S


class Access:
    """`decide`, from any thread."""

    def __init__(self, client: Client, path: str = "/metrics", verb: str = "get") -> None:
        """path, verb: the right that a caller needs, as of a ClusterRole's nonResourceURLs."""
        self._client = client
        self._attributes = {"path": path, "verb": verb}
        self._answers: dict[bytes, _Answer] = {}
        self._lock = threading.Lock()
        self._silent_until_s = float("-inf")
        self._said = ""
        self._tokens, self._filled_s = REVIEWS_BURST, time.monotonic()

    def decide(self, token: str) -> Decision:
        """token: as it came; "" is nobody's. Blocks for TIMEOUT_S twice at the longest."""
        if not token or len(token) > TOKEN_LENGTH:
            return Decision.UNAUTHENTICATED
        key = hashlib.sha256(token.encode(errors="replace")).digest()
        now_s = time.monotonic()
        with self._lock:
            known = self._answers.get(key)
            if known and known.counts(now_s):
                return known.decision
            asks = now_s >= self._silent_until_s and self._spend(now_s)
            silent = now_s < self._silent_until_s
        decision = self._ask(token) if asks else Decision.UNKNOWN if silent else Decision.BUSY
        if decision in (Decision.UNKNOWN, Decision.BUSY):
            return Decision.ALLOWED if known and known.is_stale_but_good(now_s) else decision
        with self._lock:
            self._answers[key] = _Answer(decision, now_s)
            self._forget(now_s)
        return decision

    def _spend(self, now_s: float) -> bool:
        self._tokens = min(self._tokens + (now_s - self._filled_s) * REVIEWS_PER_S, REVIEWS_BURST)
        self._filled_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _forget(self, now_s: float) -> None:
        """Those that nobody needs; then the refused, then the oldest, until there is room."""
        useful = {key: one for key, one in self._answers.items() if one.counts(now_s) or one.is_stale_but_good(now_s)}
        order = sorted(useful, key=lambda key: (useful[key].decision is Decision.ALLOWED, useful[key].asked_s))
        self._answers = {key: useful[key] for key in order[-CALLERS_LIMIT:]}

    def _ask(self, token: str) -> Decision:
        try:
            user = self._review(_TOKEN_REVIEWS, "authentication", "TokenReview", {"token": token})
            if not user.get("authenticated"):
                return Decision.UNAUTHENTICATED
            who = user.get("user") or {}
            spec = {
                **{key: who[key] for key in ("groups", "uid", "extra") if who.get(key)},
                "user": who.get("username", ""),
                "nonResourceAttributes": self._attributes,
            }
            may = self._review(_ACCESS_REVIEWS, "authorization", "SubjectAccessReview", spec)
        except ApiError as error:
            if error.status == 0:
                self._silent_until_s = time.monotonic() + PAUSE_S
            if str(error) != self._said:
                self._said = str(error)
                log.warning("who scrapes cannot be asked: %s", error)
            return Decision.UNKNOWN
        return Decision.ALLOWED if may.get("allowed") else Decision.FORBIDDEN

    def _review(self, path: str, group: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        body = {"apiVersion": f"{group}.k8s.io/v1", "kind": kind, "spec": spec}
        status: dict[str, Any] = self._client.create(path, body, timeout_s=TIMEOUT_S).get("status") or {}
        return status
