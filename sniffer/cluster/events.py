"""Events (events.k8s.io/v1) about mirrors and targets: of one object and reason at most one in ten minutes.

What happens again after that goes on as a series of the same Event.
"""

import uuid
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sniffer.cluster.client import Client
from sniffer.errors import ApiError
from sniffer.plan.said import Note

EVERY_S = 600.0
QUEUE_LENGTH = 1000
KNOWN_LENGTH = 10_000
NOTE_BYTES = 1024
REPORTER = "sniffer.dev/controller"


@dataclass(frozen=True, slots=True)
class Regarding:
    """The object that an Event is about."""

    api_version: str
    kind: str
    name: str
    uid: str = ""
    namespace: str | None = None


@dataclass(slots=True)
class _Series:
    """What was said of one object for one reason."""

    name: str
    said_s: float
    count: int = 1


class Events:
    """`note` what happened; `write_one` from time to time. Nothing here ever waits or grows without bound."""

    def __init__(self, client: Client, instance: str) -> None:
        """instance: this process, as events name it."""
        self._client = client
        self._instance = instance
        self._queue: deque[tuple[Regarding, Note, str, int]] = deque()
        """With the Event's name and how many times that makes."""
        self._series: OrderedDict[tuple[Regarding, str], _Series] = OrderedDict()
        self.dropped = 0
        """For want of room in the queue."""

    def __len__(self) -> int:
        """How many wait to be written."""
        return len(self._queue)

    def note(self, regarding: Regarding, note: Note, now_s: float) -> None:
        """now_s: monotonic."""
        key = (regarding, note.reason)
        series = self._series.get(key)
        if series and now_s - series.said_s < EVERY_S:
            return
        if len(self._queue) >= QUEUE_LENGTH:
            self.dropped += 1
            return
        if series:
            series.said_s, series.count = now_s, series.count + 1
        else:
            series = self._series[key] = _Series(f"{regarding.name[:200]}.{uuid.uuid4().hex[:16]}", now_s)
        self._series.move_to_end(key)
        while len(self._series) > KNOWN_LENGTH:
            self._series.popitem(last=False)
        self._queue.append((regarding, note, series.name, series.count))

    def write_one(self) -> None:
        """The first that waits; one that cannot be written is lost. ApiError."""
        regarding, note, name, count = self._queue.popleft()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        # Of what is not in a namespace the API server takes events in `default` only.
        namespace = regarding.namespace or "default"
        collection = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        if count > 1:
            try:
                again = {"series": {"count": count, "lastObservedTime": now}}
                self._client.patch(f"{collection}/{name}", again)
                return
            except ApiError as error:
                if error.status != 404:
                    raise
        self._client.create(collection, self._event(regarding, note, name, namespace, now))

    def _event(self, regarding: Regarding, note: Note, name: str, namespace: str, now: str) -> Mapping[str, Any]:
        about = {
            "apiVersion": regarding.api_version,
            "kind": regarding.kind,
            "name": regarding.name,
            "namespace": regarding.namespace,
            "uid": regarding.uid or None,
        }
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": now,
            "reportingController": REPORTER,
            "reportingInstance": self._instance[:128],
            "action": "Report",
            "reason": note.reason[:128],
            "note": _cut(note.message),
            "type": "Warning" if note.warning else "Normal",
            "regarding": {key: value for key, value in about.items() if value},
        }


def _cut(text: str) -> str:
    encoded = text.encode()
    return text if len(encoded) < NOTE_BYTES else encoded[: NOTE_BYTES - 4].decode(errors="ignore") + "..."
