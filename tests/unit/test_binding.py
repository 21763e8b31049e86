"""plan/binding.py: pods to namespaces to host veths, by rule and against a runtime that does its worst."""

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sniffer.plan.binding import Bindings, Key, Namespace, Owners, bind
from sniffer.plan.cluster import Binding, Pod
from sniffer.plan.facts import Link

A, B, C = "10.244.0.5", "10.244.0.6", "fd00::5"
NOT_YET = Binding((), "NotYet")
AMBIGUOUS = Binding((), "Ambiguous")


def pod(uid: str, *addresses: str, ready: bool = True, host: bool = False, created: int = 0) -> Pod:
    return Pod(uid, "shop", uid, {}, addresses, host, ready, f"2026-05-01T10:00:{created:02}Z")


def namespace(number: int, *addresses: str, nsid: int | None = None, born: int = 1) -> Namespace:
    nsid = number if nsid is None else nsid
    return Namespace(4026532000 + number, born, nsid, f"cni-{number}", frozenset(addresses))


def veth(index: int, nsid: int | None, peer: int = 2) -> Link:
    there = None if nsid is None else (nsid, peer)
    return Link(index, f"veth{index}", None, "veth", 1500, True, 1, None, None, bytes(6), there)


def bound(index: int, number: int) -> Binding:
    return Binding((index,), None, 4026532000 + number)


class Agent:
    """Look after look."""

    def __init__(self) -> None:
        self.owners: Owners | None = None
        self.last: Bindings | None = None
        self.links: Sequence[Link] = ()
        self.linked: set[Key] = set()

    def look(self, pods: Sequence[Pod], namespaces: Sequence[Namespace] | None, links: Sequence[Link]) -> Any:
        before = set(self.owners.seen) if self.owners else set()
        self.last = bind(pods, namespaces, links, self.owners)
        self.owners = self.last.owners
        self.links, self.linked = links, before & set(self.owners.seen)
        return self.last.bindings

    def glance(self, pods: Sequence[Pod], namespaces: Sequence[Namespace]) -> Any:
        """With the links of the last look."""
        self.last = bind(pods, namespaces, self.links, self.owners, self.linked)
        self.owners = self.last.owners
        return self.last.bindings


@pytest.fixture
def agent() -> Agent:
    return Agent()


def test_a_pod_is_found_by_any_of_its_addresses(agent: Agent) -> None:
    found = agent.look(
        [pod("a", A, C), pod("b", B)], [namespace(1, C), namespace(2, B, "fe80::1")], [veth(7, 2), veth(8, 1)]
    )
    assert found == {"a": bound(8, 1), "b": bound(7, 2)}
    assert agent.last is not None
    assert not agent.last.waits


def test_an_address_in_another_spelling(agent: Agent) -> None:
    assert agent.look([pod("a", "FD00:0::05")], [namespace(1, C)], [veth(8, 1)]) == {"a": bound(8, 1)}


def test_what_is_no_address_is_nobody(agent: Agent) -> None:
    assert agent.look([pod("a", "words", "")], [namespace(1, "")], [veth(8, 1)]) == {"a": NOT_YET}


def test_all_veths_of_a_pod_are_its_interfaces(agent: Agent) -> None:
    """D15"""
    links = [veth(30, 1, 4), veth(9, 1, 2), veth(10, 2), veth(12, None), veth(11, 1, 3)]
    assert agent.look([pod("a", A)], [namespace(1, A)], links)["a"].interfaces == (9, 11, 30)


