"""A4: what follows where analyzers refuse copies: words, and hooks that watch."""

from dataclasses import replace

import pytest

from sniffer.abi.limits import Direction, Guard, OuterKind, PathWord
from sniffer.abi.records import Hook
from sniffer.plan.compile import compile_sources
from sniffer.plan.facts import PathState
from sniffer.plan.outers import header_of
from sniffer.plan.rejecting import as_observed, endpoints_of, told, watched, watching
from sniffer.plan.state import State, Wanted
from tests.agent import Document, mirror, target
from tests.unit.test_compile import LINKS, compiled, facts, paths, sources, verdict

UPLINK = Hook(12, Direction.INGRESS)
ANA = ("ana", "10.9.0.2")


def with_watch(*documents: Document, **fields: object) -> Wanted:
    here = facts(**fields)  # type: ignore[arg-type]
    said = sources(*documents)
    return watched(compile_sources(said, here), here, said.targets)


def test_a_mirror_says_who_refuses_its_copies() -> None:
    two = target("two", ["10.9.0.2", "10.9.0.3"], encapsulation={"gre": {}})
    wanted = told(compiled(target(), two, mirror("a"), mirror("b", targets=["two"])), {("two", "10.9.0.3")})
    assert (verdict(wanted, "a").state, verdict(wanted, "a").reason) == ("Programmed", None)
    assert (verdict(wanted, "b").state, verdict(wanted, "b").reason) == ("Programmed", "SinkRejecting")
    assert (verdict(wanted, "b").message or "").startswith("10.9.0.3 (two): copies come back")
    assert sorted(wanted.paths.values()) == [PathWord.REACHABLE, PathWord.REACHABLE, PathWord.REJECTING]


def test_what_stops_copies_is_said_first() -> None:
    wanted = compile_sources(sources(target(), mirror()), facts(paths(a2=PathState.UNREACHABLE)))
    assert told(wanted, {ANA}) == wanted
    stale = compiled(target(), mirror(), stale={verdict(compiled(target(), mirror())).identity: "a.yaml:3"})
    assert verdict(told(stale, {ANA})).reason == "SourceUnreadable"


def test_headers_are_of_endpoints() -> None:
    said = sources(target(), target("gre", encapsulation={"gre": {"key": 5}}), target("same")).targets
    header = header_of(said[0], "10.9.0.2")
    assert header
    assert endpoints_of({header}, said) == {ANA, ("same", "10.9.0.2")}
    assert endpoints_of({replace(header, key=4243)}, said) == frozenset()


def test_uplinks_are_watched_for_errors_to_this_node() -> None:
    wanted = with_watch(target(), mirror())
    assert wanted.hooks[UPLINK] == ()
    assert wanted.guards[UPLINK] == Guard.REFUSALS
    nodes = [key for key in wanted.outers if key.kind == OuterKind.NODE]
    assert [key.address[-4:] for key in nodes] == [bytes([10, 9, 0, 1])]


@pytest.mark.parametrize("why", ["nothing is mirrored", "mirrored itself", "no ethernet", "unreachable"])
def test_what_is_not_watched(why: str) -> None:
    bare = tuple(replace(one, arphrd=768) if one.name == "eth0" else one for one in LINKS)
    documents = {"nothing is mirrored": [], "mirrored itself": [mirror(interfaces=["eth0"])]}.get(why, [mirror()])
    fields = {"no ethernet": {"links": bare}, "unreachable": {"found": paths(a2=PathState.UNREACHABLE)}}
    before = compile_sources(sources(target(), *documents), facts(**fields.get(why, {})))  # type: ignore[arg-type]
    assert with_watch(target(), *documents, **fields.get(why, {})).hooks == before.hooks


def test_who_only_looks_leaves_things_as_they_are() -> None:
    """`sniffer plan` beside an agent that has found something."""
    wanted = compiled(target(), mirror())
    (record,) = wanted.paths
    keys = with_watch(target(), mirror()).outers
    observed = State(
        hooks={UPLINK: 0, Hook(10, Direction.INGRESS): 4},
        guards={UPLINK: Guard.REFUSALS},
        outers=keys,
        egress={3: record},
        paths={3: PathWord.REJECTING},
    )
    assert watching(observed) == (UPLINK,)
    found = as_observed(wanted, observed)
    assert (found.hooks[UPLINK], found.guards[UPLINK], found.outers) == ((), Guard.REFUSALS, keys)
    assert found.paths == {record: PathWord.REJECTING}
    assert verdict(found).reason == "SinkRejecting"
    assert as_observed(wanted, State()) == wanted
