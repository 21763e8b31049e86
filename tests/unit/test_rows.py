"""Counters and state to the rows of `sniffer status --json`: the shape in docs/status.md is a contract."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer.abi.limits import Direction, Guard, NameKind, Outcome, PathWord
from sniffer.abi.records import BudgetRecord, EgressRecord, Hook, MirrorRecord, NameKey, Tally, TunnelRecord
from sniffer.model.identity import Identity
from sniffer.plan.facts import Link, Mechanism, Relay
from sniffer.plan.names import identity_text, node_text, verdict_text
from sniffer.plan.state import Attachment, State, Verdict
from sniffer.stats.limits import words
from sniffer.stats.rows import Look, status, unsettled

NOW = 10**12
ALL = Identity("ClusterTrafficMirror", None, "replay")
DROPS = ["rate_limit", "sampled_out", "oversize", "too_big", "no_route", "no_neighbour", "no_memory", "relay_down"]
DROPS += ["copy_limit", "ptp", "storm"]
LOSSES = ["no_memory", "oversize", "no_route", "no_neighbour", "stale"]
IN = Hook(7, Direction.INGRESS)
TEMPLATE = bytes(12) + b"\x08\0\x45" + bytes(11) + bytes([10, 9, 0, 1, 10, 9, 0, 2]) + bytes(16)


def link(index: int, name: str) -> Link:
    return Link(index, name, None, None, 1500, True, 1, None, None, bytes(6))


def tallies(**packets: int) -> tuple[Tally, ...]:
    """By outcome's name; every frame has 100 bytes."""
    counts = {Outcome[name.upper()]: count for name, count in packets.items()}
    return tuple(Tally(counts.get(one, 0), 100 * counts.get(one, 0)) for one in Outcome)


def a_state() -> State:
    """One mirror on one hook, to one endpoint."""
    egress = EgressRecord(12, 1450, bytes([10, 9, 0, 254]).ljust(16, b"\0"), 0, 2, TEMPLATE)
    return State(
        hooks={IN: 3},
        lists={3: (4,)},
        mirrors={4: MirrorRecord(0, 0, 5, (6,))},
        leases={4: NOW + 58_400_000_000},
        tunnels={6: TunnelRecord(1, 1, 0, 0, (8,))},
        egress={8: egress},
        paths={8: PathWord.REACHABLE},
        names={
            NameKey(NameKind.NODE, 0): node_text("n1", 812, "0.1.0"),
            NameKey(NameKind.COUNTER, 5): identity_text(ALL),
            NameKey(NameKind.TUNNEL, 6): "ana",
            NameKey(NameKind.VERDICT, 0): verdict_text(
                Verdict(ALL, "Programmed", interfaces=("pod0",), targets=("ana",))
            ),
        },
        attachments={IN: Attachment(Mechanism.TCX, 99)},
        relay=Relay(2, 3),
    )


def a_look(state: State | None = None, **fields: Any) -> Look:
    values = {"counters": {}, "links": (link(7, "pod0"), link(12, "up0")), "ahead": {}, "now_ns": NOW, "running": True}
    return Look(state=state or a_state(), **(values | fields))


def mirror_row(look: Look) -> dict[str, Any]:
    (row,) = status(look)["mirrors"]
    return row


def test_the_shape_of_status() -> None:
    counters = {5: tallies(matched=4124, sent=4124, wire=4130), 0: tallies(skipped=2)}
    assert json.loads(json.dumps(status(a_look(counters=counters)))) == {
        "node": "n1",
        "agent": {"state": "running", "pid": 812, "version": "0.1.0"},
        "mirrors": [
            {
                "kind": "ClusterTrafficMirror",
                "namespace": None,
                "name": "replay",
                "state": "Programmed",
                "reason": None,
                "message": None,
                "interfaces": ["pod0"],
                "lease_s": 58.4,
                "snap_length": None,
                "sampling": None,
                "rate_limit": None,
                "targets": [
                    {
                        "name": "ana",
                        "endpoints": [
                            {
                                "address": "10.9.0.2",
                                "device": "up0",
                                "source": "10.9.0.1",
                                "nexthop": "10.9.0.254",
                                "mtu": 1450,
                                "state": "reachable",
                            }
                        ],
                    }
                ],
                "matched": {"packets": 4124, "bytes": 412400},
                "sent": {"packets": 4124, "bytes": 412400},
                "dropped": dict.fromkeys(DROPS, 0),
                "truncated": {"packets": 0, "bytes": 0},
                "wire": {"packets": 4130, "bytes": 413000},
                "lost": dict.fromkeys(LOSSES, 0),
                "undecided": 0,
            }
        ],
        "hooks": [
            {
                "interface": "pod0",
                "ifindex": 7,
                "direction": "ingress",
                "attachment": "tcx",
                "state": "attached",
                "ahead": [],
            }
        ],
        "skipped": {"packets": 2, "bytes": 200},
        "watching": [],
    }