def test_a_pod_that_takes_its_device_into_a_namespace_of_its_own_making(agent: Agent) -> None:
    """Its traffic still passes the same veth. What never was the pod's is not, nor what went back or to another pod."""
    pods, first = [pod("a", A), pod("b", B)], [namespace(1, A), namespace(2, B)]
    agent.look(pods, first, [veth(8, 1), veth(9, 2), veth(10, 1)])
    moved = agent.look(pods, first, [veth(8, 77), veth(9, 2), veth(10, 1), veth(11, 77)])
    assert moved == {"a": Binding((8, 10), None, 4026532001), "b": bound(9, 2)}
    assert agent.look(pods, first, [veth(8, 78), veth(9, 2), veth(10, None)]) == {"a": bound(8, 1), "b": bound(9, 2)}
    to_another = agent.look(pods, first, [veth(8, 2), veth(9, 2)])
    assert to_another == {"a": Binding((), "NoHostVeth", 4026532001), "b": Binding((8, 9), None, 4026532002)}
    assert agent.look(pods, first[1:], [veth(8, 78), veth(9, 2)])["a"] == NOT_YET  # the pod's namespace is gone


def test_pods_without_a_host_veth_say_why(agent: Agent) -> None:
    """D13"""
    found = agent.look(
        [pod("h", "192.168.0.1", host=True), pod("a", A)], [namespace(1, A)], [veth(8, 3), veth(9, None)]
    )
    assert found == {"h": Binding((), "HostNetwork"), "a": Binding((), "NoHostVeth", 4026532001)}


def test_no_pod_without_addresses_or_sandbox_is_bound(agent: Agent) -> None:
    pods = [pod("a"), pod("b", B, ready=False)]
    assert agent.look(pods, [namespace(1), namespace(2, B)], [veth(8, 1), veth(9, 2)]) == {"a": NOT_YET, "b": NOT_YET}
    assert agent.last is not None
    assert not agent.last.waits  # another look at the node would not help


def test_a_bound_pod_stays_bound_when_its_sandbox_is_not_ready(agent: Agent) -> None:
    world = [namespace(1, A)], [veth(8, 1)]
    agent.look([pod("a", A)], *world)
    assert agent.look([pod("a", A, ready=False)], *world) == {"a": bound(8, 1)}
    assert agent.look([pod("a", ready=False)], *world) == {"a": bound(8, 1)}


def test_two_namespaces_with_one_address_are_nobodys(agent: Agent) -> None:
    links = [veth(8, 1), veth(9, 2)]
    assert agent.look([pod("a", A)], [namespace(1, A), namespace(2, A)], links) == {"a": AMBIGUOUS}
    assert agent.look([pod("a", A)], [namespace(2, A)], links) == {"a": bound(9, 2)}


def test_of_two_namespaces_with_one_address_the_one_left_must_be_the_younger(agent: Agent) -> None:
    former, own = namespace(1, A, born=1), namespace(2, A, born=2)
    assert agent.look([pod("a", A)], [former, own], [veth(8, 1), veth(9, 2)]) == {"a": AMBIGUOUS}
    assert agent.look([pod("a", A)], [former], [veth(8, 1)]) == {"a": NOT_YET}  # the pod is gone, the news is late


def test_of_two_namespaces_with_one_address_the_one_left_may_be_a_pods_that_nobody_has_told_of(agent: Agent) -> None:
    """It took its neighbour's address, and the neighbour is gone; the news of both are late."""
    own, other = namespace(1, A, born=1), namespace(2, A, B, "fe80::2", born=2)
    links = [veth(8, 1), veth(9, 2)]
    assert agent.look([pod("a", A)], [own, other], links) == {"a": AMBIGUOUS}
    assert agent.look([pod("a", A)], [other], links[1:]) == {"a": NOT_YET}
    assert agent.look([pod("a", A), pod("b", B, created=9)], [other], links[1:]) == {"a": NOT_YET, "b": bound(9, 2)}


def test_addresses_of_one_pod_in_two_namespaces_are_ambiguous(agent: Agent) -> None:
    assert agent.look([pod("a", A, C)], [namespace(1, A), namespace(2, C)], [veth(8, 1)]) == {"a": AMBIGUOUS}


