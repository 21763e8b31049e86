"""References that scripts print are as they print them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sniffer.plugin.doctor import INSTALL

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


def test_the_fix_for_what_is_not_installed_is_on_the_page_that_it_names() -> None:
    named = re.search(r"\((\w+), ([^)]+)\)$", INSTALL)
    assert named
    text = (ROOT / f"{named[1]}.md").read_text().partition(f"\n## {named[2]}\n")[2].partition("\n## ")[0]
    assert "helm install sniffer deploy/helm/sniffer --namespace sniffer-system" in text
