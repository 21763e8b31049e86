"""Which kernel this is."""

import os
from pathlib import Path

from sniffer.stats import floors

_SIGNATURE = Path("/proc/version_signature")


def version() -> tuple[floors.Version, bool]:
    """Its upstream version, and whether that tells which fixes it has."""
    uname = os.uname()
    return floors.version_of(uname.release, uname.version, _SIGNATURE.read_text() if _SIGNATURE.exists() else "")