def test_limits() -> None:
    budgets = {1: BudgetRecord(99, 50_000, 1000, 0, 0), 2: BudgetRecord(98, 0, 0, 800, 524_280)}
    mirrors = {4: MirrorRecord(0, 96, 5, (6,), 10, 1, 1)}
    state = replace(a_state(), budgets=budgets, mirrors=mirrors, tunnels={6: TunnelRecord(1, 1, 0, 128, (8,), 2)})
    (row,) = status(a_look(state=state))["mirrors"]
    nothing = dict.fromkeys(("packets_per_second", "burst_packets", "kilobits_per_second", "burst_kilobits"))
    assert (row["snap_length"], row["sampling"]) == (96, {"one_in": 10, "per": "Packet"})
    assert row["rate_limit"] == nothing | {"packets_per_second": 50_000, "burst_packets": 1000}
    (target,) = row["targets"]
    assert target["snap_length"] == 128
    assert target["rate_limit"] == nothing | {"kilobits_per_second": 800, "burst_kilobits": 524.28}
    assert words(row) == "96 bytes of a frame, one in 10 packets, 50000 packets/s"
    assert words(target) == "128 bytes of a frame, 800 kbit/s"


@given(st.lists(st.integers(0, 1 << 40), min_size=len(Outcome), max_size=len(Outcome)))
def test_every_reason_has_a_place_of_its_own(counts: list[int]) -> None:
    """matched = sent + every drop is the programs' promise; here no reason is left out or counted twice."""
    found = tuple(Tally(count, 0) for count in counts)
    row = mirror_row(a_look(counters={5: found}))
    assert row["dropped"] == {reason: found[Outcome[f"DROPPED_{reason.upper()}"]].packets for reason in DROPS}
    in_flight = max(found[Outcome.RELAYED].packets - found[Outcome.ARRIVED].packets, 0)
    losses = {reason: found[Outcome[f"LOST_{reason.upper()}"]].packets for reason in LOSSES}
    assert row["lost"] == losses | {"no_memory": losses["no_memory"] + in_flight}
    assert row["undecided"] == found[Outcome.TURNS].packets


def test_every_drop_and_loss_of_the_header_has_a_row() -> None:
    assert [o.name.removeprefix("DROPPED_").lower() for o in Outcome if o.name.startswith("DROPPED_")] == DROPS
    assert [o.name.removeprefix("LOST_").lower() for o in Outcome if o.name.startswith("LOST_")] == LOSSES


def test_what_went_into_the_relay_and_did_not_come_out_is_lost() -> None:
    counters = {5: tallies(relayed=100, arrived=93, lost_no_memory=2, lost_stale=1)}
    row = mirror_row(a_look(counters=counters))
    assert row["lost"] == dict.fromkeys(LOSSES, 0) | {"no_memory": 9, "stale": 1}
    assert unsettled(counters.values()) == 7


def test_more_out_of_the_relay_than_in_is_no_negative_loss() -> None:
    """Two CPUs, read one after the other."""
    row = mirror_row(a_look(counters={5: tallies(relayed=3, arrived=5)}))
    assert row["lost"]["no_memory"] == 0


def test_with_the_agent_dead() -> None:
    found = status(a_look(running=False))
    assert found["agent"] == {"state": "absent", "pid": None, "version": "0.1.0"}
    assert found["node"] == "n1"
    assert found["mirrors"][0]["state"] == "Programmed", "its lease is not over"


def test_a_lease_that_is_over() -> None:
    row = mirror_row(a_look(now_ns=NOW + 10**12))
    assert (row["state"], row["reason"], row["lease_s"]) == ("Suspended", "LeaseEnded", 0)


def test_the_shortest_lease_counts() -> None:
    """A mirror may be in the kernel twice while it changes."""
    state = a_state()
    other = Hook(7, Direction.EGRESS)
    state = replace(
        state,
        hooks=state.hooks | {other: 9},
        lists=state.lists | {9: (10,)},
        mirrors=state.mirrors | {10: MirrorRecord(0, 0, 5, (6,))},
        leases=state.leases | {10: NOW + 10**9},
        attachments=state.attachments | {other: Attachment(Mechanism.TCX, 99)},
    )
    assert mirror_row(a_look(state))["lease_s"] == 1.0


