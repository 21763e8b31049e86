"""The cluster's loop: what nodes report becomes the status of mirrors and targets.

    lists and watches -> roll-up -> statuses that should be others -> writes, few at a time

Every replica follows the cluster; the one that holds the lease writes. Nothing is remembered that the API server does
not have: a replica that takes over looks at everything again.
"""

import logging
import os
import selectors
import signal
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sniffer.cluster.backoff import Backoff, fault_of
from sniffer.cluster.client import Client
from sniffer.cluster.events import Events, Regarding
from sniffer.cluster.feed import Feed
from sniffer.cluster.jitter import Jitter
from sniffer.cluster.leases import Election
from sniffer.cluster.services import API_SERVER
from sniffer.cluster.source import SERVICE_HOST
from sniffer.cluster.status import Statuses
from sniffer.cluster.views import parsed
from sniffer.errors import ApiError
from sniffer.metrics import controller as metrics
from sniffer.metrics.server import Place, serve
from sniffer.model.identity import Identity
from sniffer.model.resources import API_VERSION, GROUP, KINDS, SnifferNode
from sniffer.plan.cluster import Policy
from sniffer.plan.rollup import MIRROR_TARGET, Rollup
from sniffer.plan.said import Note, named
from sniffer.plan.schedule import EVERY_S, TARGET_EVERY_S, Pace, Schedule
from sniffer.plan.views import Stored

log = logging.getLogger(__name__)

TICK_S = 1.0
"""How often it looks when nothing is heard of."""
SETTLE_S = 0.02
"""Events come in bursts: it looks this long after the first one."""
SLICE_S = 0.2
"""So long it writes before it looks again."""
STILL_S = 120.0
"""A loop that has done nothing for so long stands still. Filters of one mirror may take a minute to compile."""
EVENTS_EVERY = 5
"""Of so many writes one may be an event although statuses wait."""
NAMED = 5


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    kubeconfig: Path | None
    """None: the pod that this runs in."""
    namespace: str
    identity: str
    policy: Policy
    metrics: Place | None = None
    """Where to serve Prometheus metrics and /healthz; None: nowhere."""
    health: Place | None = None
    """Where to serve /healthz and /readyz alone; None: nowhere."""