def test_an_address_used_again_while_its_last_holder_still_stands(agent: Agent) -> None:
    links = [veth(8, 1), veth(9, 2)]
    agent.look([pod("old", A)], [namespace(1, A)], links[:1])
    assert agent.look([pod("new", A, created=9)], [namespace(1, A)], links[:1]) == {"new": NOT_YET}
    assert agent.look([pod("newer", A, created=9)], [namespace(1, A), namespace(2, A)], links) == {"newer": bound(9, 2)}


def test_an_address_used_again_while_its_last_holder_is_still_told_of(agent: Agent) -> None:
    old, new = pod("old", A), pod("new", A, created=9)
    links = [veth(8, 1), veth(9, 2)]
    agent.look([old], [namespace(1, A)], links)
    assert agent.look([old], [], []) == {"old": NOT_YET}
    assert agent.look([old], [namespace(2, A)], links) == {"old": NOT_YET}
    assert agent.look([old, new], [namespace(2, A)], links) == {"old": NOT_YET, "new": bound(9, 2)}
    assert agent.look([new], [namespace(2, A)], links) == {"new": bound(9, 2)}


def test_a_pod_never_found_is_not_found_in_what_came_later(agent: Agent) -> None:
    """Its sandbox had gone before the first look; a namespace made since is somebody else's."""
    assert agent.look([pod("a", A)], [], []) == {"a": NOT_YET}
    assert agent.look([pod("a", A)], [namespace(1, A)], [veth(8, 1)]) == {"a": NOT_YET}
    agent.look([pod("a", A, ready=False)], [namespace(1, A)], [veth(8, 1)])
    assert agent.look([pod("a", A)], [namespace(1, A)], [veth(8, 1)]) == {"a": bound(8, 1)}


def test_a_pod_whose_namespace_has_gone_is_not_found_in_another_that_was_there_before(agent: Agent) -> None:
    links = [veth(8, 1), veth(9, 2)]
    agent.look([pod("a", A)], [namespace(1, A), namespace(2)], links)
    assert agent.look([pod("a", A)], [namespace(2, A)], links) == {"a": NOT_YET}
    assert agent.last is not None
    assert not agent.last.waits


def test_the_bound_pod_keeps_its_namespace_when_another_claims_the_address(agent: Agent) -> None:
    world = [namespace(1, A)], [veth(8, 1)]
    agent.look([pod("old", A)], *world)
    assert agent.look([pod("old", A), pod("new", A, created=9)], *world) == {"old": bound(8, 1), "new": NOT_YET}
    assert agent.look([pod("new", A, created=9)], *world) == {"new": NOT_YET}


def test_of_two_that_were_never_bound_the_newer_has_the_address() -> None:
    world = [namespace(1, A)], [veth(8, 1)]
    assert Agent().look([pod("new", A, created=9), pod("old", A)], *world) == {"new": bound(8, 1), "old": NOT_YET}
    assert Agent().look([pod("x", A), pod("y", A)], *world) == {"x": NOT_YET, "y": NOT_YET}


def test_a_restarted_sandbox_with_the_same_address(agent: Agent) -> None:
    links = [veth(8, 1), veth(9, 2)]
    agent.look([pod("a", A)], [namespace(1, A)], links[:1])
    agent.look([pod("a", A, ready=False)], [namespace(2)], links)
    assert agent.look([pod("a", A)], [namespace(2, A)], links) == {"a": bound(9, 2)}


def test_a_restarted_sandbox_with_the_same_address_that_nobody_saw_unready(agent: Agent) -> None:
    """The API server was away meanwhile: only the time since when it is ready tells."""
    first, second = replace(pod("a", A), sandbox_since="1"), replace(pod("a", A), sandbox_since="2")
    assert agent.look([first], [namespace(1, A)], [veth(8, 1)]) == {"a": bound(8, 1)}
    assert agent.look([first], [namespace(2, A)], [veth(9, 2)]) == {"a": NOT_YET}
    assert agent.look([second], [namespace(2, A)], [veth(9, 2)]) == {"a": bound(9, 2)}


