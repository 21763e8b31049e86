"""Which kernel this is."""

import os
from pathlib import Path

from sniffer.stats import floors

_SIGNATURE = Path("/proc/version_signature")


def judgement() -> floors.Judgement:
    """Whether to run on it."""
    return floors.judge(*version())


def version() -> tuple[floors.Version, floors.Numbering]:
    """Its upstream version, and what that says of the fixes that it has."""
    uname = os.uname()
    return floors.version_of(uname.release, uname.version, _SIGNATURE.read_text() if _SIGNATURE.exists() else "")
