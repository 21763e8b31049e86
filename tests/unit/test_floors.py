"""Kernel versions as distributions write them, and what is said of them (floors of known bugs)."""

import errno

import pytest

from sniffer.errors import KernelError
from sniffer.kernel import capabilities, programs, uname
from sniffer.stats.floors import Version, judge, version_of


@pytest.mark.parametrize(
    ("release", "build", "signature", "wanted"),
    [
        ("6.18.44-fc-v669", "#1 SMP PREEMPT_DYNAMIC @0", "", ((6, 18, 44), True)),
        ("6.1.0-28-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.119-1 (2024-11-22)", "", ((6, 1, 119), True)),
        ("6.12.57+deb13-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.57-1 (2025-11-05)", "", ((6, 12, 57), True)),
        ("5.15.0-101-generic", "#111-Ubuntu SMP", "Ubuntu 5.15.0-101.111-generic 5.15.143\n", ((5, 15, 143), True)),
        ("5.14.0-427.el9.x86_64", "#1 SMP PREEMPT_DYNAMIC Fri", "", ((5, 14, 0), False)),
        ("6.17-rc1", "#1 SMP", "", ((6, 17, 0), False)),
        ("6.17.0", "#1 SMP", "", ((6, 17, 0), True)),
        ("odd", "#1", "", ((0, 0, 0), False)),
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
    assert judge(version, True).result == result
    assert judge(version, False).result == ("fail" if version < (5, 10) else "warn")


def test_a_refusal_names_the_floor() -> None:
    assert judge((6, 1, 1), True).text == "6.1.1 has bugs that hurt production traffic, 6.1.55 is the least"
    assert "6.1.170" in judge((6, 1, 100), True).text


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
    monkeypatch.setattr(uname, "version", lambda: (version, True))
    monkeypatch.setattr(capabilities, "missing", lambda: lacking)
    assert str(programs.refusal(KernelError("load", errno.EINVAL, "words"))) == words
