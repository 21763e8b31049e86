"""Leader election, events and the rest of what the controller writes, against an API server of a dictionary.

The real one is in tests/cluster/test_controller.py.
"""

import copy
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sniffer.cluster import leases
from sniffer.cluster.events import EVERY_S, KNOWN_LENGTH, QUEUE_LENGTH, Events, Regarding
from sniffer.cluster.jitter import CHECK_S, Jitter
from sniffer.cluster.leases import Election
from sniffer.cluster.status import Statuses
from sniffer.errors import ApiError
from sniffer.model.identity import Identity
from sniffer.plan.said import Note
from sniffer.plan.views import Stored
from tests.topology import wait_until


class Server:
    """Objects by path, each write with a new version. `fails`: what every request answers instead."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.versions = itertools.count(1)
        self.requests: list[tuple[str, str, Any]] = []
        self.fails: ApiError | None = None

    def get(self, path: str, **_: Any) -> dict[str, Any]:
        self._request("GET", path, None)
        if path not in self.objects:
            raise ApiError(404, "NotFound", path)
        return copy.deepcopy(self.objects[path])

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self._request("POST", path, body)
        path = f"{path}/{body['metadata']['name']}"
        if path in self.objects:
            raise ApiError(409, "AlreadyExists", path)
        return self._store(path, body)

    def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self._request("PUT", path, body)
        if self.objects[path]["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", path)
        return self._store(path, body)

    def patch(self, path: str, body: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        self._request("PATCH", path, body)
        place = path.removesuffix("/status")
        if place not in self.objects:
            raise ApiError(404, "NotFound", path)
        merged = {key: item for key, item in body.items() if key != "metadata"}
        return self._store(place, {**self.objects[place], **merged})

    def _request(self, verb: str, path: str, body: Any) -> None:
        if self.fails:
            raise self.fails
        self.requests.append((verb, path, body))

    def _store(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        stored = copy.deepcopy(dict(body))
        stored["metadata"] = {**stored.get("metadata", {}), "resourceVersion": str(next(self.versions))}
        self.objects[path] = stored
        return copy.deepcopy(stored)


def _nothing() -> None:
    pass


class TestElection:
    PATH = "/apis/coordination.k8s.io/v1/namespaces/own/leases/sniffer-controller"

    @pytest.fixture(autouse=True)
    def fast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A tenth of the times."""
        for name in ("DEADLINE_S", "RENEW_S", "LOOK_S"):
            monkeypatch.setattr(leases, name, getattr(leases, name) / 10)

    def election(self, server: Server, name: str, changed: Callable[[], None] = _nothing) -> Election:
        made = Election(server, "own", name, changed)  # type: ignore[arg-type]
        made.start()
        return made

    def test_one_leads_and_hands_over_at_once(self) -> None:
        server, calls = Server(), []
        first = self.election(server, "first", lambda: calls.append(1))
        wait_until(first.leads)
        assert calls == [1]
        second = self.election(server, "second")
        time.sleep(0.6)
        assert first.leads()
        assert not second.leads()
        assert server.objects[self.PATH]["spec"]["holderIdentity"] == "first"
        first.release()
        assert not first.leads()
        assert server.objects[self.PATH]["spec"]["holderIdentity"] == ""
        wait_until(second.leads, 2)
        assert server.objects[self.PATH]["spec"]["leaseTransitions"] == 2
        second.release()

    def test_who_does_not_renew_is_followed_when_its_time_is_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(leases, "DURATION_S", 1)
        server = Server()
        first = self.election(server, "first")
        wait_until(first.leads)
        first._stopped.set()  # as if killed
        began_s = time.monotonic()
        second = self.election(server, "second")
        wait_until(second.leads, 3)
        assert 0.9 < time.monotonic() - began_s < 2.5
        assert not first.leads()
        second.release()

    def test_who_cannot_renew_leads_no_more_before_another_does(self) -> None:
        assert leases.DEADLINE_S < leases.DURATION_S
        server = Server()
        first = self.election(server, "first")
        wait_until(first.leads)
        server.fails = ApiError(0, "NoAnswer", "nobody there")
        wait_until(lambda: not first.leads(), 5)
        server.fails = None
        wait_until(first.leads, 5)
        first.release()

    def test_a_lease_that_another_took_is_lost(self) -> None:
        server = Server()
        first = self.election(server, "first")
        wait_until(first.leads)
        other = copy.deepcopy(server.objects[self.PATH])
        other["spec"] |= {"holderIdentity": "other", "leaseDurationSeconds": 60}
        server._store(self.PATH, other)
        wait_until(lambda: not first.leads(), 5)
        time.sleep(0.4)
        assert server.objects[self.PATH]["spec"]["holderIdentity"] == "other"
        first.release()
        assert server.objects[self.PATH]["spec"]["holderIdentity"] == "other"

    def test_whatever_the_server_says_it_goes_on(self) -> None:
        server = Server()
        server.objects[self.PATH] = {"metadata": {}, "spec": None}
        first = self.election(server, "first")
        time.sleep(0.2)
        server.objects[self.PATH] = {"metadata": {"resourceVersion": "7"}, "spec": {"leaseDurationSeconds": "x"}}
        wait_until(first.leads, 5)
        first.release()


