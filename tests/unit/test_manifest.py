"""YAML files: the line of every problem, and nothing that one document does to the others."""

import io
import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer.cli.lint import lint
from sniffer.model.identity import Identity
from sniffer.model.manifest import FILE_LENGTH, Problem, duplicates, read
from tests.unit.test_model_resources import MIRROR, TARGET

BLOCK = """\
# A comment
apiVersion: sniffer.dev/v1alpha1
kind: MirrorTarget
metadata:
  name: zeek
spec:
  encapsulation:
    vxlan:
      vni: 16777216
      prot: 4789
  endpoints:
  - address: 10.0.9.5
  -
    address: 10.0.9.5/24
  outer:
    ttl:
      1000
    dscp: 64
"""


def problems(text: str | bytes) -> list[tuple[int, str, str]]:
    return [(problem.line, problem.field, problem.given) for problem in read(text, "f.yaml").problems]


def test_every_problem_has_its_own_line() -> None:
    """I3, I16, I2, I10 at once."""
    expected = [
        (9, "spec.encapsulation.vxlan.vni", "16777216"),
        (10, "spec.encapsulation.vxlan", '"prot"'),
        (14, "spec.endpoints[1].address", '"10.0.9.5/24"'),
        (16, "spec.outer.ttl", "1000"),
        (18, "spec.outer.dscp", "64"),
    ]
    assert problems(BLOCK) == expected
    assert problems(f"---\n{TARGET}---\n{BLOCK}") == [(line + 9, field, given) for line, field, given in expected]
    assert problems(BLOCK.replace("\n", "\r\n")) == expected
    assert problems(b"\xef\xbb\xbf" + BLOCK.encode()) == expected


def test_a_problem_is_one_line() -> None:
    assert str(read(BLOCK, "d/f.yaml").problems[0]) == (
        "d/f.yaml:9: spec.encapsulation.vxlan.vni: given 16777216, allowed 0..16777215"
    )
    assert str(read(BLOCK, "d/f.yaml").problems[1]) == (
        'd/f.yaml:10: spec.encapsulation.vxlan: given "prot", allowed vni, port'
    )


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("fliter", "filter"),
        ("snaplen", "snapLength"),
        ("Direction", "direction"),
        ("podselector", "podSelector"),
        ("x", ""),
    ],
)
def test_a_field_that_was_misspelt(typed: str, meant: str) -> None:
    text = MIRROR + f"  {typed}: 1\n"
    [problem] = [problem for problem in read(text, "f").problems if problem.given == f'"{typed}"']
    assert problem.allowed.partition("; ")[2] == (f"did you mean {meant}?" if meant else "")


BROKEN = ["a: [b", "a: b: c", "\ta: 1", "}", "a: 'b", "? ? x\n-", "%FOO", "*nobody", "!<x", "- a\nb: c", '"\\q"']


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_document_hides_no_other(broken: str) -> None:
    found = read(f"{TARGET}---\n{broken}\n---{MIRROR}", "f.yaml")
    assert [resource.identity.name for resource in found.resources] == ["zeek", "replay"]
    assert len(found.problems) >= 1
    assert found.broken == (None,)
    lines = {problem.line for problem in found.problems}
    assert lines <= {9, 10, 11}, [str(problem) for problem in found.problems]


def test_a_list_is_its_items() -> None:
    """As `kubectl get -o yaml` prints it; with the lines of the file, and paths of the item."""

    def item(text: str) -> str:
        return "- " + text.rstrip("\n").replace("\n", "\n  ") + "\n"

    head = "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: ''}\nitems:\n"
    source = read(head + item(TARGET) + item(BLOCK) + item(MIRROR), "f.yaml")
    before = len((head + TARGET).splitlines())
    lines = [(line + before, field, given) for line, field, given in problems(BLOCK)]
    assert [(problem.line, problem.field, problem.given) for problem in source.problems] == lines
    assert [one.identity for one in source.resources] == [
        one.identity for one in read(f"{TARGET}---\n{MIRROR}", "").resources
    ]
    assert source.broken == (Identity("MirrorTarget", None, "zeek"),)
    twice = head + item(TARGET) + item(MIRROR + "  direction: both\n  direction: both\n")
    assert problems(twice)[-1][1:] == ("spec.direction", '"direction" again (first on line 19)')
    assert len(read(twice, "").resources) == 1
    assert not read(head.replace("items:", "items: []"), "").broken
    # Not all of it is in items: nobody knows what was meant to stand there.
    assert read(head.replace("kind: List", "kind: List\nkind: List") + item(TARGET), "").broken == (None,)
    assert problems("apiVersion: v1\nkind: List\nitems: 3\n") == [(1, "apiVersion", '"v1"')]


