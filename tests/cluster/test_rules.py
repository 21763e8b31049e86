"""Every alert and every query of the dashboard, evaluated by promtool over series that the collectors made."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, generate_latest

from sniffer.metrics.controller import ControllerCollector
from sniffer.metrics.node import AgentCollector, Loop
from sniffer.stats.rows import DROPS, LOSSES
from tests.cluster.recording import AGENT, FIGURES, FIRST, SECOND, Series, changed, promtool, recorded, samples
from tests.unit.test_rows import a_look, tallies

FILES = Path(__file__).parents[2] / "deploy/helm/sniffer/files"
ALERTS = FILES / "alerts.yaml"
RULES = {rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
MIRROR = {"kind": "ClusterTrafficMirror", "mirror": "replay"}
OF_AGENT = {"instance": AGENT, "job": "sniffer-agent"}
OF_CONTROLLER = {"instance": FIRST, "job": "sniffer-controller"}
STOPPED = "0 60 120 180 240 300+0x25"
"""A time stamp that stands still after five minutes."""


@dataclass(frozen=True)
class Case:
    """What becomes of the series, and what is said of it after `minute`."""

    changes: Mapping[str, str | None]
    labels: Mapping[str, str]
    summary: str
    description: str | None = None
    minute: int = 29
    spared: Mapping[str, str | None] = field(default_factory=dict)
    """Changes that come near and mean nothing."""


CASES = {
    "SnifferAgentDown": Case(
        {"up{ sniffer-agent": "1x10 0x20"},
        OF_AGENT,
        f"The agent at {AGENT} does not answer.",
        spared={"up{ sniffer-agent": "1x27 0 1"},
    ),
    "SnifferAgentsAbsent": Case(
        {"up{ sniffer-agent": "1x10 stale"},
        {"job": "sniffer-agent"},
        "No agent is there at all.",
        spared={"up{ sniffer-agent": "0x30"},
    ),
    "SnifferLeasesNotRenewed": Case(
        {"sniffer_agent_source_fresh": "1x10 0x20"}, OF_AGENT, f"The agent at {AGENT} renews no leases."
    ),
    "SnifferMirrorLeaseEnded": Case(
        {"sniffer_mirrors": None, 'sniffer_mirrors{%s, state="Suspended", reason="LeaseEnded"}': "1x30"},
        {**OF_AGENT, **MIRROR},
        f"Mirror /replay copies nothing at {AGENT}.",
        spared={"sniffer_mirrors": None, 'sniffer_mirrors{%s, state="Suspended", reason="Suspended"}': "1x30"},
    ),
    "SnifferAPIStale": Case(
        {"api_last_contact": STOPPED},
        OF_AGENT,
        f"The agent at {AGENT} does not follow the API server.",
        "Something that it watches was last heard of 24m 0s ago; a quiet cluster is heard once a minute.",
        spared={"api_last_contact": "0 0+60x29"},
    ),
    "SnifferDrops": Case(
        {'frames_total outcome="sent"': "0+540x30", 'reason="no_route" frames_total': "0+60x30"},
        {**OF_AGENT, **MIRROR, "reason": "no_route"},
        f"Mirror /replay drops 10% at {AGENT} (no_route).",
        spared={'frames_total outcome="sent"': "0+300x30", 'reason="sampled_out" frames_total': "0+300x30"},
    ),
    "SnifferCopiesLost": Case(
        {'lost_packets_total reason="stale"': "0+33x30"},
        {**OF_AGENT, **MIRROR},
        f"Mirror /replay loses copies behind the relay at {AGENT}.",
        "5% of what goes to the uplink.",
        spared={'lost_packets_total reason="stale"': "0+6x30"},
    ),
    "SnifferEndpointUnreachable": Case(
        {
            "sniffer_endpoints": None,
            'sniffer_endpoints{instance="a", target="ana", address="10.9.0.2", state="no_route"}': "1x30",
            'sniffer_endpoints{instance="b", target="ana", address="10.9.0.2", state="no_route"}': "1x30",
        },
        {"target": "ana", "address": "10.9.0.2", "state": "no_route"},
        "The analyzer 10.9.0.2 of target ana is not reached from 2 nodes (no_route).",
    ),
    "SnifferEndpointRejecting": Case(
        {
            "sniffer_endpoints": None,
            'sniffer_endpoints{instance="a", target="ana", address="10.9.0.2", state="rejecting"}': "1x30",
        },
        {"target": "ana", "address": "10.9.0.2"},
        "Copies for the analyzer 10.9.0.2 of target ana come back to 1 nodes as ICMP errors.",
    ),
    "SnifferHookMissing": Case(
        {"sniffer_hooks": None, 'sniffer_hooks{%s, interface="veth1", direction="egress", state="missing"}': "1x30"},
        {**OF_AGENT, "interface": "veth1", "direction": "egress"},
        f"No program of sniffer is on veth1 egress at {AGENT}.",
    ),
    "SnifferHookBypassed": Case(
        {'sniffer_hooks{%s, interface="veth1", direction="egress", state="bypassed"}': "1x30"},
        {**OF_AGENT, "interface": "veth1", "direction": "egress"},
        f"Another program runs before sniffer's on veth1 egress at {AGENT}.",
    ),
    "SnifferTableFull": Case(
        {'sniffer_table_entries table="mirrors"': "4000x30"},
        {**OF_AGENT, "table": "mirrors"},
        f"The map mirrors of {AGENT} is 97.66% full.",
        spared={'sniffer_table_entries table="mirrors"': "3600x30"},
    ),
    "SnifferMirrorDegraded": Case(
        {"sniffer_mirrors": None, 'sniffer_mirrors{%s, state="Degraded", reason="HookFull"}': "1x30"},
        {**OF_AGENT, **MIRROR, "reason": "HookFull"},
        f"Mirror /replay is Degraded at {AGENT} (HookFull).",
    ),
    "SnifferReconcileFails": Case(
        {"reconcile_errors": "0+60x30"},
        OF_AGENT,
        f"The agent at {AGENT} cannot do all that it should.",
        spared={"reconcile_errors": "0+1x30"},
    ),
    "SnifferLoopStuck": Case(
        {"last_turn first": STOPPED},
        OF_CONTROLLER,
        f"The loop of sniffer-controller at {FIRST} stands still.",
        "For 24m 0s. Leases of an agent's mirrors are not renewed meanwhile.",
    ),
    "SnifferControllerWithoutLeader": Case({"controller_leader": "0x30"}, {}, "No controller leads."),
    "SnifferControllerWritesFail": Case(
        {'writes_total outcome="failed" what="status" first': "0+90x30"},
        {**OF_CONTROLLER, "what": "status"},
        f"Most writes (status) of the controller at {FIRST} fail.",
        spared={'writes_total outcome="failed" what="status" first': "0+30x30"},
    ),
}
_AGENTS = f'instance="{AGENT}", job="sniffer-agent"'


def _changes(changes: Mapping[str, str | None]) -> dict[str, str | None]:
    """With the labels of the agent, and of the first controller, where the words above stand for them."""
    mirror = ', kind="ClusterTrafficMirror", mirror="replay"'
    return {
        key.replace("%s", _AGENTS + (mirror if "sniffer_mirrors" in key else "")).replace("first", FIRST): value
        for key, value in changes.items()
    }


def _asked(alert: str, case: Case | None, minute: int = 29) -> dict[str, Any]:
    """As promtool's `alert_rule_test`; case: None: it is quiet."""
    rule = RULES[alert]
    if case is None:
        expected = []
    else:
        said = {**rule["annotations"], "summary": case.summary}
        said["description"] = case.description or rule["annotations"]["description"]
        expected = [{"exp_labels": {**case.labels, **rule["labels"]}, "exp_annotations": said}]
    return {"alert_rule_test": [{"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": expected}]}


