"""One error in what somebody wrote, on one line."""

import json
import re
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Field names and list indexes from a document's root on."""

LENGTH = 80
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,63}")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """What is wrong, where; `line` counts from 1, `field` is a path like `spec.encapsulation.vxlan.vni`."""

    file: str
    line: int
    field: str
    given: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: given {self.given}, allowed {self.allowed}"


def printable(text: str, length: int = LENGTH) -> str:
    """The text on one line: what does not print is escaped, what is long is cut."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in _cut(text, length))


def quoted(text: str) -> str:
    """The text in double quotes, on one line."""
    return printable(json.dumps(_cut(text, LENGTH), ensure_ascii=False), 10 * LENGTH)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def field_of(path: Path) -> str:
    """`spec.rules[2].filter`; `document` for the root."""
    field = ""
    for step in path:
        if isinstance(step, int):
            field += f"[{step}]"
        else:
            name = step if _PLAIN.fullmatch(step) else quoted(step)
            field += f".{name}" if field else name
    return field or "document"
