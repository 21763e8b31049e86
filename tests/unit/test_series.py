"""A look at a node becomes bounded series: whose names are not told is counted still."""

from collections.abc import Iterable
from typing import Any

import pytest

from sniffer.stats import catalogue
from sniffer.stats.catalogue import OTHER, Metric
from sniffer.stats.rows import DROPS, LOSSES
from sniffer.stats.series import Ledger, Named, NodeSeries, Series
from tests.unit.test_rows import ALL, a_look, tallies

OWN = ("ClusterTrafficMirror", "", "replay")
OTHERS = (OTHER,) * 3


def row(name: str, matched: int, lost: int = 0, **dropped: int) -> dict[str, Any]:
    drops = dict.fromkeys(DROPS, 0) | dropped
    return {
        "kind": "TrafficMirror",
        "namespace": "shop",
        "name": name,
        "state": "Programmed",
        "reason": None,
        "lease_s": 50.0,
        "undecided": 0,
        "truncated": {"packets": 0, "bytes": 0},
        "wire": {"packets": matched, "bytes": matched},
        "matched": {"packets": matched, "bytes": 100 * matched},
        "sent": {"packets": matched - sum(dropped.values()), "bytes": 0},
        "dropped": drops,
        "lost": dict.fromkeys(LOSSES, 0) | {"no_memory": lost},
    }


def taken(ledger: Ledger, rows: Iterable[dict[str, Any]]) -> tuple[dict[str, int], int]:
    """Matched frames by name, and of the others."""
    own, others = ledger.take(list(rows))
    key = (catalogue.MATCHED, ())
    return {identity.name: counts[key] for identity, counts in own.items()}, others.get(key, 0)


def test_one_mirror() -> None:
    counters = {5: tallies(matched=10, sent=7, dropped_no_route=3, wire=9, lost_stale=1), 0: tallies(skipped=2)}
    series = NodeSeries().of(a_look(counters=counters))
    assert set(series) == set(catalogue.NODE)
    frames = series[catalogue.FRAMES]
    assert frames[*OWN, "sent", ""] == 7
    assert frames[*OWN, "dropped", "no_route"] == 3
    assert sum(frames.values()) == series[catalogue.MATCHED][OWN] == 10
    assert len(frames) == 1 + len(DROPS)
    assert series[catalogue.LOST][*OWN, "stale"] == 1
    assert len(series[catalogue.LOST]) == len(LOSSES)
    assert series[catalogue.WIRE][OWN] == 9
    assert series[catalogue.MIRRORS] == {(*OWN, "Programmed", ""): 1}
    assert series[catalogue.LEASE][OWN] == 58.4
    assert series[catalogue.ENDPOINTS] == {("ana", "10.9.0.2", "reachable"): 1}
    assert series[catalogue.HOOKS] == {("pod0", "ingress", "attached"): 1}
    assert series[catalogue.SKIPPED] == {(): 2}
    assert series[catalogue.ENTRIES]["mirrors",] == 1
    assert series[catalogue.CAPACITY]["mirrors",] == 4096


def test_labels_are_as_many_as_the_catalogue_says() -> None:
    series: Series = NodeSeries().of(a_look(counters={5: tallies(matched=1)}))
    for metric, samples in series.items():
        assert all(len(labels) == len(metric.labels) for labels in samples), metric.name


@pytest.mark.parametrize(
    ("named", "mirror", "endpoint", "interface"),
    [
        (Named.ALL, OWN, ("ana", "10.9.0.2"), "pod0"),
        (Named.MIRRORS, OWN, ("ana", "10.9.0.2"), OTHER),
        (Named.NONE, OTHERS, (OTHER, OTHER), OTHER),
    ],
)
def test_what_has_a_name(named: Named, mirror: Any, endpoint: Any, interface: str) -> None:
    series = NodeSeries(named).of(a_look(counters={5: tallies(matched=4, sent=4)}))
    assert series[catalogue.MATCHED] == {mirror: 4}
    assert series[catalogue.FRAMES][*mirror, "sent", ""] == 4
    assert series[catalogue.LEASE] == {mirror: 58.4}
    assert series[catalogue.MIRRORS] == {(*mirror, "Programmed", ""): 1}
    assert series[catalogue.ENDPOINTS] == {(*endpoint, "reachable"): 1}
    assert series[catalogue.HOOKS] == {(interface, "ingress", "attached"): 1}


def test_the_first_have_names_and_keep_them() -> None:
    ledger = Ledger(2)
    assert taken(ledger, [row("b", 1), row("c", 2), row("d", 3)]) == ({"b": 1, "c": 2}, 3)
    # One before them all in the order of names takes nobody's place.
    assert taken(ledger, [row("a", 5), row("b", 1), row("c", 2), row("d", 4)]) == ({"b": 1, "c": 2}, 9)
    # Of those without a name none gets one when there is room: the sum would fall.
    assert taken(ledger, [row("a", 6), row("b", 2), row("d", 4)]) == ({"b": 2}, 10)
    assert taken(ledger, [row("a", 6), row("b", 2), row("d", 4), row("e", 1)]) == ({"b": 2, "e": 1}, 10)


def test_the_sum_of_the_others_never_falls() -> None:
    ledger = Ledger(0)
    assert taken(ledger, [row("a", 5), row("b", 7)]) == ({}, 12)
    assert taken(ledger, [row("a", 6)]) == ({}, 13)
    assert taken(ledger, [row("a", 2)]) == ({}, 15)  # made anew, under the same name
    assert taken(ledger, []) == ({}, 15)


def test_frames_on_their_way_are_not_lost() -> None:
    """What is in the relay at one look and not at the next was never lost; and what was told is never taken back."""
    ledger = Ledger(1)
    told = [
        ledger.take([row("a", 100, lost=now)])[0].popitem()[1][catalogue.LOST, ("no_memory",)]
        for now in (0, 7, 0, 9, 12, 9, 9, 30, 11)
    ]
    assert told == [0, 0, 0, 0, 9, 9, 9, 9, 11]


def test_a_mirror_made_anew_begins_anew() -> None:
    ledger = Ledger(1)
    ledger.take([row("a", 100, lost=50)])
    own, _ = ledger.take([row("a", 3, lost=1)])
    ((_, counts),) = own.items()
    assert (counts[catalogue.MATCHED, ()], counts[catalogue.LOST, ("no_memory",)]) == (3, 1)


def test_endpoints_and_hooks_beyond_the_limit() -> None:
    series = NodeSeries(endpoints=0, interfaces=0).of(a_look())
    assert series[catalogue.ENDPOINTS] == {(OTHER, OTHER, "reachable"): 1}
    assert series[catalogue.HOOKS] == {(OTHER, "ingress", "attached"): 1}


def test_the_catalogue() -> None:
    names = [metric.name for metric in catalogue.ALL]
    assert len(names) == len(set(names))
    defined = {value for value in vars(catalogue).values() if isinstance(value, Metric)}
    assert defined == set(catalogue.ALL)
    for metric in catalogue.ALL:
        assert metric.name.startswith("sniffer_")
        assert metric.help.endswith(".")
        assert metric.name.endswith("_total") == (metric.type == "counter")
        # Prometheus and its operator have these for where they scrape.
        assert not set(metric.labels) & {
            "namespace",
            "pod",
            "container",
            "endpoint",
            "job",
            "instance",
            "node",
            "service",
        }
    assert ALL.name == OWN[2]
