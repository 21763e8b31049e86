"""Writes the status of mirrors and targets."""

import time
from collections.abc import Mapping
from typing import Any

from sniffer.cluster.client import Client
from sniffer.model.identity import Identity
from sniffer.model.resources import API_VERSION, KINDS
from sniffer.plan.views import Object, Stored

LATE_S = 30.0
"""A watch is never so late: after this its word counts again, whatever we have written."""


class Statuses:
    """What stands in the API server, as far as is known: a watch tells of our own writes only later."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._answers: dict[Identity, tuple[str, int, Object, float]] = {}
        """uid, version, status, when."""

    def now(self, stored: Stored) -> Object:
        """The status that an object has."""
        return self._newest(stored)[1]

    def write(self, stored: Stored, status: Mapping[str, Any]) -> None:
        """ApiError: Conflict, where the object has changed meanwhile; NotFound, where it is gone."""
        version, _ = self._newest(stored)
        # With the version: a status that was worked out for a former object is refused.
        body = {"metadata": {"resourceVersion": str(version)}, "status": status}
        answer = self._client.patch(f"{path(stored.identity)}/status", body)
        told = int(answer["metadata"]["resourceVersion"])
        self._answers[stored.identity] = stored.uid, told, answer.get("status") or {}, time.monotonic()

    def forget(self, identity: Identity) -> None:
        """What was written is not known to stand."""
        self._answers.pop(identity, None)

    def _newest(self, stored: Stored) -> tuple[int, Object]:
        seen = int(stored.resource_version or 0)
        uid, version, status, at_s = self._answers.get(stored.identity, ("", 0, {}, 0.0))
        if uid != stored.uid or version <= seen or time.monotonic() - at_s > LATE_S:
            self._answers.pop(stored.identity, None)
            return seen, stored.status
        return version, status


def path(identity: Identity) -> str:
    """Of an object of ours."""
    place = f"namespaces/{identity.namespace}/" if identity.namespace else ""
    return f"/apis/{API_VERSION}/{place}{KINDS[identity.kind].plural}/{identity.name}"
