"""The roll-up is told one change at a time: whatever the order, it says what one that is told all at once says."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sniffer.plan.nodes import AGENT_GRACE
from tests.rollup import NOW, World, cluster_mirror, identity_of, mirror, pod, target

LABELS = st.sampled_from([{}, {"app": "web"}, {"app": "db"}, {"app": "web", "tier": "a"}])
NAMESPACES = ("shop", "bank", "kube-system")
NODES = ("n1", "n2")
SERVICE = {"service": {"namespace": "ids", "name": "zeek"}}
TEAMS = [None, {}, {"team": "a"}, {"team": "a", "sniffer.dev/protected": ""}]

MIRRORS: list[Callable[[int], dict[str, Any]]] = [
    lambda n: mirror("m", "shop", n),
    lambda n: mirror("m", "bank", n, podSelector={}),
    lambda n: mirror("m", "shop", n, podSelector={"matchLabels": {"app": "db"}}),
    lambda n: mirror("m", "shop", n, snapLength=1),
    lambda n: cluster_mirror("c", n, podSelector={"matchLabels": {"app": "web"}}),
    lambda n: cluster_mirror("c", n, namespaceSelector={"matchLabels": {"team": "a"}}, nodeSelector={"pool": "x"}),
    lambda n: cluster_mirror("c", n, podSelector={}, includeProtectedNamespaces=True, suspend=n % 2 == 0),
    lambda n: cluster_mirror("c", n, interfaces=["eth0"], nodeSelector={"pool": "x"}),
]
TARGETS: list[Callable[[], dict[str, Any]]] = [
    target,
    lambda: target(endpoints=[SERVICE]),
    lambda: target(allowedNamespaces={"matchLabels": {"team": "a"}}),
    lambda: target(suspend=True),
    lambda: target(encapsulation={}),
]

CHANGES = st.one_of(
    st.tuples(
        st.just("pod"),
        st.sampled_from(NAMESPACES),
        st.sampled_from("ab"),
        LABELS,
        st.sampled_from(NODES),
        st.booleans(),
    ),
    st.tuples(st.just("no pod"), st.sampled_from(NAMESPACES), st.sampled_from("ab")),
    st.tuples(st.just("namespace"), st.sampled_from(NAMESPACES), st.sampled_from(TEAMS)),
    st.tuples(st.just("node"), st.sampled_from(NODES), st.sampled_from([None, {}, {"pool": "x"}]), st.booleans()),
    st.tuples(st.just("agent"), st.sampled_from(NODES), st.booleans()),
    st.tuples(st.just("mirror"), st.sampled_from(range(len(MIRRORS)))),
    st.tuples(st.just("no mirror"), st.sampled_from(range(len(MIRRORS)))),
    st.tuples(st.just("target"), st.sampled_from(range(len(TARGETS)))),
    st.tuples(st.just("no target")),
    st.tuples(st.just("service"), st.sampled_from([None, (), ("10.0.9.5",), ("10.0.9.7", "10.0.9.6")])),
    st.tuples(st.just("report"), st.sampled_from(NODES), st.sampled_from(["Programmed", "Degraded", "Clean"])),
)


class Twin:
    """The state as it is, and a roll-up that has been told of every step."""

    def __init__(self) -> None:
        self.world = World()
        self.facts: dict[tuple[Any, ...], Callable[[World], None]] = {}
        self.objects: dict[Any, dict[str, Any]] = {}
        self.generation = 0
        self.said: dict[Any, Any] = {}

    def step(self, change: tuple[Any, ...]) -> None:
        what, *rest = change
        getattr(self, what.replace(" ", "_"))(*rest)

    def fact(self, key: tuple[Any, ...], tell: Callable[[World], None], keep: bool = True) -> None:
        self.facts.pop(key, None)
        if keep:
            self.facts[key] = tell
        tell(self.world)

    def pod(self, namespace: str, name: str, labels: dict[str, str], node: str, host: bool) -> None:
        item = pod(name, node, namespace, labels, host_network=host)
        self.fact(("pod", namespace, name), lambda world: world.put(item))

    def no_pod(self, namespace: str, name: str) -> None:
        self.fact(("pod", namespace, name), lambda world: world.rollup.pod((namespace, name), None), keep=False)

    def namespace(self, name: str, labels: dict[str, str] | None) -> None:
        self.fact(("namespace", name), lambda world: world.rollup.namespace(name, labels), labels is not None)

    def node(self, name: str, labels: dict[str, str] | None, analyzer: bool) -> None:
        addresses = frozenset({"10.0.9.5"} if analyzer and labels is not None else ())
        self.fact(("node", name), lambda world: world.rollup.node(name, labels, addresses), labels is not None)

    def agent(self, node: str, alive: bool) -> None:
        self.fact(("agent", node), lambda world: world.agent(node, alive))

    def put(self, item: dict[str, Any]) -> None:
        self.generation += 1
        item["metadata"]["generation"] = self.generation
        self.objects[identity_of(item)] = item
        self.fact((identity_of(item),), lambda world: world.put(item))

    def mirror(self, number: int) -> None:
        self.put(MIRRORS[number](self.generation + 1))

    def no_mirror(self, number: int) -> None:
        identity = identity_of(MIRRORS[number](1))
        self.objects.pop(identity, None)
        self.fact((identity,), lambda world: world.rollup.mirror(identity, None), keep=False)

    def target(self, number: int) -> None:
        self.put(TARGETS[number]())

    def no_target(self) -> None:
        identity = identity_of(target())
        self.objects.pop(identity, None)
        self.fact((identity,), lambda world: world.rollup.target("zeek", None), keep=False)

    def service(self, addresses: tuple[str, ...] | None) -> None:
        ready = None if addresses is None else frozenset(addresses)
        self.fact(("service",), lambda world: world.rollup.service(("ids", "zeek"), ready))

    def report(self, node: str, state: str) -> None:
        mirrors = [item for item in self.objects.values() if item["kind"] != "MirrorTarget"]
        clean = state == "Clean"
        self.fact(
            ("report", node),
            lambda world: world.report(node, *mirrors, clean=clean, state="Programmed" if clean else state),
        )

    def check(self) -> None:
        fresh = World()
        for tell in self.facts.values():
            tell(fresh)
        later = NOW + AGENT_GRACE + timedelta(seconds=1)
        self.world.rollup.tick(later)
        for identity, item in self.objects.items():
            status = self.world.status(item, later)
            assert status == fresh.status(item, later), identity
            before = self.said.get(identity)
            assert status == before or identity in self.world.rollup.dirty, f"{identity} changed and nobody was told"
            self.said[identity] = status
        self.world.rollup.dirty.clear()


START: list[tuple[Any, ...]] = [
    ("target", 0),
    *(("namespace", name, {"team": "a"}) for name in NAMESPACES),
    *(("node", name, {"pool": "x"}, False) for name in NODES),
    *(("agent", name, True) for name in NODES),
    *(("mirror", number) for number in (0, 1, 4, 7)),
    *(("pod", namespace, "a", {"app": "web"}, "n1", False) for namespace in NAMESPACES),
    *(("report", name, "Programmed") for name in NODES),
]


@settings(max_examples=100)
@given(st.lists(st.lists(CHANGES, min_size=1, max_size=4), min_size=1, max_size=10))
def test_a_change_touches_all_that_it_concerns(rounds: list[list[tuple[Any, ...]]]) -> None:
    twin = Twin()
    for changes in [START, *rounds]:
        for change in changes:
            twin.step(change)
        twin.check()
