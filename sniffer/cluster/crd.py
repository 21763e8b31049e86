"""Objects of a custom kind go with its CRD, by events like any others: which of both a removal is."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from sniffer.cluster.client import Parameters

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
FRESH_S = 1.0


class CrdGoneError(Exception):
    """The CRD is not there, or on its way."""


class Crd:
    """One CRD, read when a removal has to be believed."""

    def __init__(self, get: Callable[[str, Parameters, bool], Mapping[str, Any]], name: str) -> None:
        """get: path, parameters, whether metadata only."""
        self._get = get
        self._name = name
        self._seen_s = 0.0
        self._alive = 0

    def believe(self, version: int) -> None:
        """Returns if what was removed at this version was not removed with its CRD: the CRD was there, and not about to
        go, at that version or later. Versions are of the whole etcd, so one look is good for every removal before it.

        CrdGoneError: it was removed with it, or may have been. ApiError: not known.
        """
        if version <= self._alive and time.monotonic() - self._seen_s < FRESH_S:
            return
        page = self._get(CRDS, {"fieldSelector": f"metadata.name={self._name}"}, True)
        if not page.get("items"):
            raise CrdGoneError(f"the CRD {self._name} is gone")
        if page["items"][0]["metadata"].get("deletionTimestamp"):
            raise CrdGoneError(f"the CRD {self._name} is being removed")
        self._seen_s, self._alive = time.monotonic(), int(page["metadata"]["resourceVersion"])