def test_a_restarted_sandbox_with_another_address_while_the_first_still_stands(agent: Agent) -> None:
    links = [veth(8, 1), veth(9, 2)]
    agent.look([pod("a", A)], [namespace(1, A)], links[:1])
    assert agent.look([pod("a", B)], [namespace(1, A), namespace(2, B)], links) == {"a": bound(9, 2)}
    assert agent.look([pod("a", B), pod("b", A)], [namespace(1, A), namespace(2, B)], links)["b"] == NOT_YET


def test_a_neighbours_address_on_a_pods_own_device_takes_nothing(agent: Agent) -> None:
    pods, links = [pod("victim", A), pod("hostile", B)], [veth(8, 1), veth(9, 2)]
    both = {"victim": bound(8, 1), "hostile": bound(9, 2)}
    agent.look(pods, [namespace(1, A), namespace(2, B)], links)
    assert agent.look(pods, [namespace(1, A), namespace(2, B, A)], links) == both
    assert agent.look(pods, [namespace(2, B, A)], links)["victim"] == NOT_YET
    assert Agent().look(pods, [namespace(1, A), namespace(2, B, A)], links) == both  # a new agent sorts them out
    assert Agent().look(pods, [namespace(1, A), namespace(2, A)], links) == {"victim": AMBIGUOUS, "hostile": NOT_YET}
    assert Agent().look(pods, [namespace(2, A, B)], links) == {"victim": NOT_YET, "hostile": NOT_YET}


def test_a_glance_finds_a_pod_by_links_of_the_last_look(agent: Agent) -> None:
    for found in ({"a": Binding((), "NotYet", 4026532001)}, {"a": bound(7, 1)}):
        agent.look([pod("a")], [namespace(1, A)], [veth(7, 1)])
        assert Agent.glance(copy(agent), [pod("a", A)], [namespace(1, A)]) == found


def test_a_glance_knows_no_links_of_what_came_since(agent: Agent) -> None:
    """The nsid is that of a namespace that has gone: its veth is nobody's."""
    agent.look([pod("a", A)], [namespace(1, A)], [veth(7, 1)])
    assert agent.glance([pod("b", B)], [namespace(2, B, nsid=1)]) == {"b": Binding((), "NotYet", 4026532002)}
    assert agent.look([pod("b", B)], [namespace(2, B, nsid=1)], [veth(8, 1)]) == {"b": bound(8, 2)}


def test_an_inode_used_again_is_another_namespace(agent: Agent) -> None:
    agent.look([pod("old", A)], [namespace(1, A, born=1)], [veth(8, 1)])
    assert agent.look([pod("new", B)], [namespace(1, B, born=2)], [veth(9, 1)]) == {"new": bound(9, 1)}


def test_a_namespace_that_cannot_be_asked_binds_nobody_anew(agent: Agent) -> None:
    links = [veth(8, 1), veth(9, 2), veth(10, 3)]
    agent.look([pod("a", A)], [namespace(1, A)], links)
    silent = replace(namespace(2), addresses=None)
    pods = [pod("a", A), pod("b", B)]
    found = agent.look(pods, [replace(namespace(1), addresses=None), silent, namespace(3, B)], links)
    assert found == {"a": bound(8, 1), "b": NOT_YET}
    assert agent.last is not None
    assert agent.last.waits
    assert agent.look(pods, [namespace(1), namespace(2), namespace(3, B)], links)["b"] == bound(10, 3)


