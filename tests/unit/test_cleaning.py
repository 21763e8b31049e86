"""Who is told to clean, who leaves a node for good, and how far a cluster is clean: from what the API server has."""

from pathlib import Path
from typing import Any

import pytest

from sniffer.model.node import NodeStatus
from sniffer.plan.cleaning import Progress, progress
from sniffer.plan.departure import leaves
from sniffer.plan.order import clean_order, order_of
from sniffer.plan.report import clean_report

Object = dict[str, Any]


def config_map(uid: str = "u1", **data: str) -> Object:
    return {"metadata": {"name": "sniffer-order", "uid": uid}, "data": data}


@pytest.mark.parametrize(
    ("found", "order"),
    [
        ({"metadata": {"uid": "u1"}}, None),
        (config_map(), None),
        (config_map(revision="3"), None),
        (config_map(revision="3", clean=""), None),
        (config_map(revision="3", clean="3"), "u1/3"),
        (config_map(revision="4", clean="3"), None),
        (config_map(clean="yes"), "u1/yes"),
        (config_map(uid="u2", revision="3", clean="3"), "u2/3"),
    ],
)
def test_an_order_counts_for_one_revision_of_one_release(found: Object, order: str | None) -> None:
    assert order_of(found) == order


@pytest.mark.parametrize("found", [{}, config_map(), config_map(revision="7"), config_map(revision="7", clean="6")])
def test_what_is_ordered_is_in_force(found: Object) -> None:
    data = {**(found.get("data") or {}), **clean_order(found)}
    assert order_of({"metadata": {"uid": "u"}, "data": data})


def test_what_is_said_is_what_the_definition_takes() -> None:
    said = clean_report("0.1.0", f"{'u' * 36}/12")
    assert said == {"state": "Clean", "order": f"{'u' * 36}/12", "version": "0.1.0", "mirrors": []}
    assert NodeStatus.model_validate(said, by_alias=True).order
    assert "order" not in clean_report("0.1.0")
    assert len(order_of(config_map(clean="9" * 500)) or "") <= 127


OWNER = {"kind": "DaemonSet", "name": "sniffer-agent", "uid": "d", "controller": True}
NOT_READY = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}


def pod(ends: bool = True, *tolerations: Object) -> Object:
    metadata = {"ownerReferences": [OWNER], **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if ends else {})}
    return {"metadata": metadata, "spec": {"tolerations": [NOT_READY, *tolerations]}}


def daemon_set(uid: str = "d", ends: bool = False, **selector: str) -> Object:
    metadata = {"uid": uid, **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if ends else {})}
    return {"metadata": metadata, "spec": {"template": {"spec": {"nodeSelector": selector} if selector else {}}}}


def node(*taints: Object, **labels: str) -> Object:
    return {"metadata": {"labels": labels}, "spec": {"taints": list(taints)} if taints else {}}


def taint(key: str = "gpu", effect: str = "NoExecute", **value: str) -> Object:
    return {"key": key, "effect": effect, **value}


@pytest.mark.parametrize(
    ("own", "wanted_by", "on", "expected"),
    [
        (pod(), daemon_set(), node(), False),  # a hand-over
        (pod(ends=False), None, None, False),  # only the container ends
        (pod(), None, node(), True),
        (pod(), daemon_set(ends=True), node(), True),
        (pod(), daemon_set(uid="another"), node(), True),
        (pod(), daemon_set(), None, True),
        (pod(), daemon_set(mirror="yes"), node(mirror="yes", os="linux"), False),
        (pod(), daemon_set(mirror="yes"), node(mirror="no"), True),
        (pod(), daemon_set(mirror="yes"), node(), True),
        (pod(), daemon_set(), node(taint()), True),
        (pod(), daemon_set(), node(taint(effect="NoSchedule")), False),
        (pod(), daemon_set(), node(taint(NOT_READY["key"])), False),
        (pod(True, {"operator": "Exists"}), daemon_set(), node(taint(value="a")), False),
        (pod(True, {"key": "gpu", "value": "a"}), daemon_set(), node(taint(value="a")), False),
        (pod(True, {"key": "gpu", "value": "a"}), daemon_set(), node(taint(value="b")), True),
        (pod(True, {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}), daemon_set(), node(taint()), True),
    ],
)
def test_who_leaves_for_good(own: Object, wanted_by: Object | None, on: Object | None, expected: bool) -> None:
    assert leaves(own, wanted_by, on) is expected


def agent(place: str, ready: bool = True) -> Object:
    labels = {"app.kubernetes.io/name": "sniffer", "app.kubernetes.io/component": "agent"}
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {"metadata": {"labels": labels}, "spec": {"nodeName": place}, "status": {"conditions": conditions}}


def machine(name: str, ready: str = "True") -> Object:
    return {"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}


def report(name: str, state: str, order: str | None = None) -> Object:
    return {"metadata": {"name": name}, "status": {"state": state, **({"order": order} if order else {})}}


def test_how_far_a_cluster_is() -> None:
    agents = [agent("told"), agent("late"), agent("old"), agent("new"), agent("ill", ready=False), agent("dead")]
    machines = [machine(name) for name in ("told", "late", "old", "new", "ill", "left", "stays")]
    machines.append(machine("dead", "Unknown"))
    reports = [
        report("told", "Clean", "u/2"),
        report("late", "Running"),
        report("old", "Clean", "u/1"),  # of an order before
        report("ill", "Clean"),
        report("dead", "Clean", "u/1"),
        report("left", "Clean"),
        report("stays", "Running"),
        report("gone", "Running"),
    ]
    assert progress("u/2", agents, machines, reports) == Progress(
        clean=("left", "told"),
        waits={
            "late": "its agent has not said so",
            "old": "its agent has not said so",
            "new": "its agent has not said so",
            "ill": "its agent is not Ready",
        },
        lost={"dead": "the node is not Ready", "stays": "no agent runs there any more"},
    )
    assert progress("u/2", [], [], []) == Progress((), {}, {})


def test_nothing_of_ours_holds_what_is_deleted() -> None:
    """F8: no finalizer in what we write, and no right to any: an object, or its namespace, would wait for us."""
    root = Path(__file__).parents[2]
    written = [*(root / "sniffer").rglob("*.py"), *(root / "deploy").rglob("*.yaml")]
    found = {str(path.relative_to(root)) for path in written if "finalizers" in path.read_text()}
    assert found == {"sniffer/model/base.py"}, "which knows the field in what people write"