class TestEvents:
    WEB = Regarding("sniffer.dev/v1alpha1", "TrafficMirror", "web", "uid-1", "shop")
    EDGE = Regarding("sniffer.dev/v1alpha1", "ClusterTrafficMirror", "edge", "uid-2")

    def events(self) -> tuple[Server, Events]:
        server = Server()
        return server, Events(server, "controller-1")  # type: ignore[arg-type]

    def drain(self, events: Events) -> None:
        while events:
            events.write_one()

    def test_one_for_an_object_and_reason_in_ten_minutes_then_a_series(self) -> None:
        server, events = self.events()
        for second in range(0, 700, 10):
            events.note(self.WEB, Note("HookFull", f"at {second}"), second)
            events.note(self.WEB, Note("BadFilter", "words"), second)
        self.drain(events)
        assert [verb for verb, _, _ in server.requests] == ["POST", "POST", "PATCH", "PATCH"]
        hook_full = next(item for item in server.objects.values() if item["reason"] == "HookFull")
        assert hook_full["note"] == "at 0"
        assert hook_full["series"]["count"] == 2
        assert hook_full["regarding"] == {
            "apiVersion": "sniffer.dev/v1alpha1",
            "kind": "TrafficMirror",
            "name": "web",
            "namespace": "shop",
            "uid": "uid-1",
        }
        assert hook_full["metadata"]["namespace"] == "shop"

    def test_a_series_whose_event_has_expired_begins_anew(self) -> None:
        server, events = self.events()
        events.note(self.EDGE, Note("HookFull", "a"), 0)
        self.drain(events)
        server.objects.clear()
        events.note(self.EDGE, Note("HookFull", "b"), EVERY_S + 1)
        self.drain(events)
        (made,) = server.objects.values()
        assert made["note"] == "b"
        assert made["metadata"]["namespace"] == "default", "where events of what has no namespace live"

    def test_a_storm_is_bounded(self) -> None:
        _, events = self.events()
        for number in range(20_000):
            events.note(Regarding("v", "k", f"n{number}"), Note("Reason", "words"), 0)
            if number % 2:
                events._queue.popleft()
        assert len(events) <= QUEUE_LENGTH
        assert len(events._series) <= KNOWN_LENGTH
        assert events.dropped > 0

    def test_long_words_are_cut_to_what_the_api_takes(self) -> None:
        server, events = self.events()
        events.note(self.EDGE, Note("Long", "é" * 3000), 0)
        self.drain(events)
        (made,) = server.objects.values()
        assert len(made["note"].encode()) <= 1024


class TestStatuses:
    WEB = Identity("TrafficMirror", "shop", "web")
    PATH = "/apis/sniffer.dev/v1alpha1/namespaces/shop/trafficmirrors/web"

    def stored(self, version: int, status: Mapping[str, Any], uid: str = "u") -> Stored:
        return Stored(self.WEB, uid, str(version), 1, None, "", status)

    def test_what_was_written_counts_until_the_watch_has_seen_it(self) -> None:
        server = Server()
        server.versions = itertools.count(11)
        server.objects[self.PATH] = {"metadata": {"resourceVersion": "10"}}
        statuses = Statuses(server)  # type: ignore[arg-type]
        old = self.stored(10, {})
        assert statuses.now(old) == {}
        statuses.write(old, {"pods": 1})
        assert server.requests[-1][2]["metadata"] == {"resourceVersion": "10"}
        assert statuses.now(old) == {"pods": 1}
        statuses.write(old, {"pods": 2})
        assert server.requests[-1][2]["metadata"] == {"resourceVersion": "11"}
        assert statuses.now(self.stored(12, {"pods": 9})) == {"pods": 9}
        assert statuses.now(old) == {}
        statuses.write(old, {"pods": 3})
        assert statuses.now(self.stored(10, {"pods": 0}, "another uid")) == {"pods": 0}


class TestJitter:
    PATH = "/api/v1/namespaces/own/configmaps/sniffer"

    def test_is_written_on_change_only_and_mended(self) -> None:
        server = Server()
        jitter = Jitter(server, "own")  # type: ignore[arg-type]
        assert jitter.is_due(2, 0)
        assert jitter.write(2, 0)
        assert server.objects[self.PATH]["data"] == {"reportJitterSeconds": "0"}
        assert not jitter.is_due(2, 100)
        assert jitter.is_due(60, 100)
        assert jitter.write(60, 100)
        assert server.objects[self.PATH]["data"] == {"reportJitterSeconds": "2"}
        assert not jitter.is_due(99, 200)
        assert jitter.is_due(99, 101 + CHECK_S)
        assert not jitter.write(99, 101 + CHECK_S)
        server.objects[self.PATH]["data"] = {"reportJitterSeconds": "77"}
        assert jitter.write(99, 1000)
        assert server.objects[self.PATH]["data"] == {"reportJitterSeconds": "2"}

    def test_an_error_is_not_tried_again_at_once(self) -> None:
        server = Server()
        jitter = Jitter(server, "own")  # type: ignore[arg-type]
        server.fails = ApiError(403, "Forbidden", "no")
        with pytest.raises(ApiError):
            jitter.write(60, 100)
        assert not jitter.is_due(60, 105)
        assert jitter.is_due(60, 111)
