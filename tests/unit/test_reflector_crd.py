"""F6: a CRD that goes takes its objects with it, one event each; that is not an order to stop mirroring."""

import time
from collections.abc import Iterator

import pytest

from sniffer.cluster.crd import CRDS
from sniffer.cluster.reflector import Watched
from tests.api_server import Answer, ApiServer, Request, failure
from tests.unit.test_reflector import Followed, eventually, following

MIRRORS = "/apis/sniffer.dev/v1alpha1/trafficmirrors"
CRD = "trafficmirrors.sniffer.dev"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as started:
        started.put(CRDS, CRD)
        started.put(CRDS, "others.example.org")
        for number in range(20):
            started.put(MIRRORS, f"mirror-{number}", "shop")
        yield started


@pytest.fixture
def followed(server: ApiServer) -> Iterator[Followed]:
    with following(server, Watched(MIRRORS, crd=CRD)) as started:
        yield started


def remove_all(server: ApiServer) -> None:
    for number in range(20):
        server.remove(MIRRORS, f"mirror-{number}", "shop")


def not_served(request: Request) -> Answer | None:
    if request.path == MIRRORS:
        return failure(404, "NotFound", "the server could not find the requested resource")
    return None


def test_an_object_that_is_removed_is_gone(server: ApiServer, followed: Followed) -> None:
    server.remove(MIRRORS, "mirror-0", "shop")
    assert eventually(lambda: "mirror-0" not in followed.names) < 0.5
    assert len(followed.names) == 19
    asked = server.asked(CRDS)[-1]
    assert asked.parameters == {"fieldSelector": f"metadata.name={CRD}"}
    assert "PartialObjectMetadataList" in asked.headers["accept"]


def test_many_at_once_go_fast(server: ApiServer, followed: Followed) -> None:
    """F7: with their namespace."""
    for number in range(500):
        server.put(MIRRORS, f"more-{number}", "other")
    eventually(lambda: len(followed.names) == 520)
    before = len(server.asked(CRDS))
    with server._changed:  # so that all of it is there to be read at once
        for number in range(500):
            server.remove(MIRRORS, f"more-{number}", "other")
    assert eventually(lambda: len(followed.names) == 20) < 2
    assert len(server.asked(CRDS)) - before <= 3


def test_a_crd_that_is_going_holds_its_objects(server: ApiServer, followed: Followed) -> None:
    server.put(CRDS, CRD, metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    remove_all(server)
    eventually(lambda: followed.fault == f"the CRD {CRD} is being removed")
    contact_s = followed.contact_s
    time.sleep(2.5)  # lists meanwhile, which are complete and empty
    assert len(followed.names) == 20
    assert followed.contact_s == contact_s
    assert followed.fault


def test_a_crd_that_is_gone_holds_its_objects_until_it_is_back(server: ApiServer, followed: Followed) -> None:
    server.remove(CRDS, CRD)
    remove_all(server)
    server.intercept = not_served
    server.drop_watches()
    eventually(lambda: followed.fault == f"the CRD {CRD} is gone")
    contact_s, asked = followed.contact_s, followed.requests
    time.sleep(3)
    assert len(followed.names) == 20
    assert followed.contact_s == contact_s
    assert followed.requests - asked <= 8
    server.put(CRDS, CRD)
    server.put(MIRRORS, "again", "shop")
    server.intercept = lambda request: None
    assert eventually(lambda: followed.names == {"again"}, 5) < 3
    assert followed.fault is None


def test_a_list_is_not_believed_while_the_crd_is_going(server: ApiServer, followed: Followed) -> None:
    """What is missing from it may be missing for that reason."""
    server.put(CRDS, CRD, metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    for number in range(20):
        server.forget(MIRRORS, f"mirror-{number}", "shop")
    server.intercept = lambda r: failure(410, "Expired") if r.is_watch and r.path == MIRRORS else None
    server.drop_watches()
    eventually(lambda: followed.fault)
    assert len(followed.names) == 20


def test_who_begins_while_the_crd_is_going_waits(server: ApiServer) -> None:
    """F5: what a former agent attached is held until a list can be believed."""
    server.put(CRDS, CRD, metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    with following(server, Watched(MIRRORS, crd=CRD), synced=False) as followed:
        eventually(lambda: followed.fault)
        assert not followed.synced
        assert followed.contact_s == float("-inf")


@pytest.mark.parametrize("answer", [failure(403, "Forbidden"), failure(500, "InternalError")])
def test_a_removal_waits_until_the_crd_can_be_read(server: ApiServer, followed: Followed, answer: Answer) -> None:
    server.intercept = lambda request: answer if request.path == CRDS else None
    server.remove(MIRRORS, "mirror-0", "shop")
    eventually(lambda: followed.fault)
    assert len(followed.names) == 20
    server.intercept = lambda request: None
    assert eventually(lambda: "mirror-0" not in followed.names, 5) < 4
    assert followed.fault is None


def test_a_look_at_the_crd_is_not_good_for_later_removals(server: ApiServer, followed: Followed) -> None:
    server.remove(MIRRORS, "mirror-0", "shop")
    eventually(lambda: "mirror-0" not in followed.names)
    server.remove(CRDS, CRD)
    server.remove(MIRRORS, "mirror-1", "shop")
    eventually(lambda: followed.fault)
    assert len(followed.names) == 19
