"""Links between pages lead somewhere, headings included; and every page of docs/ can be found from its index."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"],
)
LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)(?:#([^)\s]*))?\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def anchors(text: str) -> set[str]:
    """As GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(CODE.sub("", page.read_text())):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target.read_text()), f"{path}#{anchor}"


def test_every_page_can_be_found() -> None:
    index = (ROOT / "docs/README.md").read_text()
    linked = {(ROOT / "docs" / path).resolve() for path, _ in LINK.findall(index) if path}
    pages = {page.resolve() for page in (ROOT / "docs").rglob("*.md")} - {ROOT / "docs/README.md"}
    folders = {path for path in linked if path.is_dir()}
    lost = {page for page in pages - linked if page.parent not in folders and page.parent.name != "receivers"}
    assert not lost, sorted(str(page.relative_to(ROOT)) for page in lost)
