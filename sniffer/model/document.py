"""YAML text -> plain values, with the line of every field.

PyYAML's SafeLoader decides what a scalar means (YAML 1.1), but a time is text, as for kubectl. What would surprise its
writer is refused: keys given twice, `010` for 8, `12:30` for 750.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from sniffer.model.problem import Path, Problem, field_of, printable, quoted

NODES = 20_000
"""Of one document, aliases followed: a small text can alias itself into a huge value."""

Value = Any
"""None, bool, int, float, str, bytes, list or dict with str keys."""

_MERGE = "tag:yaml.org,2002:merge"
_INT = "tag:yaml.org,2002:int"
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_ITEM = re.compile(r"items\[(\d+)\]\.?")
_SURPRISING_INT = re.compile(r"[-+]?0[0-7_]+|.*:.*")


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: its value, and for each path the line (from 1) and the words to show for what was given."""

    line: int
    value: Value
    where: Mapping[Path, int]
    given: Mapping[Path, str]
    problems: tuple[Problem, ...]

    def line_of(self, path: Path) -> int:
        """The line of the field, or of the nearest field around it."""
        while path and path not in self.where:
            path = path[:-1]
        return self.where.get(path, self.line)


def documents(text: str, file: str) -> Iterator[Document | Problem]:
    """The documents of a text in their order; empty ones are left out, a broken one is a Problem."""
    for first_line, chunk in _chunks(text):
        try:
            # Mostly one: only rare line breaks (U+0085, U+2028) hide a document's start from _chunks.
            for node in yaml.compose_all(chunk, yaml.SafeLoader):
                if node is not None and not _is_empty(node):
                    yield _Reader(file, first_line).read(node)
        except yaml.MarkedYAMLError as error:
            yield _broken(error, file, first_line, chunk)
        except yaml.reader.ReaderError as error:
            line = first_line + chunk.count("\n", 0, error.position)
            yield Problem(file, line, "document", f"the character {_code(error.character)}", "text that YAML can hold")
        except RecursionError:
            # Also an alias of what it is a part of.
            yield Problem(file, first_line, "document", "lists or mappings nested too deep", "a depth that people read")


def members(document: Document) -> Iterator[Document]:
    """The items of a List, as `kubectl get -o yaml` prints one, each as a document; else the document itself.

    A List with problems outside of its items is one document, for nobody knows what was meant to stand in it.
    """
    value = document.value
    of_core = isinstance(value, dict) and (value.get("apiVersion"), value.get("kind")) == ("v1", "List")
    items = value.get("items") if of_core else None
    members = [_ITEM.match(problem.field) for problem in document.problems]
    if not isinstance(items, list) or not all(members):
        yield document
        return
    where: list[dict[Path, int]] = [{(): document.line_of(("items", at))} for at in range(len(items))]
    given: list[dict[Path, str]] = [{} for _ in items]
    problems: list[list[Problem]] = [[] for _ in items]
    for path, line in document.where.items():
        if path[:1] == ("items",) and len(path) > 1:
            where[int(path[1])][path[2:]] = line
    for path, words in document.given.items():
        if path[:1] == ("items",) and len(path) > 1:
            given[int(path[1])][path[2:]] = words
    for problem, member in zip(document.problems, members, strict=True):
        if member:
            problems[int(member[1])].append(replace(problem, field=problem.field[member.end() :] or "document"))
    for at, item in enumerate(items):
        yield Document(where[at][()], item, where[at], given[at], tuple(problems[at]))


