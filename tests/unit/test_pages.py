"""Every command that a page shows is run by a test, as it stands there: with its section, or alone."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from sniffer.manifests import read
from tests import pages
from tests.agent import SNIFFER
from tests.pages import ALONE, ELSEWHERE, FOLLOWED, INLINE, ROOT, RUN, SPAN, Block, alone, blocks

OTHER_LANGUAGES = {"json", "nft", "python", "zeek"}
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
    mine = tuple(beginning for page, beginning in ALONE if page == block.page)
    return [one for one in block.commands if one not in ELSEWHERE and not one.startswith(mine)]


@pytest.mark.parametrize("page", pages.pages())
def test_every_command_is_run(page: str) -> None:
    found = blocks(page)
    assert {block.language for block in found} <= {"", *RUN, *OTHER_LANGUAGES}
    assert not {f"{block.heading}: {line}" for block in found for line in unrun(block)}


@pytest.mark.parametrize("page", pages.pages())
def test_every_command_among_words_is_run(page: str) -> None:
    assert page in INLINE or not pages.inline(page)


@pytest.mark.parametrize("page", INLINE)
def test_who_runs_commands_among_words_does(page: str) -> None:
    text = (ROOT / INLINE[page]).read_text()
    assert "inline(" in text
    assert Path(page).stem in text
    assert pages.inline(page), "nothing to run"


MAKE = re.compile(r"(sudo |[A-Z_]+=\S+ )*make [a-z]")


def makes() -> list[str]:
    """What pages tell one to make, in blocks and among words."""
    shown = [one for page in pages.pages() for block in blocks(page) for one in block.commands]
    shown += [one for page in pages.pages() for one in SPAN.findall((ROOT / page).read_text())]
    return sorted({" ".join(one.split()) for one in shown if MAKE.match(one)})


@pytest.mark.parametrize("line", makes())
def test_what_make_would_do(line: str, tmp_path: Path) -> None:
    """Asked, not done: most of it is the run that this is. The tests that it would run are there."""
    for name, words in (("make", '/usr/bin/make --dry-run "$@"'), ("sudo", '"$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\nexec {words}\n")
        (tmp_path / name).chmod(0o755)
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "TESTS"))}
    mine["PATH"] = f"{tmp_path}:{mine['PATH']}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=mine, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    if chosen := re.search(r"TESTS=('[^']+'|\S+)", line):
        words = chosen[1].strip("'")
        assert words in done.stdout
        (path, *rest) = words.split()
        assert (ROOT / path).exists()
        for word in rest[rest.index("-k") + 1 :][:1] if "-k" in rest else ():
            files = [ROOT / path] if path.endswith(".py") else (ROOT / path).glob("*.py")
            assert any(word in file.read_text() for file in files)


def test_a_new_command_would_be_noticed() -> None:
    for language, text in (("sh", "kubectl sniffer brew\n"), ("", "$ helm rollback x\n"), ("yaml", "kind: Pod\n")):
        assert unrun(Block("docs/metrics.md", "", language, text))
    assert unrun(Block("docs/metrics.md", "", "sh", "sudo rm -r /  # never\nmake test\n")) == ["sudo rm -r /"]
    assert not unrun(Block("README.md", "Try it", "sh", "make demo    # real traffic\n"))


@pytest.mark.parametrize(("page", "heading"), FOLLOWED)
def test_who_follows_a_page_names_it(page: str, heading: str) -> None:
    text = (ROOT / FOLLOWED[page, heading]).read_text()
    assert page in text or page.removeprefix("docs/") in text or Path(page).stem in text
    assert heading in text or heading == "An example of everything"
    assert any(block.language in RUN for block in blocks(page, heading)), "nothing to follow"


@pytest.mark.parametrize(("page", "beginning"), ALONE)
def test_who_runs_a_command_alone_names_it(page: str, beginning: str) -> None:
    text = (ROOT / ALONE[page, beginning]).read_text().replace("'", '"')
    assert f'"{page}"' in text
    assert f'"{beginning}"' in text
    assert alone(page, beginning)


def test_what_is_elsewhere_is_there() -> None:
    """And still shown on some page."""
    shown = {command for page in pages.pages() for block in blocks(page) for command in block.commands}
    shown |= {command for page in pages.pages() for command in pages.spans(page)}
    for command, place in ELSEWHERE.items():
        assert (ROOT / place).is_file(), place
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


def test_what_lint_says_in_the_readme(tmp_path: Path) -> None:
    """To the letter, but for what an ellipsis stands for."""
    (tmp_path / "bad.yaml").write_text(BAD)
    (tmp_path / "typo.yaml").write_text(TYPO)
    environment = os.environ | {"PATH": f"{SNIFFER.parent}:{os.environ['PATH']}"}
    said = ""
    for beginning in ("sniffer lint bad.yaml", "sniffer lint typo.yaml"):
        line = alone("README.md", beginning)
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
        said += f"$ {line}\n{done.stdout}{done.stderr}"
    (shown,) = (block.text for block in blocks("README.md", "Use it") if block.language == "console")
    assert re.fullmatch(r"[^\n]*".join(map(re.escape, shown.split("..."))), said), said
