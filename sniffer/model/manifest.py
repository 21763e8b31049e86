"""Files of resources: text -> resources and problems. One bad document does not stop the others."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from sniffer.model.base import DEFAULT_NAMESPACE, Allowed
from sniffer.model.document import Document, documents, members
from sniffer.model.identity import Identity
from sniffer.model.problem import LENGTH, Path, Problem, field_of, printable, quoted
from sniffer.model.resources import API_VERSION, KINDS, Written, WrittenKind

__all__ = ["FILE_LENGTH", "Problem", "Resource", "Source", "duplicates", "read"]

FILE_LENGTH = 1 << 20
"""Bytes (characters of a text): beyond what any API server would store."""

_STATUS = "status"
_AT_A_GLANCE = 4


@dataclass(frozen=True, slots=True)
class Resource:
    """One valid resource and where it was written: `where` has the line of every field, by its path."""

    file: str
    value: Written
    where: Mapping[str, int]

    @property
    def identity(self) -> Identity:
        """Kind, namespace, name."""
        return self.value.identity

    def problem(self, field: str, given: str, allowed: str) -> Problem:
        """An error found later, on the line of the field or of the nearest one around it."""
        nearest = field
        while nearest and nearest not in self.where:
            nearest = nearest[: max(nearest.rfind("."), nearest.rfind("["), 0)]
        line = self.where.get(nearest, self.where["document"])
        return Problem(self.file, line, field, printable(given, 200), allowed)


@dataclass(frozen=True, slots=True)
class Source:
    """What one file holds; `broken` has an item for each document with problems, None where it says no name."""

    file: str
    resources: tuple[Resource, ...]
    problems: tuple[Problem, ...]
    broken: tuple[Identity | None, ...] = ()


def read(text: str | bytes, file: str) -> Source:
    """Reads the YAML documents of one file; bytes are UTF-8. Never raises on what the text says."""
    if len(text) > FILE_LENGTH:
        return Source(
            file, (), (Problem(file, 1, "document", f"{len(text)} bytes", f"at most {FILE_LENGTH}"),), (None,)
        )
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            given = f"the byte 0x{error.object[error.start]:02x}"
            return Source(file, (), (Problem(file, line, "document", given, "text in UTF-8"),), (None,))
    resources: list[Resource] = []
    problems: list[Problem] = []
    broken: list[Identity | None] = []
    for document in documents(text, file):
        if isinstance(document, Problem):
            problems.append(document)
            broken.append(None)
            continue
        for member in members(document):
            result = _resource(member, file)
            if isinstance(result, Resource):
                resources.append(result)
            else:
                problems += result
                broken.append(_identity(member))
    problems.sort(key=lambda problem: problem.line)
    return Source(file, tuple(resources), tuple(problems), tuple(broken))


def duplicates(sources: Iterable[Source]) -> tuple[Problem, ...]:
    """A problem for each resource whose identity an earlier one has."""
    first: dict[Identity, Resource] = {}
    problems: list[Problem] = []
    for resource in (resource for source in sources for resource in source.resources):
        other = first.setdefault(resource.identity, resource)
        if other is not resource:
            place = f"{other.file}:{other.where['metadata.name']}"
            given = f"{quoted(resource.identity.name)} again (first at {place})"
            problems.append(resource.problem("metadata.name", given, f"each {resource.identity.kind} once"))
    return tuple(problems)


def _resource(document: Document, file: str) -> Resource | list[Problem]:
    kind = _kind(document, file)
    if isinstance(kind, Problem):
        return [*document.problems, kind]
    # A resource saved from a cluster carries its status: taken, never read.
    value = {key: item for key, item in document.value.items() if key != _STATUS}
    problems = list(document.problems)
    try:
        resource = kind.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as error:
        seen = {problem.field for problem in problems}
        found = (_problem(details, document, kind, file) for details in _causes(error.errors(include_url=False)))
        problems += [problem for problem in found if problem.field not in seen]
    if problems:
        return problems
    return Resource(file, resource, {field_of(path): line for path, line in document.where.items()})


def _identity(document: Document) -> Identity | None:
    """Who a broken resource says it is."""
    value = document.value
    metadata = value.get("metadata") if isinstance(value, dict) else None
    if not isinstance(metadata, dict):
        return None
    kind, namespace, name = value.get("kind"), metadata.get("namespace"), metadata.get("name")
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(name, str):
        return None
    if not KINDS[kind].namespaced:
        return Identity(kind, None, name)
    return Identity(kind, namespace if isinstance(namespace, str) else DEFAULT_NAMESPACE, name)


def _causes(errors: list[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Without "too short" for a list that only its bad items made short."""
    for details in errors:
        path = details["loc"]
        inner = any(len(other["loc"]) > len(path) and other["loc"][: len(path)] == path for other in errors)
        if not (inner and details["type"] == "too_short"):
            yield details


