"""The order to clean, as a ConfigMap of sniffer's own namespace has it.

It counts for the revision of the release that it was given to: an upgrade, a rollback or a new install lifts it,
because each makes another revision, or another object.
"""

from collections.abc import Mapping
from typing import Any

CONFIG_MAP = "sniffer-order"
REVISION, CLEAN = "revision", "clean"
"""Its keys: of the release that is installed, written by the chart; and of the one that is to go."""


def order_of(config_map: Mapping[str, Any]) -> str | None:
    """What tells this order from every other; None: nobody is told to clean."""
    told = config_map.get("data") or {}
    clean = told.get(CLEAN)
    if not clean or told.get(REVISION, clean) != clean:
        return None
    return f"{config_map['metadata'].get('uid', '')}/{clean}"[:127]


def clean_order(config_map: Mapping[str, Any]) -> dict[str, str]:
    """The data that orders everything of the present revision to go."""
    return {CLEAN: (config_map.get("data") or {}).get(REVISION) or "1"}