def test_who_is_bound_stays_so_while_nothing_can_be_looked_at(agent: Agent) -> None:
    pods = [pod("a", A), pod("b", B), pod("h", "192.168.0.1", host=True)]
    agent.look(pods[:2], [namespace(1, A), namespace(2, B)], [veth(8, 1), veth(9, 2)])
    found = agent.look([*pods, pod("d", "10.244.0.9")], None, [veth(8, 1)])
    assert found["a"] == bound(8, 1)
    assert found["b"].interfaces == ()
    assert (found["d"], found["h"]) == (NOT_YET, Binding((), "HostNetwork"))
    found = agent.look(pods, [namespace(1, A), namespace(2, B)], [veth(8, 1), veth(9, 2)])
    assert (found["a"], found["b"]) == (bound(8, 1), bound(9, 2))


@pytest.mark.parametrize(("new", "limit_s"), [(0, 0.005), (1, 0.010)])
def test_250_pods_are_quick(new: int, limit_s: float) -> None:
    count = 250
    pods = [pod(f"u{n}", f"10.244.1.{n}") for n in range(count)]
    world = [namespace(n, f"10.244.1.{n}") for n in range(count)], [veth(n + 1, n) for n in range(count)]
    former = bind(pods[: count - new], *world).owners
    durations = []
    for _ in range(10):
        start = time.perf_counter()
        found = bind(pods, *world, former)
        durations.append(time.perf_counter() - start)
    assert all(binding.interfaces for binding in found.bindings.values())
    assert min(durations) < limit_s


# A runtime at work, and an API server that tells of it late.


@dataclass
class Sandbox:
    """A network namespace; `uid` is whose it truly is."""

    uid: str
    address: str
    number: int
    born: int
    veth: int
    addresses: set[str] = field(default_factory=set)
    alive: bool = True
    """False: stopped, its address is free, its namespace not gone yet."""
    heard: bool = False
    """The agent was told of it. A sandbox outlives the news of it."""


