"""Who leads: the holder of a Lease (coordination.k8s.io/v1), which renews it every two seconds.

Clocks of different machines are never compared. A standby measures by its own how long the Lease has not changed, and a
leader by its own how long ago it asked for the renewal that the API server granted last: it stops before others begin.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from sniffer.cluster.client import Client
from sniffer.errors import ApiError

NAME = "sniffer-controller"
DURATION_S = 12
"""A standby takes over when it has seen no renewal for so long."""
DEADLINE_S = 9.0
"""A leader that could not renew for so long leads no more."""
RENEW_S = 2.0
LOOK_S = 1.0
"""How often a standby looks."""

log = logging.getLogger(__name__)


class Election:
    """Tries to lead, in a thread of its own, until `release`."""

    def __init__(self, client: Client, namespace: str, identity: str, changed: Callable[[], None]) -> None:
        """identity: different for each process; changed: called in the thread when this process begins to lead."""
        self._client = client
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{NAME}"
        self._metadata = {"name": NAME, "namespace": namespace}
        self._identity = identity
        self._changed = changed
        self._until_s = float("-inf")
        self._lease: Mapping[str, Any] | None = None
        """As the API server told it last."""
        self._seen: tuple[str, float] = ("", 0.0)
        """Its version, and when we saw that first."""
        self._stopped = threading.Event()
        self._fault = ""
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def leads(self) -> bool:
        """Whether this process may write now."""
        return time.monotonic() < self._until_s

    def release(self) -> None:
        """Ends, and lets another lead at once."""
        self._stopped.set()
        self._thread.join(timeout=DEADLINE_S)
        if not self.leads() or self._lease is None:
            return
        self._until_s = float("-inf")
        try:
            # An empty holder is nobody; a duration of 0 is not allowed.
            self._put({**self._lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1})
        except ApiError as error:
            log.warning("the lease cannot be given back: %s", error)

    def _run(self) -> None:
        while not self._stopped.is_set():
            led = self.leads()
            try:
                self._step()
                self._fault = ""
            except ApiError as error:
                self._lease = None  # another may have written: look again
                if error.reason not in ("Conflict", "AlreadyExists"):
                    self._say(str(error))
            except Exception:
                # Whatever the server sent: this thread goes on.
                self._lease = None
                log.exception("the lease")
            if self.leads() != led:
                log.info("leading" if self.leads() else "not leading")
                self._changed()
            self._stopped.wait(RENEW_S if self.leads() else LOOK_S)

    def _step(self) -> None:
        """Renews, takes, or looks."""
        if not self.leads() or self._lease is None:
            self._lease = self._read()
        spec = (self._lease or {}).get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if self._lease is None or holder in ("", self._identity) or self._is_over(spec):
            asked_s = time.monotonic()
            self._put(self._spec(spec, taken=holder != self._identity))
            self._until_s = asked_s + DEADLINE_S
        elif holder != self._identity:
            self._until_s = float("-inf")

    def _read(self) -> Mapping[str, Any] | None:
        try:
            lease = self._client.get(self._path, timeout_s=RENEW_S)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = version, time.monotonic()
        return lease

    def _is_over(self, spec: Mapping[str, Any]) -> bool:
        duration_s = spec.get("leaseDurationSeconds")
        lasts_s = min(duration_s, 60) if isinstance(duration_s, int) else DURATION_S
        return time.monotonic() - self._seen[1] > lasts_s

    def _spec(self, former: Mapping[str, Any], taken: bool) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {**former, "holderIdentity": self._identity, "leaseDurationSeconds": DURATION_S, "renewTime": now}
        if taken:
            spec |= {"acquireTime": now, "leaseTransitions": (former.get("leaseTransitions") or 0) + 1}
        return spec

    def _put(self, spec: Mapping[str, Any]) -> None:
        """Creates it, or replaces the very version that was read."""
        head = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        if self._lease is None:
            self._lease = self._client.create(self._collection, {**head, "metadata": self._metadata, "spec": spec})
        else:
            body = {**head, "metadata": self._lease["metadata"], "spec": spec}
            self._lease = self._client.replace(self._path, body)

    def _say(self, words: str) -> None:
        if words != self._fault:
            log.warning("the lease cannot be renewed: %s", words)
            self._fault = words
