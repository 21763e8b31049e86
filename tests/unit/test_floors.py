"""Kernel versions as distributions write them, and what is said of them (floors of known bugs)."""

import errno
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

import sniffer
from sniffer.agent import Agent, Options, Source
from sniffer.errors import KernelError, MachineError
from sniffer.kernel import capabilities, preflight, programs, uname
from sniffer.plan.report import report
from sniffer.stats.finding import Result
from sniffer.stats.floors import Numbering, Version, judge, version_of

UPSTREAM, AT_LEAST, VENDOR = Numbering.UPSTREAM, Numbering.AT_LEAST, Numbering.VENDOR


@pytest.mark.parametrize(
    ("release", "build", "signature", "wanted"),
    [
        ("6.18.44-fc-v669", "#1 SMP PREEMPT_DYNAMIC @0", "", ((6, 18, 44), AT_LEAST)),
        ("6.1.0-28-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.119-1 (2024-11-22)", "", ((6, 1, 119), UPSTREAM)),
        ("6.12.57+deb13-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.57-1 (2025-11-05)", "", ((6, 12, 57), UPSTREAM)),
        ("5.15.0-101-generic", "#111-Ubuntu SMP", "Ubuntu 5.15.0-101.111-generic 5.15.143\n", ((5, 15, 143), UPSTREAM)),
        ("5.14.0-427.el9.x86_64", "#1 SMP PREEMPT_DYNAMIC Fri", "", ((5, 14, 0), VENDOR)),
        ("6.17-rc1", "#1 SMP", "", ((6, 17, 0), VENDOR)),
        ("6.17.0", "#1 SMP", "", ((6, 17, 0), UPSTREAM)),
        ("5.10.134-16.al8.x86_64", "#1 SMP", "", ((5, 10, 134), AT_LEAST)),
        ("6.1.58+", "#1 SMP", "", ((6, 1, 58), AT_LEAST)),
        ("odd", "#1", "", ((0, 0, 0), VENDOR)),
    ],
)
def test_versions(release: str, build: str, signature: str, wanted: tuple[Version, bool]) -> None:
    assert version_of(release, build, signature) == wanted


@pytest.mark.parametrize(
    ("version", "result"),
    [
        ((0, 0, 0), "fail"),
        ((4, 19, 300), "fail"),
        ((5, 9, 16), "fail"),
        ((5, 10, 139), "fail"),
        ((5, 10, 140), "warn"),
        ((5, 10, 246), "warn"),
        ((5, 10, 247), "ok"),
        ((5, 15, 190), "warn"),
        ((6, 1, 54), "fail"),
        ((6, 1, 55), "warn"),
        ((6, 1, 169), "warn"),
        ((6, 1, 170), "ok"),
        ((6, 6, 40), "fail"),
        ((6, 6, 41), "ok"),
        ((6, 9, 3), "warn"),
        ((6, 12, 34), "fail"),
        ((6, 12, 93), "warn"),
        ((6, 12, 94), "ok"),
        ((6, 15, 9), "warn"),
        ((6, 16, 0), "ok"),
        ((7, 2, 1), "ok"),
    ],
)
def test_floors(version: Version, result: str) -> None:
    """H8: a vendor may have mended what upstream had not by then: no kernel is refused of which that is not known."""
    assert judge(version, UPSTREAM).result == result
    assert judge(version, VENDOR).result == "warn"
    assert judge(version, AT_LEAST).result == ("warn" if result == "fail" and version >= (5, 10) else result)


def test_a_refusal_names_the_floor() -> None:
    assert judge((6, 1, 1), UPSTREAM).text == "6.1.1 has bugs that hurt production traffic, 6.1.55 is the least"
    assert "6.1.170" in judge((6, 1, 100), UPSTREAM).text


