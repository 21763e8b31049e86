"""What every resource is made of: strict models, the words of their errors, names and metadata."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError


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


@dataclass(frozen=True, slots=True)
class Cel:
    """What the API server checks in CEL (x-kubernetes-validations): the words of the validator beside it, once more.

    Stands in an Annotated, with `self` for the value, or in a model's `cel`.
    """

    rule: str
    message: str

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema with this rule."""
        schema = handler(core_schema)
        schema.setdefault("x-kubernetes-validations", []).append({"rule": self.rule, "message": self.message})
        return schema


@dataclass(frozen=True, slots=True)
class ByKey:
    """A list whose items differ in this field: the API server refuses two of one, and merges by it."""

    key: str

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema with the list's type."""
        return {
            **handler(core_schema),
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": [self.key],
        }


class Model(BaseModel):
    """Strict, frozen, camelCase on the outside. A null is no value, as for the API server."""

    cel: ClassVar[tuple[Cel, ...]] = ()
    """What the API server checks of the whole."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if not isinstance(value, Mapping) or None not in value.values():
            return value
        known = {field.alias for field in cls.model_fields.values()} | set(cls.model_fields)
        return {key: item for key, item in value.items() if item is not None or key not in known}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema with the rules of `cel`."""
        schema = handler(core_schema)
        if cls.cel:
            rules = [{"rule": rule.rule, "message": rule.message} for rule in cls.cel]
            handler.resolve_ref_schema(schema)["x-kubernetes-validations"] = rules
        return schema


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
_LABEL_KEY = "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
LabelKey = Annotated[
    str,
    Field(min_length=1, max_length=317, pattern=_LABEL_KEY),
    Allowed("a label's key, as in app or example.org/team"),
]
LabelMap = Annotated[
    dict[LabelKey, LabelValue],
    Field(max_length=64),
    # A schema has no words for the keys of a map.
    Cel(f"self.all(key, key.matches('{_LABEL_KEY}'))", "labels' keys, as in app or example.org/team"),
    Cel("self.all(key, type(self[key]) == string)", "a value for each label"),
    Allowed("a mapping of labels, as in {app: web}"),
]
Text = Annotated[str, Allowed("a string")]


_INSTANT = re.compile(
    r"2\d{3}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?"
    r"(Z|[+-]([01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)


def _instant(value: object) -> object:
    """RFC 3339 as Kubernetes writes it; what else fromisoformat() reads is left to be refused."""
    if isinstance(value, str) and _INSTANT.fullmatch(value):
        try:
            return datetime.fromisoformat(value)
        except ValueError:  # 30 February
            return value
    return value


class _Rfc3339:
    """In a schema: what is read. No `format`, with which the API server takes a list for a text (seen in 1.36)."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "maxLength": 35, "pattern": f"^{_INSTANT.pattern}$"}


_TIME = "a time as in 2026-01-31T12:00:00Z"
Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    _Rfc3339(),
    # The 30th of February is no timestamp.
    Cel("timestamp(self).getFullYear() >= 1999", _TIME),
    Allowed(_TIME),
]


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


DEFAULT_NAMESPACE = "default"


class NamespacedMetadata(Metadata):
    """Of a kind that lives in a namespace; a file that names none means `default`, as kubectl does."""

    namespace: Namespace = DEFAULT_NAMESPACE


class ClusterMetadata(Metadata):
    """Of a cluster-scoped kind."""

    namespace: Annotated[None, Allowed("no namespace: this kind is cluster-scoped")] = None
