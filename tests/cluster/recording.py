"""Series as agent and controllers expose them, made by their collectors, and what promtool says of rules over them."""

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sniffer.metrics.controller import ControllerCollector, Figures
from sniffer.metrics.node import AgentCollector, Loop
from tests.unit.test_rows import a_look, tallies

MINUTES = 30
AGENT, FIRST, SECOND = "10.0.0.1:9750", "10.1.0.1:9750", "10.1.0.2:9750"
FIGURES = Figures(True, {("status", "done"): 60, ("event", "done"): 6}, 2, 1, 0, 0, 0, 0.0)
NOW = f"0+60x{MINUTES}"
"""A time stamp that is the time: the suites begin at 0."""
_CLOCKS = ("last_reconcile_timestamp_seconds", "last_contact_timestamp_seconds", "last_turn_timestamp_seconds")

Series = dict[str, str]
"""Values as promtool notes them, by series."""


def recorded() -> Series:
    """An agent with a mirror and two controllers for half an hour, all well; each minute counters rise by the same."""
    loop = Loop(fresh=True, contact_s=0.0)
    loop.took_s.observe(0.02)
    counters = {5: tallies(matched=600, sent=594, dropped_rate_limit=6, wire=660), 0: tallies(skipped=60)}
    series = {f'up{{instance="{one}", job="{job}"}}': "1x30" for one, job in _TARGETS}
    series |= _of(AgentCollector(lambda: a_look(counters=counters), loop), AGENT, "sniffer-agent")
    series |= _of(ControllerCollector(lambda: FIGURES), FIRST, "sniffer-controller")
    standby = replace(FIGURES, leads=False, writes={})
    series |= _of(ControllerCollector(lambda: standby), SECOND, "sniffer-controller")
    for one, job in _TARGETS:
        series[f'process_resident_memory_bytes{{instance="{one}", job="{job}"}}'] = f"1e8x{MINUTES}"
    return series


_TARGETS = ((AGENT, "sniffer-agent"), (FIRST, "sniffer-controller"), (SECOND, "sniffer-controller"))


def _of(collector: Any, instance: str, job: str) -> Series:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    text = generate_latest(registry).decode()
    made = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            rises = family.type in {"counter", "histogram"}
            constant = f"{sample.value}+{sample.value if rises else 0}x{MINUTES}"
            clock = sample.name.endswith(_CLOCKS)
            labels = {**sample.labels, "instance": instance, "job": job}
            words = ", ".join(f'{name}="{value}"' for name, value in sorted(labels.items()) if value)
            made[f"{sample.name}{{{words}}}"] = NOW if clock else constant
    return made


def changed(series: Series, changes: Mapping[str, str | None]) -> Series:
    """Other values of all series that contain the words of a key, each after the other; None: it is not there.

    A key in braces, as `a{b="c"}`, of none that is there is a new one.
    """
    made = dict(series)
    for key, values in changes.items():
        found = [name for name in made if all(word in name for word in key.split())]
        assert found or "{" in key, key
        for name in found or [key]:
            if values is None:
                del made[name]
            else:
                made[name] = values
    return made


def promtool(binaries: Path, home: Path, rules: Path, tests: Iterable[tuple[str, Series, Mapping[str, Any]]]) -> str:
    """`promtool test rules`: what is wrong, in its words; "": nothing. tests: name, series, what to ask."""
    suites = [
        {
            "name": name,
            "interval": "1m",
            **asked,
            "input_series": [{"series": key, "values": values} for key, values in series.items()],
        }
        for name, series, asked in tests
    ]
    file = home / "rules-test.yaml"
    options = {"fuzzy_compare": True}  # of numbers, by a hair
    file.write_text(
        yaml.safe_dump({**options, "rule_files": [str(rules)], "evaluation_interval": "1m", "tests": suites})
    )
    done = subprocess.run([binaries / "promtool", "test", "rules", file], capture_output=True, text=True)
    assert suites
    return "" if done.returncode == 0 else done.stdout + done.stderr


def samples(found: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """As promtool takes them."""
    return [{"labels": labels, "value": value} for labels, value in found]
