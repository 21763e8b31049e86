"""What is followed, and complete lists of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sniffer.cluster.client import Parameters
from sniffer.errors import ApiError

Key = tuple[str, str]
"""Namespace, or "", and name."""
Object = Mapping[str, Any]
PAGE = 500


def key_of(item: Object) -> Key:
    """KeyError, TypeError: no object of Kubernetes."""
    metadata = item["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


def lean(item: Object) -> Object:
    """Without what nobody reads: who manages which field, and kubectl's copy of the object."""
    metadata = {key: value for key, value in item["metadata"].items() if key != "managedFields"}
    if annotations := metadata.get("annotations"):
        metadata["annotations"] = {k: v for k, v in annotations.items() if not k.endswith("last-applied-configuration")}
    return {**item, "metadata": metadata}


@dataclass(frozen=True)
class Watched:
    """What a reflector follows."""

    path: str
    """Of a collection."""
    parameters: Parameters = field(default_factory=dict)
    """fieldSelector, labelSelector."""
    metadata_only: bool = False
    prune: Callable[[Object], Object] = lean
    """What is kept of an object: memory is saved here. Equal results count as no change."""
    crd: str | None = None
    """Name of the CRD to read before a removal is believed."""


class Pages:
    """Lists by pages of 500, all of them at one version."""

    def __init__(self, get: Callable[[Parameters], Mapping[str, Any]], parameters: Parameters) -> None:
        """get: one page. Its ApiErrors pass through."""
        self._get = get
        self._parameters = parameters
        self._limit = PAGE

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Where pages expire while they are read (410), the next attempt has one page only."""
        token = ""
        while True:
            parameters = {**self._parameters}
            if self._limit:
                parameters["limit"] = self._limit
            if token:
                parameters["continue"] = token
            try:
                page = self._get(parameters)
            except ApiError as error:
                if token and error.status == 410:
                    self._limit = 0
                raise
            if not isinstance(page.get("items"), list):
                raise ApiError(0, "Malformed", "the answer is not a list")
            yield page
            token = page["metadata"].get("continue") or ""
            if not token:
                self._limit = PAGE
                return