def _chunks(text: str) -> Iterator[tuple[int, str]]:
    """Cuts before each `---` and after each `...`, so that a broken document does not hide those after it."""
    chunk: list[str] = []
    start = 1
    preface = True
    for number, line in enumerate(re.split(r"(?<=\n)|(?<=\r)(?!\n)", text), start=1):
        begins = re.match(r"---(\s|$)", line) is not None
        if begins and not preface:
            yield start, "".join(chunk)
            chunk, start = [], number
        preface = not begins and (preface or begins) and re.match(r"\s*(#.*)?$|%", line) is not None
        chunk.append(line)
        if re.match(r"\.\.\.(\s|$)", line):
            yield start, "".join(chunk)
            chunk, start, preface = [], number + 1, True
    yield start, "".join(chunk)


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _broken(error: yaml.MarkedYAMLError, file: str, first_line: int, chunk: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    row = mark.line if mark else 0
    lines = chunk.splitlines()
    text = lines[row].strip() if row < len(lines) else "the end of the text"
    words = printable(" ".join(part for part in (error.context, error.problem) if part), 200)
    return Problem(file, first_line + row, "document", quoted(text), f"well-formed YAML ({words})")


def _code(character: str | int) -> str:
    return f"U+{character if isinstance(character, int) else ord(character):04X}"


@dataclass(slots=True)
class _Reader:
    """Turns the nodes of one document into values, and remembers lines on the way."""

    file: str
    first_line: int
    where: dict[Path, int] = field(default_factory=dict)
    given: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    scalars: yaml.constructor.SafeConstructor = field(default_factory=yaml.constructor.SafeConstructor)
    nodes: int = 0

    def read(self, node: yaml.Node) -> Document:
        line = self._line(node)
        self.where[()] = line
        value = self._value(node, ())
        return Document(line, value, self.where, self.given, tuple(self.problems))

    def _line(self, node: yaml.Node) -> int:
        return self.first_line + int(node.start_mark.line)

    def _refuse(self, node: yaml.Node, path: Path, given: str, allowed: str) -> None:
        self.problems.append(Problem(self.file, self._line(node), field_of(path), given, allowed))

    def _value(self, node: yaml.Node, path: Path) -> Value:
        self.where.setdefault(path, self._line(node))
        if self._is_spent(node, path):
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, yaml.SequenceNode):
            self.given[path] = f"a list of {len(node.value)}"
            return [self._value(item, (*path, at)) for at, item in enumerate(node.value)]
        self.given[path] = "a mapping"
        return self._mapping(node, path)

    def _is_spent(self, node: yaml.Node, path: Path) -> bool:
        self.nodes += 1
        if self.nodes == NODES + 1:
            self._refuse(node, path, f"more than {NODES} values, aliases followed", f"at most {NODES}")
        return self.nodes > NODES

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Value]:
        value: dict[str, Value] = {}
        merged: list[yaml.Node] = []
        for key, item in node.value:
            if key.tag == _MERGE:
                merged += item.value if isinstance(item, yaml.SequenceNode) else [item]
                continue
            name = self._key(key, path)
            if name is None:
                continue
            inner = (*path, name)
            if name in value:
                first = self.where[inner]
                self._refuse(key, inner, f"{quoted(name)} again (first on line {first})", "each field once")
                continue
            self.where[inner] = self._line(key)
            value[name] = self._value(item, inner)
        for other in merged:
            self._merge(other, path, value)
        return value

    def _merge(self, node: yaml.Node, path: Path, value: dict[str, Value]) -> None:
        """`<<`: fields of another mapping, for those not given here."""
        if self._is_spent(node, path):
            return
        if not isinstance(node, yaml.MappingNode):
            self._refuse(node, path, "<< with something else than another mapping", "<< with an alias of a mapping")
            return
        known = {key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)} & set(value)
        rest = [pair for pair in node.value if not (isinstance(pair[0], yaml.ScalarNode) and pair[0].value in known)]
        value |= self._mapping(yaml.MappingNode(node.tag, rest, node.start_mark, node.end_mark), path)

    def _key(self, key: yaml.Node, path: Path) -> str | None:
        if not isinstance(key, yaml.ScalarNode):
            self._refuse(key, path, "a list or mapping as a field's name", "a string as a field's name")
            return None
        name = self._construct(key, path)
        if isinstance(name, str):
            return name
        if name is not None:
            given = f"the field {_spelled(key, name)}"
            self._refuse(key, path, given, "a string as a field's name; quotes make it one")
        return None

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Value:
        value = self._construct(node, path)
        self.given[path] = _spelled(node, value)
        if node.tag == _INT and node.style is None and _SURPRISING_INT.fullmatch(node.value):
            allowed = "a number in plain decimal, or in quotes if it is meant as text"
            self._refuse(node, path, _spelled(node, value), allowed)
        return value

    def _construct(self, node: yaml.ScalarNode, path: Path) -> Value:
        if node.tag == _TIMESTAMP:
            return node.value
        try:
            return self.scalars.construct_object(node)
        except (yaml.YAMLError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError):
            # SafeConstructor lets through what int(), date() and re.match() make of a bad text.
            tag = node.tag.removeprefix("tag:yaml.org,2002:")
            self._refuse(node, path, f"{quoted(node.value)} as {printable(tag)}", "a value that its type can hold")
            return None


def _spelled(node: yaml.ScalarNode, value: Value) -> str:
    """What the writer wrote; with what YAML made of it, where that is not the same."""
    if isinstance(value, str):
        return quoted(value)
    if value is None:
        return "null"
    text = printable(node.value)
    if isinstance(value, bool):
        plain = "true" if value else "false"
        return text if text == plain else f"{text} (YAML reads it as {plain})"
    if isinstance(value, int) and node.value.lstrip("+") != _decimal(value):
        return f"{text} (YAML reads it as {_decimal(value)})"
    return text


def _decimal(value: int) -> str:
    # str() refuses integers of thousands of digits, which hexadecimal can spell.
    return str(value) if value.bit_length() < 256 else "a huge number"
