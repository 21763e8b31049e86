"""What a reflector must survive (F1-F4, F15, F17, F19), against a small server that misbehaves on demand.

How often it asks is counted: a hot loop is a failure, whatever else works.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sniffer.cluster import reflector as module
from sniffer.cluster.backoff import Backoff, Fault
from sniffer.cluster.client import Client, Parameters
from sniffer.cluster.reflector import Key, Reflector, Watched
from sniffer.cluster.stream import Stream
from tests.api_server import Answer, ApiServer, Request, failure, line

PODS = "/api/v1/pods"


def eventually(condition: Callable[[], object], within_s: float = 3.0) -> float:
    """Seconds until it held."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < within_s, "did not happen in time"
        time.sleep(0.005)
    return time.monotonic() - began_s


class Followed(Reflector):
    """Counts how often it called."""

    def __init__(self, server: ApiServer, watched: Watched) -> None:
        self.calls = 0
        super().__init__(server.client(), watched, self._count)

    def _count(self) -> None:
        self.calls += 1

    @property
    def names(self) -> set[str]:
        return {name for _, name in self.objects()}


@contextmanager
def following(server: ApiServer, watched: Watched | None = None, synced: bool = True) -> Iterator[Followed]:
    followed = Followed(server, watched or Watched(PODS))
    followed.start()
    try:
        if synced:
            eventually(lambda: followed.synced and server.asked(watch=True))
        yield followed
    finally:
        followed.stop()


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as started:
        started.put(PODS, "one", "shop")
        yield started


def watches(answer: Callable[[], Answer], times: int = 1 << 30) -> Callable[[Request], Answer | None]:
    """The first so many watches get this answer."""
    left = [times]

    def intercept(request: Request) -> Answer | None:
        if not request.is_watch or not left[0]:
            return None
        left[0] -= 1
        return answer()

    return intercept


def everything_but_readyz(answer: Answer) -> Callable[[Request], Answer | None]:
    return lambda request: None if request.path == "/readyz" else answer