class Controller:
    """`run` until a signal."""

    def __init__(self, options: Options) -> None:
        """InputError, MachineError."""
        self._policy = options.policy
        self._client = Client.load(options.kubeconfig)
        # A container that was restarted has its pod's name again, and is another process.
        identity = f"{options.identity}_{uuid.uuid4().hex[:8]}"
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._rollup = Rollup(options.policy)
        self._schedule = Schedule()
        self._pace = Pace()
        self._backoff = Backoff()
        self._statuses = Statuses(self._client)
        self._events = Events(self._client, identity)
        self._jitter = Jitter(self._client, options.namespace)
        self._led = False
        self._since_event = 0
        self._turned_s = time.monotonic()
        self._writes: Counter[tuple[str, str]] = Counter()
        self._deselected = 0
        self._said = ""
        self._election = Election(self._client, options.namespace, identity, self._changed)
        self._feed = Feed(self._client, options.namespace, self._changed)
        probes = {"/healthz": self._not_live, "/readyz": self._not_ready}
        if options.metrics:
            serve("--metrics", options.metrics, metrics.registry(self._figures), probes)
        if options.health:
            serve("--health", options.health, None, probes)

    def run(self) -> None:
        """Returns after SIGTERM or SIGINT; another may lead at once."""
        stop, stopper = socket.socketpair()
        stop.setblocking(False)
        stopper.setblocking(False)
        signal.set_wakeup_fd(stopper.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self._feed.start()
        self._election.start()
        with selectors.DefaultSelector() as selector:
            selector.register(stop, selectors.EVENT_READ)
            while not selector.select(SETTLE_S):
                wait_s = self._turn()
                selector.register(self._wake, selectors.EVENT_READ)
                selector.select(wait_s)
                selector.unregister(self._wake)
                with suppress(BlockingIOError):
                    self._wake.recv(1 << 16)
        self._election.release()
        self._feed.close()

    def _changed(self) -> None:
        """Called from other threads. A full pipe wakes as well."""
        with suppress(BlockingIOError):
            self._waker.send(b"\0")

    def _turn(self) -> float:
        """Looks at what is new and writes what is due. Seconds until there may be something to do."""
        self._turned_s = time.monotonic()
        now = datetime.now(UTC)
        self._feed.take(self._rollup, now)
        self._rollup.policy(self._full_policy())
        self._rollup.tick(now)
        if not self._election.leads() or not self._feed.synced:
            self._led = False
            self._rollup.left.clear()  # the leader tells of it
            return TICK_S
        if not self._led:
            self._led = True
            self._schedule = Schedule()
            self._jitter.forget()
            self._rollup.recall()
        self._mark()
        self._tell()
        return self._write()

    def _full_policy(self) -> Policy:
        """With the addresses of the API server, as an agent has it."""
        found = (urlsplit(self._client.host).hostname or "", os.environ.get(SERVICE_HOST, ""))
        addresses = parsed([{"addresses": found}]) | (self._feed.services.ready(API_SERVER) or frozenset())
        networks = tuple(ip_network(address) for address in sorted(addresses))
        return Policy({**self._policy.refused, "the API server": networks}, self._policy.allowed)

    def _mark(self) -> None:
        now_s = time.monotonic()
        for identity in self._rollup.dirty:
            stored = self._rollup.stored(identity)
            if stored:
                every_s = TARGET_EVERY_S if identity.kind == MIRROR_TARGET else EVERY_S
                self._schedule.mark(identity, stored.generation, now_s, every_s)
            else:
                self._schedule.forget(identity)
                self._statuses.forget(identity)
        self._rollup.dirty.clear()

    def _tell(self) -> None:
        """Queues events for what no status says."""
        now_s = time.monotonic()
        for identity, what in self._rollup.left.items():
            self._deselected += len(what)
            stored = self._rollup.stored(identity)
            if stored:
                words = f"no longer selected, by a change of labels: {named(sorted(what)[:NAMED], len(what), NAMED)}"
                log.warning("%s: %s", identity, words)
                self._events.note(_regarding(stored), Note("PodsDeselected", words), now_s)
        self._rollup.left.clear()
        for kind, words in self._feed.faults.items():
            if "CRD" in words and (kind in KINDS or kind == SnifferNode.__name__):
                plural = KINDS[kind].plural if kind in KINDS else SnifferNode.plural
                crd = Regarding("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{plural}.{GROUP}")
                note = Note("CRDGone", f"{words}; mirrors go on as they are until the agents' grace is over")
                self._events.note(crd, note, now_s)

    def _write(self) -> float:
        """Some of what is due. Seconds until something else is."""
        ends_s = time.monotonic() + SLICE_S
        while (now_s := time.monotonic()) < ends_s and self._election.leads():
            wait_s = self._pace.next_s - now_s
            if wait_s > SLICE_S:
                return min(wait_s, TICK_S)
            time.sleep(max(wait_s, 0))
            if not self._write_next(now_s):
                return max(min(self._schedule.next_s() - now_s, TICK_S), 0)
        return 0

    def _write_next(self, now_s: float) -> bool:
        """Whether there was something to look at."""
        if self._jitter.is_due(self._rollup.node_count, now_s):
            self._attempt("jitter", lambda: self._jitter.write(self._rollup.node_count, now_s))
            return True
        if self._events and self._since_event >= EVENTS_EVERY:
            return self._write_event()
        identity = self._schedule.take(now_s)
        if identity is None:
            return bool(self._events) and self._write_event()
        self._write_status(identity, now_s)
        return True

    def _write_event(self) -> bool:
        self._since_event = 0
        self._attempt("event", self._events.write_one)
        return True

    def _write_status(self, identity: Identity, now_s: float) -> None:
        stored = self._rollup.stored(identity)
        if stored is None:
            return
        self._turned_s = now_s
        status = self._statuses.now(stored)
        outcome = self._rollup.outcome(identity, status, datetime.now(UTC))
        if outcome is None or all(status.get(name) == value for name, value in outcome.status.items()):
            self._schedule.unchanged(identity, stored.generation)
            return
        if _waits_for_nodes(outcome.status) and self._schedule.waits(identity, stored.generation, now_s):
            return
        self._since_event += 1
        error = self._attempt("status", lambda: self._statuses.write(stored, outcome.status))
        if error is None:
            self._schedule.wrote(identity, stored.generation, now_s)
            for note in outcome.notes:
                self._events.note(_regarding(stored), note, now_s)
        elif error.status == 404:
            self._statuses.forget(identity)  # it is gone, or its kind: the watch will tell
        else:
            self._statuses.forget(identity)
            self._schedule.failed(identity, time.monotonic(), 0.2 if error.status == 409 else 1.0)

    def _attempt(self, what: str, write: Callable[[], object]) -> ApiError | None:
        """One write, counted; where the API server is in trouble, or asks for it, all writes wait."""
        self._pace.spend(time.monotonic())
        try:
            write()
        except ApiError as error:
            self._writes[what, "failed"] += 1
            if error.status not in (403, 404, 409, 422):
                self._pace.pause(time.monotonic() + self._backoff.wait_s(fault_of(error), error.retry_after_s))
            if error.status not in (404, 409) and str(error) != self._said:
                self._said = str(error)
                log.warning("%s cannot be written: %s", what, error)
            return error
        self._writes[what, "done"] += 1
        self._backoff.reset()
        return None

    def _not_live(self) -> str | None:
        return "the loop stands still" if time.monotonic() - self._turned_s > STILL_S else None

    def _not_ready(self) -> str | None:
        """A replica that has not read the cluster once could not take over."""
        return None if self._feed.synced else "the cluster has not been read yet"

    def _figures(self) -> metrics.Figures:
        return metrics.Figures(
            leads=self._election.leads(),
            writes=dict(self._writes),
            statuses_waiting=len(self._schedule),
            events_waiting=len(self._events),
            events_dropped=self._events.dropped,
            pods_deselected=self._deselected,
            watch_faults=len(self._feed.faults),
            turned=time.time() - (time.monotonic() - self._turned_s),
        )


def _waits_for_nodes(status: Mapping[str, Any]) -> bool:
    """Accepted, and some node has not said yet that it carries it out."""
    reasons = {one["type"]: one["reason"] for one in status["conditions"]}
    return reasons.get("Accepted") == "Accepted" and reasons.get("Ready") == "NodesNotReady"


def _regarding(stored: Stored) -> Regarding:
    identity = stored.identity
    return Regarding(API_VERSION, identity.kind, identity.name, stored.uid, identity.namespace)


def run(options: Options) -> None:
    """`sniffer controller`."""
    Controller(options).run()
