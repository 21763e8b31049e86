"""What only a compile finds wrong with a resource: its filters."""

from collections.abc import Iterator

from sniffer.errors import FilterError
from sniffer.model.manifest import Resource
from sniffer.model.problem import Problem, quoted
from sniffer.model.resources import MirrorTarget
from sniffer.plan.rules import errors

_EXCERPT = 40
"""Characters of a filter to show before the offset of its error."""


def filter_problems(resource: Resource) -> Iterator[Problem]:
    """A problem for every filter that does not compile; none for a target."""
    mirror = resource.value
    if isinstance(mirror, MirrorTarget):
        return
    spec = mirror.spec
    texts = {"spec.filter": spec.filter}
    texts |= {f"spec.rules[{number}].filter": rule.filter for number, rule in enumerate(spec.rules or ())}
    for error in errors(spec.filter, spec.rules):
        field = error.field or "spec"
        given = excerpt(texts.get(field) or "", error)
        yield resource.problem(field, given, f"a filter that compiles: {error}")


def excerpt(text: str, error: FilterError) -> str:
    """What to show of a filter: quoted, from shortly before the place of its error on."""
    text = text.rstrip()
    start = max((error.offset or 0) - _EXCERPT, 0)
    return quoted(text if start == 0 else f"...{text[start:]}")