def test_a_verdict_without_a_place_in_the_kernel() -> None:
    verdict = Verdict(Identity("ClusterTrafficMirror", None, "bad"), "Rejected", "BadFilter", "why", (), ("ana", "bob"))
    state = State(names={NameKey(NameKind.VERDICT, 0): verdict_text(verdict)})
    row = mirror_row(a_look(state))
    assert (row["state"], row["reason"], row["message"]) == ("Rejected", "BadFilter", "why")
    assert row["targets"] == [{"name": "ana", "endpoints": []}, {"name": "bob", "endpoints": []}]
    assert row["lease_s"] == 0
    assert row["matched"] == {"packets": 0, "bytes": 0}
    assert row["dropped"] == dict.fromkeys(DROPS, 0)


@pytest.mark.parametrize(
    ("word", "state", "known"),
    [
        (PathWord.REACHABLE, "reachable", True),
        (PathWord.UNREACHABLE, "unreachable", True),
        (PathWord.REJECTING, "rejecting", True),
        (PathWord.NO_ROUTE, "no_route", False),
    ],
)
def test_an_endpoint_s_state(word: PathWord, state: str, known: bool) -> None:
    row = mirror_row(a_look(replace(a_state(), paths={8: word})))
    (endpoint,) = row["targets"][0]["endpoints"]
    assert (endpoint["address"], endpoint["state"]) == ("10.9.0.2", state)
    for field in ("device", "source", "nexthop", "mtu"):
        assert (endpoint[field] is not None) == known


@pytest.mark.parametrize(
    ("attachment", "ahead", "links", "state"),
    [
        (Attachment(Mechanism.CLSACT, 99), (), True, "attached"),
        (Attachment(Mechanism.TCX, 99), (55, 56), True, "bypassed"),
        (Attachment(Mechanism.TCX, 0), (), True, "missing"),
        (None, (), True, "missing"),
        (Attachment(Mechanism.TCX, 99), (), False, "missing"),
    ],
)
def test_a_hook_s_state(attachment: Attachment | None, ahead: tuple[int, ...], links: bool, state: str) -> None:
    """D3: a program found ahead of ours is said, by id."""
    attachments = {IN: attachment} if attachment else {}
    look = a_look(
        replace(a_state(), attachments=attachments), ahead={IN: ahead}, links=(link(7, "pod0"),) if links else ()
    )
    (row,) = status(look)["hooks"]
    assert row["state"] == state
    assert row["ahead"] == list(ahead)
    assert row["attachment"] == (str(attachment.mechanism) if attachment else None)
    assert row["interface"] == ("pod0" if links else None)


def test_a_mirror_that_is_not_attached_says_so() -> None:
    row = mirror_row(a_look(replace(a_state(), attachments={})))
    assert (row["state"], row["reason"]) == ("Degraded", "HookMissing")
    assert row["message"] == "not attached: pod0 ingress"


def test_hooks_that_only_watch_are_told_apart() -> None:
    watch = Hook(12, Direction.INGRESS)
    state = a_state()
    hooks, guards = {**state.hooks, watch: 0}, {watch: Guard.REFUSALS}
    found = status(a_look(replace(state, hooks=hooks, guards=guards)))
    assert [row["interface"] for row in found["hooks"]] == ["pod0"]
    assert found["watching"] == ["up0"]


def test_the_relay_s_hooks_are_not_shown() -> None:
    ends = {
        Hook(2, Direction.EGRESS): Attachment(Mechanism.TCX, 5),
        Hook(3, Direction.INGRESS): Attachment(Mechanism.TCX, 6),
    }
    state = a_state()
    assert len(status(a_look(replace(state, attachments=state.attachments | ends)))["hooks"]) == 1


def test_rows_are_in_order_of_name_and_foreign_names_are_no_rows() -> None:
    texts = [verdict_text(Verdict(Identity("ClusterTrafficMirror", None, name), "Pending")) for name in ("b", "a", "c")]
    texts += ["not json", "[1, 2]", '{"kind": "x"}']
    names = {NameKey(NameKind.VERDICT, number): text for number, text in enumerate(texts)}
    found = status(a_look(State(names=names)))
    assert [row["name"] for row in found["mirrors"]] == ["a", "b", "c"]
    assert (found["node"], found["agent"]["pid"], found["agent"]["version"]) == (None, None, None)
