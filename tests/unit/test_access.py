"""Whose token may scrape: what the API server says, for how long, and what happens while it says nothing."""

from typing import Any

import pytest

from sniffer.cluster import access
from sniffer.cluster.access import Access, Decision
from sniffer.errors import ApiError


class Reviews:
    """An API server that knows two tokens; `good` may scrape."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.error: ApiError | None = None
        self.users = {"good": "prometheus", "known": "somebody"}

    def create(self, path: str, body: dict[str, Any], timeout_s: float = 10) -> dict[str, Any]:
        assert timeout_s <= 5
        self.asked.append(body)
        if self.error:
            raise self.error
        if body["kind"] == "TokenReview":
            assert path == "/apis/authentication.k8s.io/v1/tokenreviews"
            name = self.users.get(body["spec"]["token"])
            user = {"username": name, "uid": "7", "groups": ["g"], "extra": {"x": ["y"]}}
            return {"status": {"authenticated": True, "user": user} if name else {"error": "unknown"}}
        assert path == "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return {"status": {"allowed": body["spec"]["user"] == "prometheus"}}


@pytest.fixture
def server() -> Reviews:
    return Reviews()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its first item is the time."""
    now = [1000.0]
    monkeypatch.setattr(access.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def asked(server: Reviews, clock: list[float]) -> Access:
    return Access(server)  # type: ignore[arg-type]


def test_who_may(asked: Access, server: Reviews) -> None:
    assert asked.decide("good") is Decision.ALLOWED
    token, may = server.asked
    assert token["spec"] == {"token": "good"}
    assert may["spec"] == {
        "user": "prometheus",
        "uid": "7",
        "groups": ["g"],
        "extra": {"x": ["y"]},
        "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
    }
    assert asked.decide("known") is Decision.FORBIDDEN
    assert asked.decide("strange") is Decision.UNAUTHENTICATED


def test_no_token_is_nobodys(asked: Access, server: Reviews) -> None:
    assert asked.decide("") is Decision.UNAUTHENTICATED
    assert asked.decide("x" * 100_000) is Decision.UNAUTHENTICATED
    assert server.asked == []


def test_an_answer_counts_for_a_while(asked: Access, server: Reviews, clock: list[float]) -> None:
    asked.decide("good")
    clock[0] += 59
    assert asked.decide("good") is Decision.ALLOWED
    assert len(server.asked) == 2
    server.users.clear()
    clock[0] += 2
    assert asked.decide("good") is Decision.UNAUTHENTICATED
    server.users["good"] = "prometheus"
    assert asked.decide("good") is Decision.UNAUTHENTICATED
    clock[0] += 11
    assert asked.decide("good") is Decision.ALLOWED


def test_a_silent_server(asked: Access, server: Reviews, clock: list[float]) -> None:
    """Who was allowed stays so for ten minutes; nobody else comes in, and the server is not asked all the time."""
    asked.decide("good")
    server.error = ApiError(0, "NoAnswer", "silent")
    clock[0] += 100
    asked_before = len(server.asked)
    assert asked.decide("good") is Decision.ALLOWED
    assert asked.decide("known") is Decision.UNKNOWN
    assert asked.decide("good") is Decision.ALLOWED
    assert len(server.asked) == asked_before + 1
    clock[0] += 501
    assert asked.decide("good") is Decision.UNKNOWN


def test_without_the_right_to_ask(asked: Access, server: Reviews, caplog: pytest.LogCaptureFixture) -> None:
    server.error = ApiError(403, "Forbidden", "may not create tokenreviews")
    assert asked.decide("good") is Decision.UNKNOWN
    assert asked.decide("known") is Decision.UNKNOWN
    assert len(caplog.records) == 1


def test_strangers_cost_little(asked: Access, server: Reviews, clock: list[float]) -> None:
    asked.decide("good")
    clock[0] += 61
    decisions = [asked.decide(f"strange{number}") for number in range(1000)]
    assert set(decisions) == {Decision.UNAUTHENTICATED, Decision.BUSY}
    assert len(server.asked) < 30
    assert asked.decide("good") is Decision.ALLOWED
    for _ in range(1000):
        clock[0] += 0.3
        asked.decide(f"strange{clock[0]}")
    assert len(asked._answers) <= access.CALLERS_LIMIT