def test_a_watch_is_dead_after_ninety_seconds_of_silence(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bookmarks come every minute; what waits for them is what is said."""
    waited: list[float] = []
    watch = Client.watch

    def noted(self: Client, path: str, parameters: Parameters, metadata_only: bool, timeout_s: float) -> Stream:
        waited.append(timeout_s)
        stream = watch(self, path, parameters, metadata_only, timeout_s)
        waited.append(stream._response._connection.sock.gettimeout())  # type: ignore[attr-defined]
        return stream

    monkeypatch.setattr(Client, "watch", noted)
    with following(server):
        eventually(lambda: len(waited) == 2)
    assert waited == [90, 90]


# What it is for


def test_a_list_of_many_pages_is_one_view(server: ApiServer) -> None:
    for number in range(1202):
        server.put(PODS, f"pod-{number:04}", "many")
    with following(server) as followed:
        assert len(followed.objects()) == 1203
        lists = server.asked(PODS, watch=False)
    assert [request.parameters.get("continue") for request in lists] == [None, "500", "1000"]
    assert all(request.parameters["limit"] == "500" for request in lists)
    assert followed.requests == 4


def test_events_are_in_the_view_at_once(server: ApiServer) -> None:
    with following(server) as followed:
        before = followed.objects()
        assert followed.objects() is before
        server.put(PODS, "two", "shop", spec={"a": 1})
        assert eventually(lambda: ("shop", "two") in followed.objects()) < 0.5
        server.put(PODS, "two", "shop", spec={"a": 2})
        eventually(lambda: followed.objects()["shop", "two"]["spec"] == {"a": 2})
        server.remove(PODS, "two", "shop")
        eventually(lambda: followed.names == {"one"})
        assert followed.calls == 4
    assert set(before) == {("shop", "one")}
    assert server.asked(watch=True)[0].parameters["allowWatchBookmarks"] == "true"
    assert 240 <= int(server.asked(watch=True)[0].parameters["timeoutSeconds"]) <= 420


def test_what_is_pruned_away_is_no_change(server: ApiServer) -> None:
    def labels(item: module.Object) -> module.Object:
        return {"labels": item["metadata"].get("labels")}

    with following(server, Watched(PODS, prune=labels)) as followed:
        before, calls = followed.objects(), followed.calls
        server.put(PODS, "one", "shop", status={"phase": "Running"})
        server.put(PODS, "two", "shop")
        eventually(lambda: "two" in followed.names)
        assert followed.calls == calls + 1
        assert followed.objects()["shop", "one"] is before["shop", "one"]


def test_an_object_of_ten_megabytes(server: ApiServer) -> None:
    with following(server) as followed:
        server.put(PODS, "big", "shop", spec={"text": "x" * (10 << 20)})
        eventually(lambda: "big" in followed.names)
        server.put(PODS, "two", "shop")
        eventually(lambda: "two" in followed.names)
    assert len(server.asked(watch=True)) == 1


def test_it_ends_at_once(server: ApiServer) -> None:
    with following(server) as followed:
        began_s = time.monotonic()
        followed.stop()
        assert time.monotonic() - began_s < 0.5
        assert followed.names == {"one"}
    asked = len(server.requests)
    time.sleep(0.7)
    assert len(server.requests) == asked


# Streams that end


def test_a_watch_that_ends_is_taken_up_again_soon(server: ApiServer) -> None:
    with following(server) as followed:
        server.drop_watches()
        time.sleep(0.02)
        server.put(PODS, "two", "shop")
        assert eventually(lambda: "two" in followed.names) < 0.8
    assert len(server.asked(watch=True)) == 2
    lists = server.asked(PODS, watch=False)
    assert [request.parameters["limit"] for request in lists] == ["500", "1"]  # no second list


def test_a_watch_that_ends_at_once_every_time_makes_no_hot_loop(server: ApiServer) -> None:
    server.intercept = watches(lambda: Answer(stream=[]))
    with following(server) as followed:
        time.sleep(3)
        assert followed.fault is None
    times_s = [request.at_s for request in server.asked(watch=True)]
    assert times_s[1] - times_s[0] < 0.7  # the first time at once
    assert 2 <= len(times_s) <= 5
    assert followed.requests <= 11


@pytest.mark.parametrize("rest", [b'{"type":"ADDED","object":{"metadata":{"na', b""])
def test_a_line_that_was_cut_off_comes_again(server: ApiServer, rest: bytes) -> None:
    whole = line("ADDED", {"metadata": {"name": "two", "namespace": "shop", "resourceVersion": "102"}})
    server.intercept = watches(lambda: Answer(stream=[whole, rest] if rest else [whole[:20], whole[20:]]), 1)
    with following(server) as followed:
        eventually(lambda: "two" in followed.names)
        server.version = 102
        eventually(lambda: len(server.asked(watch=True)) == 2)
        server.put(PODS, "three", "shop")
        eventually(lambda: "three" in followed.names)
        assert followed.fault is None
    assert server.asked(watch=True)[1].parameters["resourceVersion"] == "102"


@pytest.mark.parametrize(
    "said",
    [
        b"not json\n",
        b'["a list"]\n',
        b'{"type": "ADDED"}\n',
        b'{"type": "ADDED", "object": {"metadata": {"name": "x"}}}\n',
        b'{"type": "ADDED", "object": {"metadata": {"resourceVersion": "many", "name": "x"}}}\n',
        b'{"type": "ADDED", "object": {"metadata": null}}\n',
        b'{"type": "ADDED", "object": {"metadata": {"resourceVersion": "200"}}}\n',
        b"\xff\xfe\n",
    ],
)
def test_what_is_no_event_leads_to_a_new_list(server: ApiServer, said: bytes) -> None:
    server.intercept = watches(lambda: Answer(stream=[said]), 1)
    with following(server) as followed:
        eventually(lambda: len(server.asked(watch=True)) == 2)
        assert followed.names == {"one"}
        assert followed.fault is None
    assert [request.parameters["limit"] for request in server.asked(PODS, watch=False)] == ["500", "500"]


# Silence


def test_a_half_open_watch_is_given_up(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """F1: no event and no bookmark for so long."""
    monkeypatch.setattr(module, "SILENCE_S", 0.4)

    def silent() -> Iterator[bytes]:
        server.stopped.wait(5)
        yield b""

    server.intercept = watches(lambda: Answer(stream=silent()), 1)
    with following(server) as followed:
        server.put(PODS, "two", "shop")
        assert 0.3 < eventually(lambda: "two" in followed.names) < 2.7


def test_bookmarks_are_signs_of_life(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.4)

    def bookmarks() -> Iterator[bytes]:
        for version in range(500, 510):
            time.sleep(0.1)
            yield line("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})

    server.intercept = watches(lambda: Answer(stream=bookmarks()), 1)
    with following(server) as followed:
        calls, contact_s = followed.calls, followed.contact_s
        time.sleep(0.8)
        assert len(server.asked(watch=True)) == 1
        assert followed.contact_s > contact_s + 0.5
        assert followed.calls == calls
        server.version = 600
        eventually(lambda: len(server.asked(watch=True)) == 2)
    assert server.asked(watch=True)[1].parameters["resourceVersion"] == "509"


def test_a_server_that_is_not_there_is_asked_every_two_seconds(server: ApiServer) -> None:
    with following(server) as followed:
        server.__exit__()
        eventually(lambda: followed.fault)
        contact_s, asked = followed.contact_s, followed.requests
        time.sleep(3)
        assert 1 <= followed.requests - asked <= 4
        assert followed.fault
        assert "does not answer" in followed.fault
        assert followed.contact_s == contact_s
        assert followed.names == {"one"}


# 410, 429, 500, 401


def gone() -> Answer:
    return failure(410, "Expired", "too old resource version: 101 (900)")


def gone_event() -> Answer:
    return Answer(stream=[line("ERROR", {"code": 410, "reason": "Expired", "message": "too old resource version"})])


@pytest.mark.parametrize("answer", [gone, gone_event])
def test_410_leads_to_a_new_list_that_says_what_went(server: ApiServer, answer: Callable[[], Answer]) -> None:
    """F2, F3: nobody tells of what was removed meanwhile."""
    server.put(PODS, "two", "shop")
    with following(server) as followed:
        server.forget(PODS, "two", "shop")
        server.intercept = watches(answer, 1)
        server.drop_watches()
        eventually(lambda: followed.names == {"one"})
        assert followed.fault is None


@pytest.mark.parametrize("answer", [gone, gone_event])
def test_410_every_time_makes_no_hot_loop(server: ApiServer, answer: Callable[[], Answer]) -> None:
    server.intercept = watches(answer)
    with following(server) as followed:
        eventually(lambda: followed._backoff.failures >= 3, 10)
        assert followed.requests <= 3 * 2 + 2
        assert followed.names == {"one"}


def test_pages_that_expire_are_read_as_one(server: ApiServer) -> None:
    for number in range(700):
        server.put(PODS, f"pod-{number:04}", "many")
    server.intercept = lambda request: gone() if request.parameters.get("continue") else None
    with following(server) as followed:
        assert len(followed.objects()) == 701
    assert [request.parameters.get("limit") for request in server.asked(PODS, watch=False)] == ["500", "500", None]


def test_retry_after_is_honoured(server: ApiServer) -> None:
    with following(server) as followed:
        server.intercept = everything_but_readyz(failure(429, "TooManyRequests", Retry_After="2"))
        server.drop_watches()
        eventually(lambda: followed.fault)
        refused_s = server.requests[-1].at_s
        server.intercept = lambda request: None
        server.put(PODS, "two", "shop")
        eventually(lambda: "two" in followed.names, 5)
        assert min(request.at_s for request in server.asked(PODS) if request.at_s > refused_s) >= refused_s + 2
        assert followed.fault is None


def test_a_storm_of_500_is_met_with_patience(server: ApiServer) -> None:
    with following(server) as followed:
        server.intercept = everything_but_readyz(failure(500, "InternalError"))
        asked = followed.requests
        server.drop_watches()
        time.sleep(3)
        assert followed.requests - asked <= 18
        assert followed.names == {"one"}
        assert followed.fault == "500 InternalError: told to"


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after many failures."""

    def wait_s(self: Backoff, fault: Fault, retry_after_s: float | None = None) -> float:
        return 30 if fault is Fault.FAILED else 0.1

    monkeypatch.setattr(Backoff, "wait_s", wait_s)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("header", [{}, {"Retry_After": "5"}])
def test_a_server_that_is_ready_again_is_asked_within_five_seconds(server: ApiServer, header: dict[str, str]) -> None:
    """Its errors have made us wait half a minute; one that starts says 503 and five seconds, whatever it takes."""
    with following(server) as followed:
        server.intercept = lambda _: failure(503, "ServiceUnavailable", "no paths installed yet", **header)
        server.drop_watches()
        eventually(lambda: followed.fault)
        time.sleep(0.5)
        server.put(PODS, "two", "shop")
        server.intercept = lambda request: None
        assert eventually(lambda: "two" in followed.names, 5) < 4


@pytest.mark.usefixtures("patience")
def test_a_server_that_is_ready_and_fails_is_left_alone(server: ApiServer) -> None:
    """Ready all the time: it is overload, and another request makes it worse."""
    with following(server) as followed:
        server.intercept = everything_but_readyz(failure(500, "InternalError"))
        server.drop_watches()
        eventually(lambda: followed.fault)
        asked = followed.requests
        time.sleep(3)
        assert followed.requests == asked
        assert len(server.asked("/readyz")) <= 4


@pytest.mark.usefixtures("patience")
def test_errors_of_a_server_that_starts_are_soon_forgotten(server: ApiServer) -> None:
    """It did not answer, then refused, and was ready before we asked whether it is."""
    with following(server) as followed:
        server.intercept = lambda _: Answer(0)
        server.drop_watches()
        eventually(lambda: followed.fault)
        server.intercept = everything_but_readyz(failure(403, "Forbidden", "no pods: RBAC: [no role yet]"))
        eventually(lambda: followed.fault == "403 Forbidden: no pods")
        server.put(PODS, "two", "shop")
        server.intercept = lambda request: None
        assert eventually(lambda: "two" in followed.names, 5) < 2.5


def test_a_token_that_was_replaced(server: ApiServer) -> None:
    """F17: the file has another one; ours is refused."""
    server.token = "first"
    with following(server) as followed:
        server.token = "second"
        server.drop_watches()
        time.sleep(0.02)
        server.put(PODS, "two", "shop")
        assert eventually(lambda: "two" in followed.names) < 1
        assert followed.fault is None


def test_a_right_that_was_taken_away(server: ApiServer) -> None:
    with following(server) as followed:
        server.intercept = everything_but_readyz(failure(403, "Forbidden", "agent cannot list pods"))
        server.drop_watches()
        eventually(lambda: followed.fault == "403 Forbidden: agent cannot list pods")
        assert followed.names == {"one"}
        server.intercept = lambda request: None
        eventually(lambda: followed.fault is None, 4)


def test_an_error_inside_makes_it_begin_again(server: ApiServer) -> None:
    broken = [True]

    def prune(item: module.Object) -> module.Object:
        if broken[0] and item["metadata"]["name"] == "two":
            raise ZeroDivisionError("by a test")
        return item

    with following(server, Watched(PODS, prune=prune)) as followed:
        server.put(PODS, "two", "shop")
        eventually(lambda: followed.fault == "ZeroDivisionError: by a test")
        assert followed.names == {"one"}
        broken[0] = False
        eventually(lambda: followed.names == {"one", "two"}, 5)


# Versions


def event(kind: str, name: str, version: int) -> bytes:
    return line(kind, {"metadata": {"name": name, "namespace": "shop", "resourceVersion": str(version)}})


def test_duplicates_and_stragglers_change_nothing(server: ApiServer) -> None:
    """F4: after its removal an object does not come back by an older word, nor goes by one."""
    said = [
        event("ADDED", "two", 110),
        event("MODIFIED", "two", 120),
        event("MODIFIED", "two", 115),
        event("ADDED", "two", 110),
        event("DELETED", "one", 130),
        event("MODIFIED", "one", 125),
        event("DELETED", "two", 119),
        event("ADDED", "three", 128),
    ]

    def stream() -> Iterator[bytes]:
        yield from said
        server.stopped.wait(5)

    server.intercept = watches(lambda: Answer(stream=stream()), 1)
    with following(server) as followed:
        eventually(lambda: "three" in followed.names)
        assert followed.names == {"two", "three"}
        assert followed.objects()["shop", "two"]["metadata"]["resourceVersion"] == "120"
        assert followed._version == 130


def test_an_object_that_comes_back_is_another(server: ApiServer) -> None:
    with following(server) as followed:
        for _ in range(20):
            server.remove(PODS, "one", "shop")
            server.put(PODS, "one", "shop")
        server.put(PODS, "two", "shop")
        eventually(lambda: "two" in followed.names)
        assert followed.names == {"one", "two"}


def test_a_server_that_went_back_in_time_is_read_anew(server: ApiServer) -> None:
    """F15: a watch from the future would be silent for ever."""
    server.put(PODS, "two", "shop")
    then = server.version
    server.remove(PODS, "one", "shop")
    server.put(PODS, "three", "shop")
    with following(server) as followed:
        assert followed.names == {"two", "three"}
        server.go_back(then)
        server.drop_watches()
        eventually(lambda: followed.names == {"one", "two"})
        server.put(PODS, "four", "shop")
        eventually(lambda: followed.names == {"one", "two", "four"})


def test_a_server_that_was_away_is_read_anew_soon(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """F15: it went back and is beyond our version again: no version tells of it."""
    monkeypatch.setattr(module, "DOUBT_S", (1, 1))
    server.put(PODS, "two", "shop")
    then = server.version
    server.remove(PODS, "one", "shop")
    with following(server) as followed:
        assert followed.names == {"two"}
        server.intercept = lambda _: failure(503, "ServiceUnavailable")
        server.drop_watches()
        eventually(lambda: followed.fault)
        server.go_back(then)
        for name in ("three", "four"):
            server.put(PODS, name, "shop")
        watched = len(server.asked(watch=True))
        server.intercept = lambda request: None
        eventually(lambda: followed.names == {"one", "two", "three", "four"}, 10)
        eventually(lambda: len(server.asked(watch=True)) == watched + 2)
    assert server.asked(watch=True)[-2].parameters["timeoutSeconds"] == "1"
    assert int(server.asked(watch=True)[-1].parameters["timeoutSeconds"]) >= module.WATCH_S[0]


def test_a_version_that_is_too_large_leads_to_a_new_list(server: ApiServer) -> None:
    error = failure(504, "Timeout", "Too large resource version: 900, current: 100")
    server.intercept = watches(lambda: error, 1)
    with following(server) as followed:
        eventually(lambda: len(server.asked(watch=True)) == 2)
        eventually(lambda: followed.fault is None)
    assert [request.parameters["limit"] for request in server.asked(PODS, watch=False)] == ["500", "500"]


def test_what_went_is_not_remembered_for_ever(server: ApiServer) -> None:
    with following(server) as followed:
        for number in range(50):
            server.put(PODS, f"short-{number}", "shop")
            server.remove(PODS, f"short-{number}", "shop")
        server.put(PODS, "two", "shop")
        eventually(lambda: "two" in followed.names)
        server.drop_watches()
        eventually(lambda: len(server.asked(watch=True)) == 2)
        expected: set[Key] = {("shop", "one"), ("shop", "two")}
        assert set(followed._versions) == expected


# Waits


def test_waits_are_short_at_first_and_never_longer_than_half_a_minute() -> None:
    for fault in Fault:
        for _ in range(50):
            backoff = Backoff()
            waits_s = [backoff.wait_s(fault) for _ in range(12)]
            assert all(0.1 <= wait_s <= 30 for wait_s in waits_s)
            if fault in (Fault.CLOSED, Fault.EXPIRED):
                assert waits_s[0] <= 0.5
            if fault in (Fault.CLOSED, Fault.SILENT, Fault.CRD_GONE):
                assert max(waits_s) <= 2


def test_waits_grow_and_begin_anew_with_another_fault() -> None:
    grown, fresh = [], []
    for _ in range(200):
        backoff = Backoff()
        grown.append([backoff.wait_s(Fault.FAILED) for _ in range(8)][-1])
        backoff.wait_s(Fault.SILENT)
        fresh.append(backoff.wait_s(Fault.FAILED))
    assert sum(grown) / 200 > 8
    assert max(fresh) <= 0.8


def test_what_a_server_asks_for_is_the_least() -> None:
    for _ in range(50):
        assert Backoff().wait_s(Fault.FAILED, 7) > 7
        assert Backoff().wait_s(Fault.FAILED, 1e9) < 61