def test_lines_of_broken_yaml() -> None:
    assert problems("a: 1\nb: c: d\n") == [(2, "document", '"b: c: d"')]
    assert problems("a: 1\nb: [c\n") == [(3, "document", '"the end of the text"')]
    assert problems("a: 1\n\nb: \0\n") == [(3, "document", "the character U+0000")]
    assert problems(b"a: 1\n\nb: \xff\n") == [(3, "document", "the byte 0xff")]


def test_documents() -> None:
    """Empty documents, comments, directives, ends of documents: as YAML has them."""
    assert read("", "f").resources == read("# nothing\n---\n---\n# nothing\n...\n", "f").resources == ()
    assert problems("---\n---\n\n---\n~\n...\n# x\n") == []
    text = f"%YAML 1.1\n# c\n--- {TARGET}...\n%YAML 1.1\n---{MIRROR}...\n"
    found = read(text, "f")
    assert found.problems == ()
    assert [resource.where["kind"] for resource in found.resources] == [5, 14]
    [resource] = read(MIRROR + "  filter: |\n    tcp\n    ---\n", "f").resources
    assert resource.value.spec.filter == "tcp\n---\n"


def test_duplicate_keys() -> None:
    text = BLOCK.replace("    dscp: 64", "    dscp: 1\n    dscp: 2")
    assert (19, "spec.outer.dscp", '"dscp" again (first on line 18)') in problems(text)
    assert problems(TARGET + "kind: MirrorTarget\n") == [(8, "kind", '"kind" again (first on line 3)')]


def test_keys_that_are_no_strings() -> None:
    """I18: `on` as a key is a boolean."""
    assert problems(TARGET + "on: 1\n") == [(8, "document", "the field on (YAML reads it as true)")]
    assert problems(TARGET + "1: 1\n") == [(8, "document", "the field 1")]
    assert problems(TARGET + "? [a]\n: 1\n") == [(8, "document", "a list or mapping as a field's name")]
    [(line, field, given_)] = problems(TARGET + "  'a b\\n': 1\n")
    assert (line, field, given_) == (8, "spec", '"a b\\\\n"')


@pytest.mark.parametrize(
    ("text", "field", "allowed"),
    [
        ("- 1\n", "document", "a mapping with apiVersion"),
        ("text\n", "document", "a mapping with apiVersion"),
        ("{}\n", "apiVersion", "sniffer.dev/v1alpha1"),
        ("{apiVersion: v1, kind: Pod}\n", "apiVersion", "sniffer.dev/v1alpha1"),
        ("{apiVersion: sniffer.dev/v1alpha1}\n", "kind", "ClusterTrafficMirror, MirrorTarget"),
        ("{apiVersion: sniffer.dev/v1alpha1, kind: List, items: []}\n", "kind", "ClusterTrafficMirror, MirrorTarget"),
        ("{apiVersion: sniffer.dev/v1alpha1, kind: [a]}\n", "kind", "ClusterTrafficMirror, MirrorTarget"),
    ],
)
def test_what_is_no_resource_of_ours(text: str, field: str, allowed: str) -> None:
    [problem] = read(text, "f").problems
    assert problem.field == field
    assert problem.allowed.startswith(allowed)


