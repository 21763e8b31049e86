"""Which kernels have the fixes that mirroring needs. Pure: a version in, a judgement out."""

import re
from dataclasses import dataclass
from enum import Enum, auto

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


class Numbering(Enum):
    """What a kernel's number says of the fixes that it has."""

    UPSTREAM = auto()
    """Which: those of that release, up to it."""
    AT_LEAST = auto()
    """Those of that release; its vendor may have put in others."""
    VENDOR = auto()
    """Nothing: it stays the same, whatever is put in."""


def version_of(release: str, build: str, signature: str = "") -> tuple[Version, Numbering]:
    """The upstream version of a kernel, and what its number says.

    `release` and `build` are uname's; `signature` is /proc/version_signature, which Ubuntu has. Debian and Ubuntu keep
    the upstream number there; elsewhere what follows a release's three numbers is a vendor's, who counts for himself
    where the third is 0.
    """
    debian, ubuntu = _DEBIAN.search(build), signature.split()[-1:]
    text = debian[1] if debian else ubuntu[0] if ubuntu else release
    found = _VERSION.match(text)
    if not found:
        return (0, 0, 0), Numbering.VENDOR
    version = int(found[1]), int(found[2]), int(found[3] or 0)
    if debian or ubuntu or found.end() == len(text):
        return version, Numbering.UPSTREAM
    return version, Numbering.AT_LEAST if version[2] else Numbering.VENDOR


def judge(version: Version, numbering: Numbering) -> Judgement:
    """Whether to run on such a kernel. fail: no, as far as a number can tell that."""
    text = _dotted(version)
    if version[:2] < OLDEST[:2] and numbering is not Numbering.VENDOR:
        return Judgement("fail", f"{text} is older than 5.10")
    if numbering is Numbering.VENDOR:
        return Judgement("warn", f"{text}, numbered by its vendor: which fixes it has cannot be told")
    if version >= _EVERYTHING:
        return Judgement("ok", text)
    floor = _FLOORS.get(version[:2])
    if floor is None:
        return Judgement("warn", f"{text}: a series that was not examined, some fixes may be missing")
    return _by_floor(version, numbering, floor)


def _by_floor(version: Version, numbering: Numbering, floor: Floor) -> Judgement:
    text = _dotted(version)
    if version < floor.refuse:
        text += " has bugs that hurt production traffic, "
        if numbering is Numbering.AT_LEAST:
            return Judgement("warn", f"{text}unless its vendor mended them before {_dotted(floor.refuse)}")
        return Judgement("fail", f"{text}{_dotted(floor.refuse)} is the least")
    if version < floor.warn:
        return Judgement("warn", f"{text} lacks fixes of segmentation and tunnels that {_dotted(floor.warn)} has")
    return Judgement("ok", text)


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
