"""Conditions, as Kubernetes has them (meta/v1 Condition)."""

from typing import Annotated, Literal

from pydantic import Field

from sniffer.model.base import Allowed, ByKey, Instant, Model, Text


class Condition(Model):
    """One aspect of an object's state."""

    type: Annotated[Text, Field(max_length=316), Allowed("a type")]
    """Which aspect."""
    status: Annotated[Literal["True", "False", "Unknown"], Allowed("True, False, Unknown")]
    """Whether it holds."""
    observed_generation: Annotated[int, Field(ge=0), Allowed("a number from 0")] = 0
    """The metadata.generation that this was said of."""
    last_transition_time: Instant
    """When the status last changed."""
    reason: Annotated[Text, Field(max_length=1024), Allowed("a word")]
    """Why, in one word for programs."""
    message: Annotated[Text, Field(max_length=32768), Allowed("text")] = ""
    """Why, for people."""


Conditions = Annotated[
    tuple[Condition, ...], Field(strict=False, max_length=16), ByKey("type"), Allowed("a list of conditions")
]