def test_anchors_and_merges() -> None:
    text = f"{TARGET}---{MIRROR}  rules:\n  - &first {{action: Skip, filter: arp}}\n  - {{<<: *first, filter: ip}}\n"
    found = read(text, "f")
    assert found.problems == ()
    assert [(rule.action, rule.filter) for rule in found.resources[1].value.spec.rules] == [
        ("Skip", "arp"),
        ("Skip", "ip"),
    ]


BOMB = "a: &a [x, x, x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghij"))


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: &a {b: *a}",
        "&a {<<: *a}",
        "a: &a {<<: *a}",
        "a: {<<: 5}",
        "a: {<<: [5]}",
        BOMB,
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 10_000,
        "a: " + "9" * 10_000,
        "a: 0x" + "f" * 10_000,
        "a: !!int 0x",
        "a: !!timestamp x",
        "? !!binary é\n: 1",
    ],
)
def test_hostile_texts_end(text: str) -> None:
    """Loops, bombs, depth, and scalars that PyYAML itself trips over: problems, soon, and the next document is read."""
    found = read(f"{text}\n---{TARGET}", "f")
    assert found.problems
    assert [resource.identity.name for resource in found.resources] == ["zeek"]
    assert all(str(problem).isprintable() and len(str(problem)) < 500 for problem in found.problems)


def test_a_bomb_is_not_unfolded() -> None:
    assert "more than 20000 values, aliases followed" in [problem.given for problem in read(BOMB, "f").problems]
    merge = "{x: 1}"
    for number in range(40):
        merge = f"{{<<: [&a{number} {merge}, *a{number}]}}"
    assert "more than 20000 values, aliases followed" in [problem.given for problem in read(merge, "f").problems]


def test_a_huge_file() -> None:
    assert problems(" " * (FILE_LENGTH + 1)) == [(1, "document", f"{FILE_LENGTH + 1} bytes")]


@given(st.one_of(st.text(), st.text("-:[]{}&*!|>'\"%@#?,ab01 \n\t~<\r\x85")))
def test_no_text_crashes(text: str) -> None:
    found = read(f"{text}\n---{TARGET}", "f")
    for problem in found.problems:
        assert str(problem).isprintable()
        assert 1 <= problem.line <= len(text) + 9


@given(st.binary())
def test_no_bytes_crash(blob: bytes) -> None:
    """I14: random bytes as text."""
    for problem in read(blob, "f").problems:
        assert str(problem).isprintable()


def test_where() -> None:
    """Errors found later name their line too; a field that is not there, the one around it."""
    [resource] = read("---\n\n" + MIRROR + "  rules:\n  - action: Skip\n", "f").resources
    assert resource.where["spec.rules[0].action"] == 11
    assert resource.problem("spec.rules[0].filter", "x", "y") == Problem("f", 11, "spec.rules[0].filter", "x", "y")
    assert resource.problem("spec.targetRefs[0].name", "x", "y").line == 9
    assert resource.problem("nothing.of.this", "x", "y").line == resource.where["document"]


def test_duplicates() -> None:
    one, two = read(TARGET + "---" + MIRROR, "a"), read(f"---{TARGET}", "b")
    [problem] = duplicates([one, two])
    assert str(problem) == 'b:4: metadata.name: given "zeek" again (first at a:4), allowed each MirrorTarget once'
    assert duplicates([one]) == ()


def test_broken_resources_say_who_they_are() -> None:
    assert read(BLOCK, "f").broken == (Identity("MirrorTarget", None, "zeek"),)
    assert read("a: [", "f").broken == (None,)
    assert read(TARGET, "f").broken == ()


# lint


def files(directory: Path, **texts: str) -> list[Path]:
    for name, text in texts.items():
        (directory / f"{name}.yaml").write_text(text)
    return [directory / f"{name}.yaml" for name in texts]


def linted(capsys: pytest.CaptureFixture[str], paths: list[Path], as_json: bool = False) -> tuple[int, str, str]:
    status = lint(paths, as_json)
    out, err = capsys.readouterr()
    return status, out, err


