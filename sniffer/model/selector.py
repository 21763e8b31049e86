"""Label selectors, as Kubernetes has them (LabelSelector of meta/v1)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from sniffer.model.base import Allowed, Cel, LabelKey, LabelMap, LabelValue, Model, one_of, refused

Labels = Mapping[str, str]


class Operator(StrEnum):
    """How a requirement relates its key to its values."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


_VALUES = "In and NotIn with values, Exists and DoesNotExist without"


class Requirement(Model):
    """One condition on a label."""

    cel = (Cel("(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)", _VALUES),)

    key: LabelKey
    """The label's key."""
    operator: Annotated[Operator, Field(strict=False), one_of(Operator)]
    """In and NotIn compare with values; Exists and DoesNotExist take none."""
    values: Annotated[
        tuple[LabelValue, ...], Field(strict=False, max_length=64), Allowed("a list of label values")
    ] = ()
    """For In and NotIn: at least one."""

    @model_validator(mode="after")
    def _values_where_they_belong(self) -> Self:
        if (self.operator in (Operator.IN, Operator.NOT_IN)) != bool(self.values):
            given = f"{self.operator} {'with' if self.values else 'without'} values"
            raise refused(given, _VALUES)
        return self

    def matches(self, labels: Labels) -> bool:
        """A label that is not there is not in any list, so NotIn holds."""
        given = labels.get(self.key)
        if self.operator is Operator.EXISTS:
            return given is not None
        if self.operator is Operator.DOES_NOT_EXIST:
            return given is None
        return (given in self.values) == (self.operator is Operator.IN)


class LabelSelector(Model):
    """All of its conditions must hold; an empty selector matches everything."""

    # One writer owns all of it, as in meta/v1.
    model_config = ConfigDict(json_schema_extra={"x-kubernetes-map-type": "atomic"})

    match_labels: LabelMap = Field(default_factory=dict)
    """Labels with these very values."""
    match_expressions: Annotated[
        tuple[Requirement, ...], Field(strict=False, max_length=64), Allowed("a list of {key, operator, values}")
    ] = ()
    """Further conditions."""

    def matches(self, labels: Labels) -> bool:
        """Whether something with these labels is selected."""
        return has_all(labels, self.match_labels) and all(r.matches(labels) for r in self.match_expressions)


def has_all(labels: Labels, wanted: Labels) -> bool:
    """Whether the labels have these keys with these values."""
    return all(labels.get(key) == value for key, value in wanted.items())
