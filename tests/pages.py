"""The commands of documentation pages: what a page says is what tests run.

In a fenced block of `sh`, `bash NAME` or `console` (a command after `$ `, then what it prints) stand commands, in one
of `yaml` resources; in a block of no language, nothing that one could run.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_NAMED = re.compile(r"^```bash(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_INLINE = re.compile(
    r"(sudo |[A-Z_]+=\S+ )*((kubectl|helm|sniffer|docker|tc|go) [^ ]+ .|make \S+ .|sudo make .|"
    r"(tshark|wireshark|tcpdump|editcap|zeek|suricata|ip|nft|ss|sysctl|ethtool|bpftool|curl|git|pip|apt-get|"
    r"journalctl|systemctl|scripts/[a-z]+|tests/\S+|\.venv/\S+) .)"
)
_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$|^##+ ([^\n]+)$", re.MULTILINE | re.DOTALL)

FOLLOWED: Mapping[tuple[str, str], str] = {
    ("README.md", "In a cluster"): "tests/cluster/test_docs.py",
    ("README.md", "Use it"): "tests/netns/test_readme.py",
    ("docs/api.md", "An example of everything"): "tests/unit/test_schema.py",
    ("docs/api.md", "Rights"): "tests/cluster/test_docs.py",
    ("docs/conditions.md", ""): "tests/cluster/test_docs.py",
    ("docs/how-to/limits.md", ""): "tests/cluster/test_docs.py",
    ("docs/how-to/lost-copies.md", ""): "tests/cluster/test_docs.py",
    ("docs/how-to/tenancy.md", ""): "tests/cluster/test_docs.py",
    ("docs/operations.md", "Upgrade, roll back"): "tests/cluster/test_removal.py",
    ("docs/operations.md", "Uninstall"): "tests/cluster/test_removal.py",
    ("docs/operations.md", "Clean without an uninstall"): "tests/cluster/test_removal.py",
    ("docs/operations.md", "By hand"): "tests/cluster/test_removal.py",
    ("docs/plugin.md", ""): "tests/cluster/test_docs.py",
    ("docs/receivers/kernel.md", ""): "tests/netns/test_receiver_pages.py",
    ("docs/receivers/recv.md", ""): "tests/netns/test_receiver_pages.py",
    ("docs/receivers/suricata.md", ""): "tests/netns/test_suricata.py",
    ("docs/receivers/wireshark.md", ""): "tests/netns/test_receiver_pages.py",
    ("docs/receivers/zeek.md", ""): "tests/netns/test_zeek.py",
    ("docs/tutorial.md", ""): "tests/netns/test_tutorial.py",
}
"""Which test follows a section of a page, or all of it, as it stands there, but for what is run ALONE or ELSEWHERE."""

RUN = frozenset({"sh", "bash", "console", "yaml"})

ALONE: Mapping[tuple[str, str], str] = {
    ("README.md", "make demo"): "tests/netns/test_demo.py",
    ("README.md", "scripts/isolated .venv/bin/python -m demo --sabotage"): "tests/netns/test_demo.py",
    ("README.md", "scripts/isolated .venv/bin/python -m demo --json"): "tests/netns/test_demo.py",
    ("README.md", "ethtool -K DEV"): "tests/netns/test_readme.py",
    ("README.md", "kubectl get mirrortargets"): "tests/cluster/test_docs.py",
    ("README.md", "helm install"): "tests/cluster/test_removal.py",
    ("CONTRIBUTING.md", "sudo scripts/isolated bash"): "tests/netns/test_readme.py",
    ("docs/plugin.md", "sniffer capture --interface"): "tests/netns/test_readme.py",
    ("docs/operations.md", "helm uninstall sniffer --namespace sniffer-system --no-hooks"): (
        "tests/cluster/test_removal.py"
    ),
    ("docs/operations.md", "kubectl logs sniffer-cleanup"): "tests/cluster/test_removal.py",
    ("docs/api.md", "helm install"): "tests/cluster/test_removal.py",
    ("README.md", "sniffer lint bad.yaml"): "tests/unit/test_pages.py",
    ("README.md", "sniffer lint typo.yaml"): "tests/unit/test_pages.py",
    ("docs/how-to/lost-copies.md", "sniffer trace"): "tests/cluster/test_trace.py",
}
"""Which test runs the command of a page that begins so, as it stands there (`alone`), apart from its section."""

INLINE: Mapping[str, str] = {
    "docs/alerts.md": "tests/cluster/test_docs.py",
    "docs/api.md": "tests/cluster/test_docs.py",
    "docs/fields.md": "tests/cluster/test_docs.py",
    "docs/operations.md": "tests/cluster/test_docs.py",
    "docs/receivers/README.md": "tests/netns/test_receiver_pages.py",
    "docs/receivers/kernel.md": "tests/netns/test_receiver_pages.py",
    "docs/receivers/wireshark.md": "tests/netns/test_receiver_pages.py",
    "docs/security.md": "tests/cluster/test_docs.py",
    "docs/status.md": "tests/cluster/test_docs.py",
    "docs/values.md": "tests/cluster/test_docs.py",
}
"""Which test runs the other commands among the words of a page (`inline`), whichever there are."""

ELSEWHERE: Mapping[str, str] = {
    "make test": "scripts/tests",
    "sudo make test TESTS=tests/cluster": "scripts/tests",
    "docker build -t REGISTRY/sniffer:0.1.0 .": "tests/cluster/image",
    "docker push REGISTRY/sniffer:0.1.0": "tests/cluster/image",
    "docker build --target trace -t REGISTRY/sniffer-trace:0.1.0 .": "tests/cluster/image",
    "docker push REGISTRY/sniffer-trace:0.1.0": "tests/cluster/image",
    "tests/cluster/build prometheus": "tests/cluster/conftest.py",
    "tests/cluster/build operator": "tests/cluster/podmonitors.py",
    "tests/cluster/image arm64": "tests/cluster/conftest.py",
    "tests/cluster/image trace": "tests/cluster/conftest.py",
}
"""What is not run as it stands. The first two are the very run that this is (tests/unit/test_pages.py asks make what it
would do); images are built by buildah, without a registry; the rest is what a run has before it begins, and the
operator, which is for a record."""


@dataclass(frozen=True, slots=True)
class Block:
    """`heading`: the nearest above it; `language`: empty where none is given."""

    page: str
    heading: str
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Each with its continuation; of a `console` only what is typed."""
        lines = re.sub(r" *\\\n *", " ", self.text).splitlines()
        return lines if self.language != "console" else [line[2:] for line in lines if line.startswith("$ ")]

    @property
    def commands(self) -> list[str]:
        """Lines without what is said about them."""
        return [words for line in self.lines if (words := _bare(line))]

    @property
    def script(self) -> str:
        """For a shell: resources are applied, and what is run ALONE or ELSEWHERE is left out."""
        if self.language == "yaml":
            return f"kubectl apply -f - <<'END'\n{self.text}END\n"
        mine = tuple(beginning for page, beginning in ALONE if page == self.page)
        kept = [line for line in self.lines if _bare(line) not in ELSEWHERE and not line.startswith(mine)]
        return "".join(f"{line}\n" for line in kept)


