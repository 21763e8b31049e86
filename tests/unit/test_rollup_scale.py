"""5,000 nodes, 1,000 mirrors, 20,000 pods: what a change costs, and how much is written.

Times are of the processor, and bounded generously; what the bounds would catch is a change that
costs all mirrors times all pods, or all mirrors times all nodes.
"""

import random
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from sniffer.model.identity import Identity
from sniffer.plan.jitter import jitter_s
from sniffer.plan.said import condition
from sniffer.plan.schedule import EVERY_S, WRITES_PER_S, Pace, Schedule
from tests.rollup import NOW, World, cluster_mirror, identity_of, mirror, pod, target

NODES, NAMESPACES, MIRRORS_OF_NODES, PODS_OF_APP = 5_000, 99, 10, 20
APPS = 10
"""With a mirror each, in every namespace: 990 mirrors of 20 pods, and 10 of all pods."""


LIMIT_MS = 100


class Fleet:
    """The world, its objects, and what every node has to report."""

    def __init__(self) -> None:
        self.world = World()
        self.mirrors: dict[Identity, dict[str, Any]] = {}
        self.on: dict[str, set[Identity]] = {f"n{n}": set() for n in range(NODES)}
        self.world.put(target())
        for node in self.on:
            self.world.node(node, {"pool": "edge"})
        chosen = random.Random(1)
        for space in range(NAMESPACES):
            self.world.rollup.namespace(f"s{space}", {})
            for app in range(APPS):
                labels = {"app": f"a{app}", "pod-template-hash": f"h{app}"}
                web = mirror(f"m{app}", f"s{space}", podSelector={"matchLabels": {"app": f"a{app}"}}, filter="tcp")
                self.mirrors[identity_of(web)] = web
                for number in range(PODS_OF_APP):
                    node = f"n{chosen.randrange(NODES)}"
                    self.on[node].add(identity_of(web))
                    self.world.put(pod(f"p{app}-{number}", node, f"s{space}", labels))
        for number in range(MIRRORS_OF_NODES):
            edge = cluster_mirror(f"c{number}", interfaces=["eth0"])
            self.mirrors[identity_of(edge)] = edge
            for concerned in self.on.values():
                concerned.add(identity_of(edge))
        self.world.put(*self.mirrors.values())

    def report(self, node: str) -> None:
        self.world.report(node, *(self.mirrors[identity] for identity in self.on[node]))

    def edit(self) -> None:
        """A new generation of every mirror."""
        for item in self.mirrors.values():
            item["metadata"]["generation"] += 1
            item["spec"]["filter"] = f"tcp port {item['metadata']['generation']}"
        self.world.put(*self.mirrors.values())


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet()


def test_a_full_pass_and_single_changes(fleet: Fleet) -> None:
    rollup = fleet.world.rollup
    for node in fleet.on:
        fleet.report(node)
    began_s = time.process_time()
    for identity in fleet.mirrors:
        assert rollup.outcome(identity, {}, NOW)
    assert time.process_time() - began_s < 8, "a full pass"

    def cost_ms(change: Any, touches: int) -> float:
        rollup.dirty.clear()
        began_s = time.process_time()
        change()
        spent_ms = (time.process_time() - began_s) * 1000
        assert len(rollup.dirty) == touches, rollup.dirty
        return spent_ms

    labels = {"app": "a1"}
    assert cost_ms(lambda: fleet.world.put(pod("new", "n7", "s7", labels)), 1) < LIMIT_MS
    assert cost_ms(lambda: fleet.world.put(pod("new", "n7", "s7", {})), 1) < LIMIT_MS
    assert cost_ms(lambda: rollup.pod(("s7", "new"), None), 0) < LIMIT_MS
    fleet.world.agent("n7", alive=False)
    concerned = len(fleet.on["n7"])
    assert cost_ms(lambda: rollup.tick(NOW + timedelta(seconds=11)), concerned) < LIMIT_MS
    assert cost_ms(lambda: fleet.world.agent("n7"), concerned) < LIMIT_MS
    assert cost_ms(lambda: fleet.world.report("n7"), concerned) < LIMIT_MS
    assert cost_ms(lambda: rollup.node("n9", {"pool": "core"}), MIRRORS_OF_NODES) < LIMIT_MS
    assert cost_ms(lambda: rollup.namespace("s7", {"team": "a"}), APPS) < LIMIT_MS


def test_writes_grow_as_nodes_and_mirrors_not_as_their_product(fleet: Fleet) -> None:
    """F10: every mirror is edited at once; every node reports once, over the jitter that the controller publishes."""
    world, rollup = fleet.world, fleet.world.rollup
    for node in fleet.on:
        world.agent(node)
        fleet.report(node)
    spread_s = jitter_s(NODES)
    chosen = random.Random(2)
    due = sorted((chosen.uniform(0, spread_s), node) for node in fleet.on)
    stored: dict[Identity, dict[str, Any]] = {}
    for identity in fleet.mirrors:
        outcome = rollup.outcome(identity, {}, NOW)
        assert outcome
        stored[identity] = dict(outcome.status)
    fleet.edit()
    schedule, pace = Schedule(), Pace()
    for identity in fleet.mirrors:
        schedule.unchanged(identity, 1)
    writes: Counter[int] = Counter()
    now_s, reports = 0.0, 0
    while due or len(schedule) or rollup.dirty:
        while due and due[0][0] <= now_s:
            fleet.report(due.pop(0)[1])
            reports += 1
        for identity in rollup.dirty & fleet.mirrors.keys():
            schedule.mark(identity, fleet.mirrors[identity]["metadata"]["generation"], now_s)
        rollup.dirty.clear()
        now_s = max(now_s + 0.001, pace.next_s) if (identity := schedule.take(now_s)) else now_s + 0.1
        if identity:
            now = NOW + timedelta(seconds=now_s)
            outcome = rollup.outcome(identity, stored[identity], now)
            assert outcome
            generation = fleet.mirrors[identity]["metadata"]["generation"]
            if outcome.status == stored[identity]:
                schedule.unchanged(identity, generation)
                continue
            stored[identity] = dict(outcome.status)
            schedule.wrote(identity, generation, now_s)
            pace.spend(now_s)
            writes[int(now_s)] += 1
    assert reports == NODES
    assert all(condition(status, "Ready")["status"] == "True" for status in stored.values())
    pairs = sum(map(len, fleet.on.values()))
    total = writes.total()
    # An edit and the end of it, and one in ten seconds between; and never more than the pace allows.
    assert total <= len(fleet.mirrors) * (2 + spread_s / EVERY_S)
    assert total <= (now_s + 1) * WRITES_PER_S
    assert total < pairs / 5
    assert max(writes.values()) <= 50
    assert now_s < spread_s + 60