@pytest.mark.parametrize(
    ("version", "lacking", "words"),
    [
        ((4, 19, 0), (), "this kernel does not take the BPF programs: 4.19.0 is older than 5.10; use a later one"),
        ((4, 19, 0), ("CAP_BPF",), "loading BPF programs is not allowed: CAP_BPF missing; run as root"),
        ((6, 18, 44), (), "the kernel refuses the BPF object: load: EINVAL: words; see `sniffer doctor`"),
    ],
)
def test_what_is_said_of_programs_that_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, version: Version, lacking: tuple[str, ...], words: str
) -> None:
    """One sentence, of what is nearest to be mended."""
    monkeypatch.setattr(uname, "version", lambda: (version, UPSTREAM))
    monkeypatch.setattr(capabilities, "missing", lambda: lacking)
    assert str(programs.refusal(KernelError("load", errno.EINVAL, "words"))) == words


class Silent:
    """A source of resources that keeps what is reported."""

    def __init__(self) -> None:
        self.told: list[Mapping[str, Any]] = []

    def report(self, status: Mapping[str, Any]) -> None:
        self.told.append(status)

    def flush(self) -> None:
        self.told.append({"flushed": True})


class TouchedError(Exception):
    """The agent has begun to take its node."""


def test_an_agent_refuses_a_kernel_that_hurts_production(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is touched, in the cluster's words too, unless it is allowed."""

    def take(_: Agent) -> None:
        raise TouchedError

    monkeypatch.setattr(Agent, "_take", take)
    monkeypatch.setattr(uname, "version", lambda: ((6, 12, 34), UPSTREAM))
    source = Silent()
    options = Options(lambda _: cast("Source", source), "n1", Path("/nonexistent"), 60)
    words = (
        "no agent runs on this kernel: 6.12.34 has bugs that hurt production traffic, 6.12.35 is the least; "
        "boot a later one, or allow it: --allow-kernel, agent.allowKernel of the chart"
    )
    with pytest.raises(MachineError, match=re.escape(words)):
        Agent(options)
    refused, flushed = source.told
    assert refused == {"state": "Refused", "message": words, "version": sniffer.__version__, "mirrors": []}
    assert flushed
    with pytest.raises(TouchedError):
        Agent(replace(options, any_kernel=True))


@pytest.mark.parametrize(("version", "said"), [((6, 12, 36), ["kernel 6.12.36 lacks fixes"]), ((6, 12, 117), [])])
def test_an_agent_tells_which_fixes_its_kernel_lacks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: Version, said: list[str]
) -> None:
    """In its log, and in the status of its SnifferNode."""
    monkeypatch.setattr(Agent, "_take", lambda _: None)
    monkeypatch.setattr(uname, "version", lambda: (version, UPSTREAM))
    agent = Agent(Options(lambda _: cast("Source", Silent()), "n1", Path("/nonexistent"), 60))
    logged = [record.message[: len("kernel 6.12.36 lacks fixes")] for record in caplog.records]
    assert logged == said
    told = report((), (), "1", agent._remark)
    assert told.get("message", "")[: len("kernel 6.12.36 lacks fixes")] == "".join(said)


@pytest.mark.parametrize(
    ("version", "limit", "counted"),
    [((5, 10, 262), 65536, True), ((5, 10, 262), -1, False), ((5, 11, 0), 65536, False)],
)
def test_too_little_locked_memory(monkeypatch: pytest.MonkeyPatch, version: Version, limit: int, counted: bool) -> None:
    """E13: the doctor and an agent that cannot load say the same of it, on kernels that count maps so."""
    monkeypatch.setattr(uname, "version", lambda: (version, UPSTREAM))
    monkeypatch.setattr(capabilities, "missing", tuple)
    monkeypatch.setattr(capabilities, "effective", frozenset)
    monkeypatch.setattr(programs.resource, "getrlimit", lambda _: (limit, limit))
    (found,) = preflight._memlock()
    said = str(programs.refusal(KernelError("map_create", errno.EPERM)))
    assert (found.result is Result.FAIL) == counted
    assert (said == f"{found.text}; {found.fix}") == counted
    assert ("only 65536 bytes may be locked in memory" in said) == counted