def _kind(document: Document, file: str) -> WrittenKind | Problem:
    def problem(path: Path, allowed: str) -> Problem:
        given = document.given.get(path, "nothing")
        return Problem(file, document.line_of(path), field_of(path), given, allowed)

    value = document.value
    if not isinstance(value, dict):
        return problem((), "a mapping with apiVersion, kind, metadata and spec")
    if value.get("apiVersion") != API_VERSION:
        return problem(("apiVersion",), API_VERSION)
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        return problem(("kind",), ", ".join(KINDS))
    return KINDS[kind]


def _problem(details: ErrorDetails, document: Document, kind: type[BaseModel], file: str) -> Problem:
    """pydantic's error in the words of the one who wrote the file."""
    # A key that is refused has "[key]" behind it.
    path: Path = tuple(step for step in details["loc"] if step != "[key]")
    line = document.line_of(path)
    given = document.given.get(path, "nothing")
    words = _allowed_words(kind, path)
    error, context = details["type"], details.get("ctx", {})
    if error == "extra_forbidden":
        names = _field_names(kind, path[:-1])
        allowed = ", ".join(names) + _nearest(str(path[-1]), names)
        return Problem(file, line, field_of(path[:-1]), quoted(str(path[-1])), allowed)
    if error == "missing":
        return Problem(file, line, field_of(path), "nothing", words)
    if error == "refused":
        return Problem(file, line, field_of(path), printable(context["given"], 200) or given, context["allowed"])
    return Problem(file, line, field_of(path), given, words)


def _nearest(given: str, names: list[str]) -> str:
    """For a typing error in a name, where there are too many to see at once which was meant."""
    if len(names) <= _AT_A_GLANCE:
        return ""
    near = get_close_matches(given[:LENGTH].lower(), [name.lower() for name in names], n=1, cutoff=0.7)
    return "".join(f"; did you mean {name}?" for name in names if name.lower() in near)


def _allowed_words(kind: type[BaseModel], path: Path) -> str:
    """The `Allowed` of a field; for a field that has none, what its model takes."""
    words = ""
    for annotation in _annotations(kind, path):
        if get_origin(annotation) is Annotated:
            words = next((item.words for item in get_args(annotation)[1:] if isinstance(item, Allowed)), words)
    if words:
        return words
    names = _field_names(kind, path)
    return f"a mapping with {', '.join(names)}" if names else "another value"


def _field_names(kind: type[BaseModel], path: Path) -> list[str]:
    for annotation in _annotations(kind, path):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return [_alias(name, field) for name, field in annotation.model_fields.items()]
    return []


def _annotations(annotation: Any, path: Path) -> Iterator[Any]:
    """The types that a path leads to: the annotation itself and the alternatives of its unions."""
    at = [annotation]
    for step in path:
        at = [inner for outer in at for alternative in _alternatives(outer) for inner in _step(alternative, step)]
    for outer in at:
        yield from _alternatives(outer)


def _alternatives(annotation: Any) -> Iterator[Any]:
    yield annotation
    if get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for alternative in get_args(annotation):
            yield from _alternatives(alternative)


def _step(annotation: Any, step: str | int) -> Iterator[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if step == _alias(name, field):
                # pydantic takes Annotated apart: put the words back.
                words = [item for item in field.metadata if isinstance(item, Allowed)]
                yield Annotated[field.annotation, words[-1]] if words else field.annotation
    elif get_origin(annotation) is tuple and isinstance(step, int):
        yield get_args(annotation)[0]
    elif get_origin(annotation) is dict:
        yield get_args(annotation)[1]


def _alias(name: str, field: FieldInfo) -> str:
    return field.alias or name