def test_lint_of_good_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files(tmp_path, a=TARGET, b=MIRROR + "  filter: tcp port 80\n")
    (tmp_path / "c.txt").write_text("{")
    (tmp_path / ".d.yaml").write_text("{")
    assert linted(capsys, [tmp_path]) == (0, "2 resources, no problem\n", "")
    assert linted(capsys, [tmp_path, tmp_path / "a.yaml"], as_json=True) == (0, "[]\n", "")


def test_lint_of_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As `kubectl get ... -o yaml | sniffer lint -` has it."""
    for text, expected in ((TARGET, (0, "1 resource, no problem\n", "")), ("a: [b", (1, "<stdin>:1: document", ""))):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        status, out, err = linted(capsys, [Path("-")])
        assert (status, out[: len(expected[1])], err) == expected


def test_lint_finds_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """I1, I2, I7: filters that do not compile, with the rule's number; unknown targets; names given twice."""
    rules = (
        "  rules:\n"
        "  - {action: Skip, filter: port 65536}\n"
        "  - {action: Skip, filter: net 10.0.0.1/8}\n"
        "  - {action: Skip, filter: arp}\n"
        "  - {action: Skip, filter: portrange 9-1}\n"
        "  - action: Skip\n"
        "    filter: >\n"
        "      tcp and\n"
        "      hst 10.0.0.1\n"
    )
    [path] = files(tmp_path, a=TARGET + "---" + MIRROR.replace("zeek", "zek") + rules + "---" + MIRROR)
    status, out, err = linted(capsys, [path])
    assert (status, err) == (1, "")
    compiles = "allowed a filter that compiles:"
    assert out.splitlines() == [
        f'{path}:14: spec.targetRefs[0].name: given "zek", allowed a MirrorTarget of these files: zeek',
        f'{path}:16: spec.rules[0].filter: given "port 65536", {compiles} illegal port number 65536 > 65535',
        f'{path}:17: spec.rules[1].filter: given "net 10.0.0.1/8", {compiles} non-network bits set in "10.0.0.1/8"',
        f'{path}:19: spec.rules[3].filter: given "portrange 9-1", {compiles} range "9-1" is reversed (at offset 10)',
        (
            f'{path}:21: spec.rules[4].filter: given "tcp and hst 10.0.0.1", {compiles} '
            '"hst" is no word of pcap-filter (at offset 8)'
        ),
        f'{path}:27: metadata.name: given "replay" again (first at {path}:11), allowed each ClusterTrafficMirror once',
    ]
    status, out, _ = linted(capsys, [path], as_json=True)
    found = json.loads(out)
    assert (status, len(found)) == (1, 6)
    assert found[0] == {
        "file": str(path),
        "line": 14,
        "field": "spec.targetRefs[0].name",
        "given": '"zek"',
        "allowed": "a MirrorTarget of these files: zeek",
        "message": f'{path}:14: spec.targetRefs[0].name: given "zek", allowed a MirrorTarget of these files: zeek',
    }


def test_lint_of_a_mirror_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No target among the files, or one that may be the target but is broken: nothing is said about targetRefs."""
    alone, broken, unreadable = files(tmp_path, a=MIRROR, b=BLOCK, c="{")
    assert linted(capsys, [alone])[0] == 0
    assert "targetRefs" not in linted(capsys, [alone, broken])[1]
    [other] = files(tmp_path, d=TARGET.replace("name: zeek", "name: other"))
    assert "targetRefs" in linted(capsys, [alone, other])[1]
    assert "targetRefs" not in linted(capsys, [alone, other, unreadable])[1]


def test_lint_of_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [bad] = files(tmp_path, a="{")
    status, out, err = linted(capsys, [tmp_path / "missing.yaml", bad])
    assert (status, err) == (2, f"sniffer: {tmp_path}/missing.yaml: No such file or directory\n")
    assert out.startswith(f"{bad}:1: document:")
    (tmp_path / "empty").mkdir()
    assert linted(capsys, [tmp_path / "empty"]) == (
        2,
        "",
        f"sniffer: {tmp_path}/empty: no *.yaml or *.yml in this directory\n",
    )
    assert linted(capsys, []) == (2, "", "sniffer: no file given\n")
