"""What is written about metrics and made of them goes by the catalogue: alerts, dashboard."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sniffer.stats import catalogue
from sniffer.stats.catalogue import Type

ROOT = Path(__file__).parents[2]
FILES = ROOT / "deploy/helm/sniffer/files"
RULES = [rule for group in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((FILES / "dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
FOREIGN = {"up", "process_resident_memory_bytes"}
SUFFIXES = ("_bucket", "_count", "_sum")
OF_TARGET = {"job", "instance", "le"}
"""Labels that Prometheus adds."""


def known(name: str) -> bool:
    histograms = {f"{one.name}{suffix}" for one in catalogue.ALL if one.type is Type.HISTOGRAM for suffix in SUFFIXES}
    return (
        name in {one.name for one in catalogue.ALL} - {name.removesuffix("_bucket") for name in histograms} | histograms
    )


def names(query: str) -> set[str]:
    return set(re.findall(r"\b(?:sniffer|process)_\w+|\bup\b", query)) - FOREIGN


@pytest.mark.parametrize("query", sorted({*QUERIES, *(rule["expr"] for rule in RULES)}))
def test_queries_are_of_metrics_that_there_are(query: str) -> None:
    assert names(query) or query.replace("(", " ").startswith(
        ("up{", "absent up", "max by  instance", "max by (instance)")
    )
    assert all(known(name) for name in names(query)), query
    labels = {label for one in catalogue.ALL for label in one.labels} | OF_TARGET
    for group in re.findall(r"(?:by|without|ignoring|on) \(([\w, ]*)\)", query):
        assert set(filter(None, re.split(r",\s*", group))) <= labels, query
    for selector in re.findall(r"\{([^}]*)\}", query):
        assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", selector)) <= labels, query


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    name = rule["alert"]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert re.search(rf"^## {name}\n\S", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE)


def test_nothing_else_has_a_runbook() -> None:
    found = re.findall(r"^## (\w+)$", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE)
    assert found == [rule["alert"] for rule in RULES]


def test_the_dashboard_shows_every_metric_of_copies() -> None:
    """And of the loops: what it leaves out is left out on purpose."""
    shown = set().union(*(names(query) for query in QUERIES))
    left_out = {catalogue.READABLE, catalogue.TURNED, catalogue.ROUND_S}
    assert {one.name for one in catalogue.ALL if one not in left_out} <= shown
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