def test_every_alert_has_a_case() -> None:
    assert CASES.keys() == RULES.keys()


def test_the_rules_and_what_is_exposed_are_well_formed(prometheus: Path) -> None:
    """By Prometheus' own checks; its advice on names too."""
    subprocess.run([prometheus / "promtool", "check", "rules", ALERTS], check=True, capture_output=True)
    counters = {5: tallies(matched=600, sent=600, wire=660)}
    loop = Loop(contact_s=0.0)
    for collector in (AgentCollector(lambda: a_look(counters=counters), loop), ControllerCollector(lambda: FIGURES)):
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        text = generate_latest(registry)
        done = subprocess.run([prometheus / "promtool", "check", "metrics"], input=text, capture_output=True)
        assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"")


def test_alerts_fire(prometheus: Path, tmp_path: Path) -> None:
    tests = [(name, changed(recorded(), _changes(case.changes)), _asked(name, case)) for name, case in CASES.items()]
    assert promtool(prometheus, tmp_path, ALERTS, tests) == ""


def test_alerts_are_quiet(prometheus: Path, tmp_path: Path) -> None:
    """While all is well, and where something is near."""
    every = [one for name in RULES for one in _asked(name, None)["alert_rule_test"]]
    tests: list[tuple[str, Series, dict[str, Any]]] = [("all is well", recorded(), {"alert_rule_test": every})]
    tests += [
        (f"{name}, nearly", changed(recorded(), _changes(case.spared)), _asked(name, None))
        for name, case in CASES.items()
        if case.spared
    ]
    tests += [
        (f"{name}, at first", changed(recorded(), _changes(case.changes)), _asked(name, None, minute=0))
        for name, case in CASES.items()
    ]
    assert promtool(prometheus, tmp_path, ALERTS, tests) == ""


