"""Which kernels have the fixes that mirroring needs. Pure: a version in, a judgement out."""

import re
from dataclasses import dataclass

Version = tuple[int, int, int]

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_DEBIAN = re.compile(r"\bDebian (\d+\.\d+\.\d+)")
OLDEST: Version = (5, 10, 140)
_EVERYTHING: Version = (6, 16, 0)  # has all the fixes of the list below, which is of the series before it


@dataclass(frozen=True, slots=True)
class Floor:
    """Of one long-term series: the first version that runs safely, and the first that has every fix we know of."""

    refuse: Version
    warn: Version


_FLOORS = {
    (5, 10): Floor(OLDEST, (5, 10, 247)),
    (6, 1): Floor((6, 1, 55), (6, 1, 170)),
    (6, 6): Floor((6, 6, 41), (6, 6, 41)),  # tcx_entry is freed too early before it (CVE-2024-41010)
    (6, 12): Floor((6, 12, 35), (6, 12, 94)),
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """`result` is ok, warn or fail."""

    result: str
    text: str


def version_of(release: str, build: str, signature: str = "") -> tuple[Version, bool]:
    """The upstream version of a kernel, and whether its last number tells which fixes it has.

    `release` and `build` are uname's; `signature` is /proc/version_signature, which Ubuntu has. Debian and Ubuntu keep
    the upstream number there; elsewhere a release that ends in 0 before its dash is the vendor's own numbering.
    """
    debian, ubuntu = _DEBIAN.search(build), signature.split()[-1:]
    text = debian[1] if debian else ubuntu[0] if ubuntu else release
    found = _VERSION.match(text)
    if not found:
        return (0, 0, 0), False
    version = int(found[1]), int(found[2]), int(found[3] or 0)
    vendor = not debian and not ubuntu and version[2] == 0 and "-" in release
    return version, not vendor


def judge(version: Version, is_exact: bool) -> Judgement:
    """Whether to run on such a kernel."""
    text = ".".join(map(str, version))
    if version[:2] < OLDEST[:2]:
        return Judgement("fail", f"{text} is older than 5.10")
    if not is_exact:
        return Judgement("warn", f"{text}, numbered by its vendor: which fixes it has cannot be told")
    if version >= _EVERYTHING:
        return Judgement("ok", text)
    floor = _FLOORS.get(version[:2])
    if floor is None:
        return Judgement("warn", f"{text}: a series that was not examined, some fixes may be missing")
    if version < floor.refuse:
        return Judgement("fail", f"{text} has bugs that hurt production traffic, {_dotted(floor.refuse)} is the least")
    if version < floor.warn:
        return Judgement("warn", f"{text} lacks fixes of segmentation and tunnels that {_dotted(floor.warn)} has")
    return Judgement("ok", text)


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
