"""References that scripts print are as they print them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("script", "page"),
    [
        ("command-reference", "docs/commands.md"),
        ("field-reference", "docs/fields.md"),
        ("plugin-reference", "docs/plugin-commands.md"),
        ("metrics-reference", "docs/metrics.md"),
    ],
)
def test_a_reference_is_current(script: str, page: str) -> None:
    made = subprocess.run([sys.executable, ROOT / "scripts" / script], capture_output=True, text=True, check=True)
    assert (ROOT / page).read_text() == made.stdout, f"run: .venv/bin/python scripts/{script} >{page}"
