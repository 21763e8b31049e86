"""The commands of documentation pages: what a page says is what tests run.

A fenced block that starts with ```bash NAME is a command that a test runs by that name.
"""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r"^```bash(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: str) -> dict[str, str]:
    """The named commands of a page below docs/, as they stand there."""
    blocks = _BLOCK.findall((DOCS / page).read_text())
    names = [name for name, _ in blocks]
    assert all(names), f"{page}: a command has no name, and so no test"
    assert len(set(names)) == len(names), f"{page}: two commands of one name"
    return dict(blocks)
