"""Every command that a page shows is run by a test: in a section that one follows, or elsewhere in other words."""

import re
from pathlib import Path

import pytest
import yaml

from sniffer.manifests import read
from tests import pages
from tests.agent import sniffer
from tests.pages import ELSEWHERE, FOLLOWED, ROOT, RUN, Block, blocks

OTHER_LANGUAGES = {"json", "python", "zeek"}
PROGRAMS = re.compile(
    r"^(\$ |# |sudo )*(kubectl|helm|sniffer|make|docker|podman|tshark|wireshark|tcpdump|zeek|suricata|ip|tc|nft|"
    r"bpftool|curl|mount|mkdir|ln|kill|git|pip|apt-get|journalctl|systemctl|scripts/[a-z]+|\.venv/\S+) "
)
OF_THE_DEMO = ("Try it", "sniffer status")
"""A heading among what it prints."""
BAD = """\
apiVersion: sniffer.dev/v1alpha1
kind: MirrorTarget
metadata: {name: zeek}
spec:
  encapsulation: {vxlan: {vni: 16777216}}
  endpoints: [{address: 10.0.9.0/24}]
---
apiVersion: sniffer.dev/v1alpha1
kind: ClusterTrafficMirror
metadata: {name: web}
spec:
  interfaces: [eth0]
  targetRefs: [{name: zeek}]
  colour: red
"""
TYPO = """\
apiVersion: sniffer.dev/v1alpha1
kind: ClusterTrafficMirror
metadata: {name: web}
spec:
  interfaces: [eth0]
  filter: "tcp prt 443"
  targetRefs: [{name: zeek}]
"""


def unrun(block: Block) -> list[str]:
    """Of a block what no test runs."""
    if block.language not in RUN:
        lines = block.text.splitlines()
        return [line for line in lines if PROGRAMS.match(line) and (block.heading, line) != OF_THE_DEMO]
    if any((block.page, heading) in FOLLOWED for heading in ("", block.heading)):
        return []
    if block.language == "yaml":
        return ["resources"]
    return [one for one in block.commands if one not in ELSEWHERE]


@pytest.mark.parametrize("page", pages.pages())
def test_every_command_is_run(page: str) -> None:
    found = blocks(page)
    assert {block.language for block in found} <= {"", *RUN, *OTHER_LANGUAGES}
    assert not {f"{block.heading}: {line}" for block in found for line in unrun(block)}


def test_a_new_command_would_be_noticed() -> None:
    for language, text in (("sh", "kubectl sniffer brew\n"), ("", "$ helm rollback x\n"), ("yaml", "kind: Pod\n")):
        assert unrun(Block("docs/plugin.md", "Capture", language, text))
    assert unrun(Block("docs/plugin.md", "Install", "sh", "sudo rm -r /  # never\nmake build\n")) == ["sudo rm -r /"]


@pytest.mark.parametrize(("page", "heading"), FOLLOWED)
def test_who_follows_a_page_names_it(page: str, heading: str) -> None:
    text = (ROOT / FOLLOWED[page, heading]).read_text()
    assert page in text or page.removeprefix("docs/") in text or Path(page).stem in text
    assert heading in text or heading == "An example of everything"
    assert any(block.language in RUN for block in blocks(page, heading)), "nothing to follow"


def test_what_is_elsewhere_is_there() -> None:
    """And still shown on some page."""
    shown = {command for page in pages.pages() for block in blocks(page) for command in block.commands}
    for command, place in ELSEWHERE.items():
        file, _, name = place.partition("::")
        assert (ROOT / file).is_file(), place
        assert not name or f"def {name}(" in (ROOT / file).read_text(), place
        assert command in shown


def test_images_have_the_tag_that_the_chart_asks_for() -> None:
    """In the commands and in pods of every page; and they are pushed after they are built, before they are used."""
    chart = yaml.safe_load((ROOT / "deploy/helm/sniffer/Chart.yaml").read_text())
    for page in ("README.md", "docs/api.md", "docs/how-to/lost-copies.md"):
        text = "".join(block.text for block in blocks(page) if block.language in RUN)
        assert set(re.findall(r"REGISTRY/sniffer(?:-trace)?:(\S+)", text)) == {chart["appVersion"]}
        assert re.findall(r"docker (?:build|push)|helm install|image: REGISTRY", text)[:2] == [
            "docker build",
            "docker push",
        ]


@pytest.mark.parametrize("page", pages.pages())
def test_resources_of_ours_are_taken(page: str) -> None:
    """By what `sniffer lint` goes by; a target may be on another page."""
    for block in blocks(page):
        if block.language == "yaml" and "apiVersion: sniffer.dev/" in block.text:
            source = read(block.text, page)
            assert not [problem for problem in source.problems if problem.field != "apiVersion"]
            assert source.resources


def test_what_lint_says_in_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the letter, but for what an ellipsis stands for."""
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(BAD)
    Path("typo.yaml").write_text(TYPO)
    bad, typo = sniffer("lint", "bad.yaml"), sniffer("lint", "typo.yaml")
    (shown,) = (block.text for block in blocks("README.md", "Use it") if block.language == "console")
    said = f"$ sniffer lint bad.yaml; echo $?\n{bad.stdout}{bad.returncode}\n$ sniffer lint typo.yaml\n{typo.stdout}"
    assert re.fullmatch(r"[^\n]*".join(map(re.escape, shown.split("..."))), said), said