class Runtime:
    """Pods of one node, the smallest numbers and addresses first. News of them lie in a queue until they are told."""

    def __init__(self) -> None:
        self.now = 0
        self.created: dict[str, int] = {}
        self.sandboxes: list[Sandbox] = []
        self.news: list[tuple[str, Pod | None, Sandbox | None]] = []
        self.view: dict[str, Pod] = {}
        self.agent = Agent()
        self.veths = 1
        self.hostile = ""
        self.missed: set[str] = set()
        """Whose sandbox was made anew with the same address, told of in one piece: not to be told from the first."""

    def living(self, uid: str) -> Sandbox | None:
        return next((box for box in self.sandboxes if box.uid == uid and box.alive), None)

    def report(self, uid: str) -> None:
        box = self.living(uid)
        created = self.created.get(uid)
        told = None if created is None else pod(uid, *([box.address] if box else []), ready=bool(box), created=created)
        self.news.append((uid, told, box))

    def create(self) -> None:
        uid = f"p{self.now}"
        self.created[uid] = self.now % 60
        self.report(uid)

    def arrive(self) -> None:
        """A pod that has an address at once; the news may take a while."""
        self.create()
        self.start(f"p{self.now}")

    def uid(self, number: int) -> str:
        """One of the pods, new ones first."""
        return (sorted(self.created, key=lambda uid: -int(uid[1:])) or ["nobody"])[number % max(len(self.created), 1)]

    def start(self, uid: str) -> None:
        used = {box.address for box in self.sandboxes if box.alive}
        free = [address for address in (A, B) if address not in used]
        if uid not in self.created or self.living(uid) or not free:
            return
        numbers = {box.number for box in self.sandboxes}
        number = next(n for n in range(99) if n not in numbers)
        self.veths += 1
        self.sandboxes.append(Sandbox(uid, free[0], number, self.now, self.veths, {free[0]}))
        self.look()  # the namespace is there before anybody is told
        self.report(uid)

    def stop(self, uid: str, keep: bool) -> None:
        """keep: the namespace stands a while, with its address; not with those that a hostile pod has made up."""
        box = self.living(uid)
        if box and box.heard:
            box.alive = False
            if not keep or uid == self.hostile:
                self.sandboxes.remove(box)
            self.report(uid)

    def delete(self, uid: str, keep: bool) -> None:
        self.stop(uid, keep)
        if uid in self.created and not self.living(uid):
            del self.created[uid]
            self.report(uid)

    def clear(self) -> None:
        self.sandboxes = [box for box in self.sandboxes if box.alive]

    def lie(self, uid: str, address: str) -> None:
        """One pod at a time is hostile: two could keep each other from being found, and nobody else."""
        if (box := self.living(uid)) and self.hostile not in self.created.keys() - {uid}:
            self.hostile = uid
            box.addresses.add(address)

    def tell(self, count: int) -> None:
        news, self.news = self.news[:count], self.news[count:]
        for uid, told, box in news:
            self.view.pop(uid, None)
            if told:
                self.view[uid] = told
            if box:
                box.heard = True
        if count > 1:
            self.missed |= {uid for uid, _, _ in news}

    def restart(self) -> None:
        """A new agent; it lists."""
        self.tell(len(self.news))
        self.agent, self.missed = Agent(), set()

    def look(self) -> None:
        """What is bound is truly the pod's: the one rule."""
        namespaces = [namespace(box.number, *box.addresses, born=box.born) for box in self.sandboxes]
        found = self.agent.look(list(self.view.values()), namespaces, [veth(b.veth, b.number) for b in self.sandboxes])
        whose = {box.veth: box.uid for box in self.sandboxes}
        for uid, binding in found.items():
            assert {whose[index] for index in binding.interfaces} <= {uid}, found

    def glance(self) -> None:
        """The same, with links of a former look; those that are gone are nobody's."""
        namespaces = [namespace(box.number, *box.addresses, born=box.born) for box in self.sandboxes]
        found = self.agent.glance(list(self.view.values()), namespaces)
        whose = {box.veth: box.uid for box in self.sandboxes}
        for uid, binding in found.items():
            assert {whose.get(index, uid) for index in binding.interfaces} <= {uid}, found

    def settle(self) -> None:
        """Once all is told and gone that is going, each living pod is bound to what is its own; who lies may not be."""
        while self.news:
            self.tell(1)
            self.look()
        self.clear()
        for _ in range(2):
            self.look()
        assert self.agent.last is not None
        for uid in self.view:
            box = self.living(uid)
            binding = self.agent.last.bindings[uid]
            if box and uid != self.hostile and self.missed.isdisjoint({uid, self.hostile}):
                assert binding.interfaces == (box.veth,), (uid, binding)


PODS = st.integers(0, 2)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["create", "arrive", "arrive"])),
    st.tuples(st.just("start"), PODS),
    st.tuples(st.just("tell"), st.sampled_from([1, 2, 2, 9])),
    st.tuples(st.sampled_from(["stop", "delete"]), PODS, st.booleans()),
    st.tuples(st.just("lie"), PODS, st.sampled_from([A, B])),
    st.tuples(st.just("tell"), st.sampled_from([1, 1, 2])),
    st.tuples(st.sampled_from(["clear", "restart"])),
)
UNTOLD = [("create",), ("start", 0), ("arrive",), ("tell", 1), ("lie", 0, A), ("tell", 1), ("stop", 1, False)]
"""Who lies is not told of yet when the neighbour goes."""


@settings(max_examples=500)
@example([((*step,), False) for step in UNTOLD])
@given(st.lists(st.tuples(STEPS, st.booleans()), max_size=40))
def test_never_a_veth_that_is_anothers_and_in_the_end_ones_own(steps: list[tuple[tuple[Any, ...], bool]]) -> None:
    runtime = Runtime()
    for (name, *arguments), glance in steps:
        runtime.now += 1
        if name in ("start", "stop", "delete", "lie"):
            arguments[0] = runtime.uid(arguments[0])
        getattr(runtime, name)(*arguments)
        runtime.glance()
        if not glance:
            runtime.look()
    runtime.settle()