def _labelled(values: Mapping[str, float], label: str, **others: str) -> list[tuple[str, float]]:
    return [(_words({label: name, **others}), value) for name, value in values.items()]


def _words(labels: Mapping[str, str]) -> str:
    inner = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{{{inner}}}"


def _one(value: float) -> list[tuple[str, float]]:
    return [("{}", value)]


_OF_MIRROR = _words({"mirror": "replay"})
_AT_AGENT = _words({"instance": AGENT})
_FULL = {"egress": 1 / 2048, "lists": 1 / 2048, "mirrors": 1 / 4096, "names": 4 / 8192, "tunnels": 1 / 1024}
PANELS: dict[str, list[list[tuple[str, float]]]] = {
    "Agents": [_one(1)],
    "Mirrors in force": [_one(1)],
    "Mirrors that are not as asked": [_one(0)],
    "Endpoints not reached": [_one(0)],
    "Hooks missing or bypassed": [_one(0)],
    "Controllers that lead": [_one(1)],
    "Matched frames": [[(_OF_MIRROR, 10)]],
    "To the uplinks": [[(_OF_MIRROR, 8800)]],
    "Dropped, by reason": [_labelled(dict.fromkeys(DROPS, 0) | {"rate_limit": 0.1}, "reason")],
    "Dropped, part of matched": [[(_OF_MIRROR, 0.01)]],
    "Lost behind the relay, by reason": [_labelled(dict.fromkeys(LOSSES, 0), "reason")],
    "Undecided, skipped, truncated": [_one(0), _one(1), _one(0)],
    "Bytes of copies, part of matched": [[(_OF_MIRROR, 0.99)]],
    "Packets per frame sent": [[(_OF_MIRROR, 660 / 594)]],
    "Mirrors by state": [[(_words({"state": "Programmed"}), 1)]],
    "Endpoints by state": [[(_words({"target": "ana", "address": "10.9.0.2", "state": "reachable"}), 1)]],
    "Hooks by state": [[(_words({"state": "attached"}), 1)]],
    "Shortest lease": [[(_AT_AGENT, 58.4)]],
    "Fullest maps": [_labelled(_FULL, "table")],
    "One look of the loop, 99th percentile": [[(_AT_AGENT, 0.02485)]],
    "Looks, and those with errors": [_one(1 / 60), _one(0)],
    "Late, and since the last look": [[(_AT_AGENT, 0)], [(_AT_AGENT, 0)]],
    "Since the API server was heard": [[(_AT_AGENT, 0)]],
    "Watches not followed, leases not renewed": [[(_AT_AGENT, 0)], [(_AT_AGENT, 0)]],
    "Memory": [[(_words({"instance": one}), 1e8) for one in (AGENT, FIRST, SECOND)]],
    "Writes": [
        [
            *_labelled({"status": 1, "event": 0.1, "jitter": 0}, "what", outcome="done"),
            *_labelled(dict.fromkeys(("status", "event", "jitter"), 0), "what", outcome="failed"),
        ]
    ],
    "Waiting": [_labelled({"status": 2, "event": 1}, "what")],
    "Watches not followed, events dropped, pods deselected": [_one(0), _one(0), _one(0)],
}
"""What each query of a panel gives of the series as they are recorded."""


def test_queries_of_the_dashboard(prometheus: Path, tmp_path: Path) -> None:
    panels = [one for one in json.loads((FILES / "dashboard.json").read_text())["panels"] if "targets" in one]
    assert PANELS.keys() == {one["title"] for one in panels}
    asked = []
    for panel in panels:
        for target, expected in zip(panel["targets"], PANELS[panel["title"]], strict=True):
            query = target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$mirror", ".*")
            assert "$" not in query
            asked.append({"expr": query, "eval_time": "20m", "exp_samples": samples(expected)})
    tests = [("dashboard", recorded(), {"promql_expr_test": asked})]
    assert promtool(prometheus, tmp_path, ALERTS, tests) == ""
