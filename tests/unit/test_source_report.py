"""A node's report: on change only, paced, spread, and never in the way."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sniffer.cluster import report as module
from sniffer.cluster.report import Reporter
from tests.api_server import ApiServer, Request, failure
from tests.unit.test_reflector import eventually
from tests.unit.test_source import CONFIG, REPORTS

PATH = f"{REPORTS}/n1"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as started:
        started.objects_only = {"n1", "sniffer"}
        yield started


@pytest.fixture
def make(server: ApiServer) -> Iterator[Callable[[], Reporter]]:
    made: list[Reporter] = []

    def reporter(uid: str | None = "uid-of-n1") -> Reporter:
        made.append(Reporter(server.client(), "n1", lambda: uid, "sniffer-system"))
        return made[-1]

    yield reporter
    for one in made:
        one.close()


def status(*mirrors: str) -> dict[str, Any]:
    return {
        "state": "Running",
        "version": "1",
        "mirrors": [{"kind": "ClusterTrafficMirror", "name": name, "state": "Programmed"} for name in mirrors],
    }


def found(server: ApiServer) -> dict[str, Any]:
    return server._collections.get(REPORTS, {}).get(("", "n1"), {})


def said(server: ApiServer) -> list[str]:
    return [mirror["name"] for mirror in found(server).get("status", {}).get("mirrors", ())]


def writes(server: ApiServer) -> list[Request]:
    return [request for request in server.requests if request.method == "PATCH"]


def test_the_first_report_makes_the_object(server: ApiServer, make: Callable[[], Reporter]) -> None:
    make().report(status("web"))
    assert eventually(lambda: said(server) == ["web"]) < 1
    assert found(server)["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-of-n1"}
    ]
    assert found(server)["status"]["reported"].endswith("Z")
    assert all(request.parameters == {"fieldManager": "sniffer", "force": "true"} for request in writes(server))
    assert all(request.headers["content-type"] == "application/apply-patch+yaml" for request in writes(server))


def test_only_changes_are_written_once_a_second(server: ApiServer, make: Callable[[], Reporter]) -> None:
    reporter = make()
    reporter.report(status("web"))
    eventually(lambda: said(server) == ["web"])
    before = len(writes(server))
    for _ in range(100):
        reporter.report(status("web"))
    time.sleep(1.2)
    assert len(writes(server)) == before
    for number in range(100):
        reporter.report(status(f"mirror-{number}"))
        time.sleep(0.025)
    eventually(lambda: said(server) == ["mirror-99"])
    assert 3 <= len(writes(server)) - before <= 5


def test_an_agent_that_comes_back_writes_nothing_new(server: ApiServer, make: Callable[[], Reporter]) -> None:
    make().report(status("web"))
    eventually(lambda: said(server) == ["web"])
    before = len(writes(server))
    make().report(status("web"))
    time.sleep(0.5)
    assert len(writes(server)) == before


def test_reports_are_spread_by_what_the_controller_says(
    server: ApiServer, make: Callable[[], Reporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.random, "uniform", lambda low, high: high)
    server.put(CONFIG.rpartition("/")[0], "sniffer", data={"reportJitterSeconds": "1.5"})
    reporter = make()
    reporter.report(status("web"))
    time.sleep(0.2)
    reporter.report(status("shop"))
    began_s = time.monotonic()
    eventually(lambda: said(server) == ["shop"])
    assert 1 < time.monotonic() - began_s < 2
    reporter.report(status("other"))
    eventually(lambda: said(server) == ["other"], 4)
    assert len([request for request in writes(server) if request.path.endswith("/status")]) == 3  # the first was a 404
    assert len(server.asked(CONFIG)) == 1


@pytest.mark.parametrize("data", [None, {}, {"reportJitterSeconds": "soon"}, {"reportJitterSeconds": "-5"}])
def test_no_jitter_is_none(server: ApiServer, make: Callable[[], Reporter], data: Any) -> None:
    server.put(CONFIG.rpartition("/")[0], "sniffer", data=data)
    make().report(status("web"))
    assert eventually(lambda: said(server) == ["web"]) < 1


def test_a_jitter_that_is_published_later_is_found(
    server: ApiServer, make: Callable[[], Reporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "JITTER_RETRY_S", 0.5)
    monkeypatch.setattr(module, "PACE_S", 0.1)
    reporter = make()
    for number in range(10):
        reporter.report(status(f"web-{number}"))
        eventually(lambda number=number: said(server) == [f"web-{number}"])
        time.sleep(0.1)
    assert 2 <= len(server.asked(CONFIG)) <= 4
    server.put(CONFIG.rpartition("/")[0], "sniffer", data={"reportJitterSeconds": "3000"})
    time.sleep(0.5)
    before = len(server.asked(CONFIG))
    reporter.report(status("late"))
    eventually(lambda: len(server.asked(CONFIG)) > before)
    time.sleep(0.2)
    assert said(server) == ["web-9"]


@pytest.mark.parametrize("answer", [failure(403, "Forbidden"), failure(409, "Conflict"), failure(404, "NotFound")])
def test_what_is_refused_is_tried_again_with_patience(
    server: ApiServer, make: Callable[[], Reporter], answer: Any
) -> None:
    """F11: and report() never blocks."""
    server.intercept = lambda request: answer if request.path.startswith(REPORTS) else None
    reporter = make()
    reporter.report(status("web"))
    time.sleep(3)
    assert 1 <= len(writes(server)) + len(server.asked(PATH)) <= 14
    began_s = time.monotonic()
    reporter.report(status("shop"))
    assert time.monotonic() - began_s < 0.1
    server.intercept = lambda request: None
    eventually(lambda: said(server) == ["shop"], 8)


def test_what_somebody_removed_comes_back(
    server: ApiServer, make: Callable[[], Reporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECHECK_S", (0.5, 0.6))
    make().report(status("web"))
    eventually(lambda: said(server) == ["web"])
    server.remove(REPORTS, "n1")
    eventually(lambda: said(server) == ["web"])


def test_a_node_that_was_made_anew_owns_it(server: ApiServer, make: Callable[..., Reporter]) -> None:
    make("former").report(status("web"))
    eventually(lambda: said(server) == ["web"])
    make("another").report(status("web"))
    eventually(lambda: found(server)["metadata"]["ownerReferences"][0]["uid"] == "another")
    assert said(server) == ["web"]


def test_it_ends_at_once_though_it_waits(server: ApiServer, make: Callable[[], Reporter]) -> None:
    server.put(CONFIG.rpartition("/")[0], "sniffer", data={"reportJitterSeconds": "3000"})
    reporter = make()
    reporter.report(status("web"))
    eventually(lambda: server.asked(CONFIG))
    began_s = time.monotonic()
    reporter.close()
    assert time.monotonic() - began_s < 0.5
    assert not found(server)
