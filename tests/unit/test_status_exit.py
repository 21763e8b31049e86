"""What `sniffer status` ends with: people put it into checks."""

from typing import Any

import pytest

from sniffer.cli.status import _exit_status


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("Programmed", None, 0),
        ("Programmed", "EndpointUnreachable", 0),
        ("Suspended", "Suspended", 0),
        ("Pending", "NoInterface", 0),
        ("Suspended", "LeaseEnded", 1),
        ("Degraded", "HookFull", 1),
        ("Rejected", "BadFilter", 1),
    ],
)
def test_a_mirror_that_nobody_renews_is_not_as_asked(state: str, reason: str | None, expected: int) -> None:
    rows: dict[str, Any] = {"mirrors": [{"state": state, "reason": reason}], "hooks": [{"state": "attached"}]}
    assert _exit_status(rows) == expected


def test_a_hook_that_is_missing() -> None:
    assert _exit_status({"mirrors": [], "hooks": [{"state": "missing"}]}) == 1
