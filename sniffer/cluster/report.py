"""A node's own words in the cluster: the status of its SnifferNode, written when it has changed, and by its agent only.

What is wrong with the API server, or with our rights, is logged and tried again: mirroring depends on none of it.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from sniffer.cluster.backoff import Backoff, fault_of
from sniffer.cluster.client import Client
from sniffer.errors import ApiError
from sniffer.model.resources import API_VERSION, SnifferNode
from sniffer.plan.report import changes

PACE_S = 1.0
"""Between two writes, at least."""
JITTER_AGE_S = 300.0
JITTER_RETRY_S = 10.0
"""Where none could be read: the controller may come later than we do."""
JITTER_LIMIT_S = 3600.0
JITTER_KEY = "reportJitterSeconds"
CONFIG = "sniffer"
RECHECK_S = (450, 750)
"""Somebody may have removed what was written: looked at so often."""

log = logging.getLogger(__name__)

Status = Mapping[str, Any]


def jitter_of(client: Client, namespace: str) -> float:
    """Seconds over which the agents spread what they write, as the controller has published it. ApiError, ValueError,
    TypeError: nothing that can be read.
    """
    data = client.get(f"/api/v1/namespaces/{namespace}/configmaps/{CONFIG}").get("data") or {}
    return min(max(float(data.get(JITTER_KEY, "0")), 0.0), JITTER_LIMIT_S)


class Reporter:
    """`report` what is wanted; a thread writes it."""

    def __init__(self, client: Client, node: str, node_uid: Callable[[], str | None], namespace: str) -> None:
        """node_uid: of the Node that is to own the object; None while it is not known. namespace: of our ConfigMap."""
        self._client = client
        self._node = node
        self._node_uid = node_uid
        self._namespace = namespace
        self._path = f"/apis/{API_VERSION}/{SnifferNode.plural}/{node}"
        self._wanted: Status | None = None
        self._written: Status | None = None
        """As the API server has it, as far as we know; None: not known."""
        self._recheck_s = 0.0
        self._jitter_s = 0.0
        self._jitter_asked_s = float("-inf")
        self._backoff = Backoff()
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)
        self._thread.start()

    def report(self, status: Status) -> None:
        """Takes the status that is to be there; never blocks. What has changed for mirrors is logged."""
        with self._changed:
            for words in changes(self._wanted, status):
                log.info("%s", words)
            self._wanted = status
            self._changed.notify()

    def flush(self, timeout_s: float) -> None:
        """Writes what is wanted now, without jitter; gives up after that time."""
        writing = threading.Thread(target=self._flush, name="flush", daemon=True)
        writing.start()
        writing.join(timeout_s)

    def _flush(self) -> None:
        try:
            self._write()
        except ApiError as error:
            self._say(str(error))

    def close(self) -> None:
        """Ends the thread, and does not wait for it; what is not written yet stays unwritten."""
        self._stopped.set()
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wait_for_change()
            wait_s = PACE_S
            try:
                self._stopped.wait(random.uniform(0, self._jitter()))
                if self._stopped.is_set():
                    return
                self._write()
                self._backoff.reset()
                self._fault = None
            except ApiError as error:
                wait_s = max(self._backoff.wait_s(fault_of(error), error.retry_after_s), PACE_S)
                self._say(str(error))
            except Exception as error:
                # Whatever the server sent: this thread goes on.
                log.exception("report")
                wait_s = self._backoff.wait_s(fault_of(ApiError(500, type(error).__name__, str(error)))) + PACE_S
            self._stopped.wait(wait_s)

    def _wait_for_change(self) -> None:
        with self._changed:
            while not self._stopped.is_set():
                left_s = self._recheck_s - time.monotonic()
                if self._wanted is not None and (self._wanted != self._written or left_s <= 0):
                    return
                self._changed.wait(None if self._wanted is None else left_s)

    def _jitter(self) -> float:
        """Seconds over which the agents of all nodes spread what they write; the controller knows how many they are."""
        if time.monotonic() - self._jitter_asked_s > JITTER_AGE_S:
            self._jitter_asked_s = time.monotonic() - JITTER_AGE_S + JITTER_RETRY_S
            with suppress(ApiError, ValueError, TypeError):  # the former value stands
                self._jitter_s = jitter_of(self._client, self._namespace)
                self._jitter_asked_s = time.monotonic()
        return self._jitter_s

    def _write(self) -> None:
        """Brings the object to what is wanted now."""
        if self._written is None or time.monotonic() >= self._recheck_s:
            self._written = self._read()
            self._recheck_s = time.monotonic() + random.uniform(*RECHECK_S)
        with self._changed:
            wanted = self._wanted
        if wanted is None or wanted == self._written:
            return
        body = {
            **self._head(),
            "status": {**wanted, "reported": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")},
        }
        try:
            self._client.patch(f"{self._path}/status", body, "apply")
        except ApiError as error:
            if error.status != 404:
                raise
            self._own()
            self._client.patch(f"{self._path}/status", body, "apply")
        self._written = wanted

    def _read(self) -> Status:
        """The status that is there; {}: none. Makes the object ours where it is not."""
        try:
            found = self._client.get(self._path)
        except ApiError as error:
            if error.status != 404:
                raise
            found = {}
        owners = found.get("metadata", {}).get("ownerReferences") or ()
        if found and self._node_uid() not in (None, *(owner.get("uid") for owner in owners)):
            self._own()
        status = found.get("status") or {}
        return {key: value for key, value in status.items() if key != "reported"}

    def _own(self) -> None:
        """Creates the object; or mends its owner, which goes with a node that is removed."""
        uid = self._node_uid()
        owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": uid}
        owners = {"ownerReferences": [owner]} if uid else {}
        head = self._head()
        self._client.patch(self._path, {**head, "metadata": {**head["metadata"], **owners}}, "apply")

    def _head(self) -> dict[str, Any]:
        return {"apiVersion": API_VERSION, "kind": SnifferNode.__name__, "metadata": {"name": self._node}}

    def _say(self, words: str) -> None:
        if words != self._fault:
            log.warning("the status of this node cannot be written: %s", words)
            self._fault = words