def _bare(line: str) -> str:
    return re.sub(r"(^| +)# .*", "", line).rstrip()


def pages() -> list[str]:
    """What people read, by path; but records of decisions, and what is made of code (tests/unit/test_reference.py)."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    made = (DOCS / "commands.md", DOCS / "plugin-commands.md")
    found += [page for page in DOCS.rglob("*.md") if "adr" not in page.parts and page not in made]
    return sorted(str(page.relative_to(ROOT)) for page in found)


def blocks(page: str, under: str = "") -> list[Block]:
    """Of a page, by its path from the root, or of one of its sections."""
    heading, found = "", []
    for language, text, title in _BLOCK.findall((ROOT / page).read_text()):
        if title:
            heading = title
        else:
            found.append(Block(page, heading, language, text))
    return [block for block in found if under in ("", block.heading)]


def script(page: str, under: str = "") -> str:
    """What a page, or one of its sections, tells one to run."""
    found = [block.script for block in blocks(page, under) if block.language in RUN]
    assert any(found), (page, under)
    return "\n".join(found)


def alone(page: str, beginning: str) -> str:
    """The command of a page that begins so."""
    assert (page, beginning) in ALONE
    shown = {*spans(page), *(one for block in blocks(page) for one in block.commands)}
    [found] = {one for one in shown if one.startswith(beginning)}
    return found


def spans(page: str) -> list[str]:
    """Commands among the words of a page. The bare names of some (`sniffer doctor`, `helm upgrade`) are none."""
    words = _BLOCK.sub("", (ROOT / page).read_text())
    found = [" ".join(one.split()) for one in SPAN.findall(words)]
    return list(dict.fromkeys(one for one in found if _INLINE.match(one)))


def inline(page: str) -> list[str]:
    """Commands among the words of a page, without those of make, and what is run ALONE or ELSEWHERE."""
    mine = tuple(beginning for name, beginning in ALONE if name == page)
    found = [one for one in spans(page) if one not in ELSEWHERE and not one.startswith(mine)]
    return [one for one in found if not re.match(r"([A-Z_]+=\S+ |sudo )*make ", one)]


def clone(directory: Path) -> None:
    """Makes a directory what a page calls a clone of this repository: it has what is here, built."""
    for entry in ROOT.iterdir():
        (directory / entry.name).symlink_to(entry)


def examples() -> list[str]:
    """What `--help` of the commands shows, as docs/commands.md has it."""
    return re.findall(r"^Example: `(.+)`$", (DOCS / "commands.md").read_text(), re.MULTILINE)


def commands(page: str) -> dict[str, str]:
    """The named commands of a page below docs/, as they stand there."""
    found = _NAMED.findall((DOCS / page).read_text())
    names = [name for name, _ in found]
    assert all(names), f"{page}: a command has no name, and so no test"
    assert len(set(names)) == len(names), f"{page}: two commands of one name"
    return dict(found)
