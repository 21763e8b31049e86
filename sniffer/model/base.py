"""What every resource is made of: strict models, the words of their errors, names and metadata."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


@dataclass(frozen=True, slots=True)
class Allowed:
    """How an error message says what a field takes."""

    words: str


def refused(given: str, allowed: str) -> PydanticCustomError:
    """The error of a rule that a type alone cannot say; an empty `given` stands for the value itself."""
    return PydanticCustomError("refused", "given {given}, allowed {allowed}", {"given": given, "allowed": allowed})


def one_of(enum: type[StrEnum]) -> Allowed:
    """The words for an enumeration: its values."""
    return Allowed(", ".join(enum))


class Model(BaseModel):
    """Strict, frozen, camelCase on the outside."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )


# Names

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"

Name = Annotated[
    str,
    Field(min_length=1, max_length=253, pattern=rf"^{_LABEL}(\.{_LABEL})*$"),
    Allowed("a name of 1..253 characters: a-z, 0-9, - and . (RFC 1123)"),
]
Namespace = Annotated[
    str,
    Field(min_length=1, max_length=63, pattern=f"^{_LABEL}$"),
    Allowed("a namespace of 1..63 characters: a-z, 0-9 and - (RFC 1123)"),
]
LabelValue = Annotated[
    str,
    Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"),
    Allowed("a string of at most 63 characters: letters, digits, -, _ and ."),
]
Text = Annotated[str, Allowed("a string")]


def _instant(value: object) -> object:
    """Kubernetes writes RFC 3339; YAML reads it as a date when nobody quoted it."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return value
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value


Instant = Annotated[datetime, BeforeValidator(_instant), Allowed("a time as in 2026-01-31T12:00:00Z")]


class Metadata(Model):
    """What every object of Kubernetes carries, as far as anything here reads it."""

    # Written by the API server and by kubectl into what people save and apply again: taken, never read.
    IGNORED: ClassVar[frozenset[str]] = frozenset(
        {
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "finalizers",
            "managedFields",
            "ownerReferences",
            "selfLink",
        }
    )

    name: Name
    namespace: Namespace | None = None
    labels: Annotated[dict[str, LabelValue], Allowed("a mapping of strings")] = Field(default_factory=dict)
    annotations: Annotated[dict[str, Text], Allowed("a mapping of strings")] = Field(default_factory=dict)
    uid: Text | None = None
    resource_version: Text | None = None
    generation: Annotated[int, Field(ge=0), Allowed("a number from 0")] = 0
    creation_timestamp: Instant | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_ignored(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {key: item for key, item in value.items() if key not in cls.IGNORED}


class ClusterMetadata(Metadata):
    """Of a cluster-scoped kind."""

    namespace: Annotated[None, Allowed("no namespace: this kind is cluster-scoped")] = None
