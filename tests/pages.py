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
    ("docs/receivers/kernel.md", ""): "tests/netns/test_receiver_pages.py",
    ("docs/receivers/recv.md", ""): "tests/netns/test_receiver_pages.py",
    ("docs/receivers/suricata.md", ""): "tests/netns/test_suricata.py",
    ("docs/receivers/wireshark.md", ""): "tests/netns/test_receiver_pages.py",
    ("docs/receivers/zeek.md", ""): "tests/netns/test_zeek.py",
    ("docs/tutorial.md", ""): "tests/netns/test_tutorial.py",
}
"""Which test follows a section of a page, or all of it, as it stands there, but for what is ELSEWHERE."""

RUN = frozenset({"sh", "bash", "console", "yaml"})
_PLUGIN = "tests/cluster/test_plugin.py"
ELSEWHERE: Mapping[str, str] = {
    "make demo": "tests/netns/test_demo.py::test_every_frame_arrives_and_edits_take_hold",
    "make test": "scripts/tests",
    "scripts/isolated .venv/bin/python -m demo --sabotage ICMP; echo $?": (
        "tests/netns/test_demo.py::test_a_bad_wire_is_noticed"
    ),
    "sudo make test TESTS=tests/cluster": "scripts/tests",
    "make build": "Makefile",
    "docker build -t REGISTRY/sniffer:0.1.0 .": "tests/cluster/image",
    "docker push REGISTRY/sniffer:0.1.0": "tests/cluster/image",
    "docker build --target trace -t REGISTRY/sniffer-trace:0.1.0 .": "tests/cluster/image",
    "docker push REGISTRY/sniffer-trace:0.1.0": "tests/cluster/image",
    "apt-get install -y suricata curl": "packages.apt",
    "helm install sniffer deploy/helm/sniffer --namespace sniffer-system --create-namespace"
    " --set image.repository=REGISTRY/sniffer --set 'serviceCIDRs={10.96.0.0/12}'": (
        "tests/cluster/test_removal.py::test_installed_again"
    ),
    "sniffer lint bad.yaml; echo $?": "tests/unit/test_pages.py::test_what_lint_says_in_the_readme",
    "sniffer lint typo.yaml": "tests/unit/test_pages.py::test_what_lint_says_in_the_readme",
    "sniffer trace --seconds 60": "tests/cluster/test_trace.py::test_a_queue_that_takes_nothing",
    "sudo install kubectl-sniffer /usr/local/bin/": f"{_PLUGIN}::bed",
    "sudo ln -s kubectl-sniffer /usr/local/bin/kubectl_complete-sniffer": f"{_PLUGIN}::test_completion",
    "kubectl sniffer apply-template web -n shop --pods app=web --to 10.0.9.5 --filter 'tcp port 443' --dry-run": (
        f"{_PLUGIN}::test_what_it_tells"
    ),
    "kubectl sniffer explain shop/web": f"{_PLUGIN}::test_what_it_tells",
    "kubectl exec -n sniffer-system deploy/sniffer-controller -- sniffer plugin >kubectl-sniffer": f"{_PLUGIN}::bed",
    "kubectl sniffer capture web-0 -n shop --filter 'tcp port 443' | wireshark -k -i -": (
        f"{_PLUGIN}::test_every_frame_of_the_pod_while_it_is_mirrored"
    ),
    "kubectl sniffer capture web-0 -n shop | wireshark -k -i -": (
        f"{_PLUGIN}::test_every_frame_of_the_pod_while_it_is_mirrored"
    ),
    "kubectl sniffer capture web-0 -n shop --filter 'udp port 53' --duration 30s -w dns.pcapng": (
        f"{_PLUGIN}::test_options_reach_the_node"
    ),
    "mkdir -p ~/.local/lib/wireshark/extcap && ln -s /usr/local/bin/kubectl-sniffer"
    " ~/.local/lib/wireshark/extcap/sniffer-extcap": f"{_PLUGIN}::wireshark",
    "tshark -D | grep sniffer": f"{_PLUGIN}::test_wireshark_sees_pods",
    "tshark -i sniffer:shop/web-0 -f 'tcp port 443'": f"{_PLUGIN}::test_wireshark_sees_pods",
}
"""What does the same as a command that is not run as it stands: for it asks for a terminal, the network, or another's
program."""


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
        """For a shell: resources are applied, and what is ELSEWHERE is left out."""
        if self.language == "yaml":
            return f"kubectl apply -f - <<'END'\n{self.text}END\n"
        return "".join(f"{line}\n" for line in self.lines if _bare(line) not in ELSEWHERE)


def _bare(line: str) -> str:
    return re.sub(r"(^| +)# .*", "", line).rstrip()


def pages() -> list[str]:
    """What people read, by path; but records of decisions, and what is made of code (tests/unit/test_reference.py)."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    found += [page for page in DOCS.rglob("*.md") if "adr" not in page.parts and page != DOCS / "commands.md"]
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


def commands(page: str) -> dict[str, str]:
    """The named commands of a page below docs/, as they stand there."""
    found = _NAMED.findall((DOCS / page).read_text())
    names = [name for name, _ in found]
    assert all(names), f"{page}: a command has no name, and so no test"
    assert len(set(names)) == len(names), f"{page}: two commands of one name"
    return dict(found)
