"""One list of the API server, kept up to date by a watch, in a thread of its own.

What may be relied on:
- Nothing is taken from the view before a complete list, or an event, says that it is gone. While there is no answer the
  view stays, and `contact_s` does not move on: how long an old view is good for is the reader's decision.
- Objects of a custom kind go with its CRD, all of them, by events like any others. So before a removal is believed the
  CRD is read: gone or going means that nothing is removed, `fault` says so, and `contact_s` stands.
- A connection that was lost may have been the end of a server whose etcd then went back to a former state; a watch from
  a version of the future says nothing, for ever. So before a watch is taken up again the version of the whole is
  compared: where it is behind ours we list anew. Such a list replaces the view though it is older: it is all that the
  API server knows, permissions and owners with it, and nobody could end a mirror that it does not know. It may be
  beyond ours again by then; so after a server was away the first watch is short, and a list follows, at another time
  for each of those who lost it together.
- Versions of one object only rise while a watch lasts: duplicates and stragglers change nothing.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from sniffer.cluster.backoff import Backoff, Fault, fault_of
from sniffer.cluster.client import Client, Parameters
from sniffer.cluster.crd import Crd, CrdGoneError
from sniffer.cluster.listing import Key, Object, Pages, Watched, key_of
from sniffer.cluster.stream import Event, Stream
from sniffer.errors import ApiError

__all__ = ["Key", "Object", "Reflector", "Watched"]

WATCH_S = (240, 420)
"""The server ends a watch after so long; each after another time, so that they do not all come back at once."""
DOUBT_S = (20, 80)
"""The first watch of a server that was away."""
SILENCE_S = 90
"""Bookmarks come every 60 s: a watch without event for so long is dead."""
STEADY_S = 5.0
"""A watch that lasted so long was a success."""
PROBE_S = 1.0
"""How often a server that fails is asked whether it is ready."""

log = logging.getLogger(__name__)


class Reflector:
    """`start`; then `objects` from any thread."""

    def __init__(self, client: Client, watched: Watched, changed: Callable[[], None]) -> None:
        """changed: called in the reflector's thread after the view, `synced` or `fault` has changed; must not block."""
        self._client = client
        self._watched = watched
        self._changed = changed
        self._pages = Pages(self._page, watched.parameters)
        self._crd = Crd(self._page_of, watched.crd) if watched.crd else None
        self._objects: dict[Key, Object] = {}
        self._versions: dict[Key, int] = {}
        """Of what is there, and of what went while this watch lasts."""
        self._snapshot: Mapping[Key, Object] | None = None
        self._version: int | None = None
        """Of the view; None: a list is needed."""
        self._stream: Stream | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._backoff = Backoff()
        self._away = False
        """The server did not answer at all, and has not done all that was asked since."""
        self._doubt = False
        """The server was away since the last list: it may be another past that it goes on from."""
        self._thread = threading.Thread(target=self._run, name=f"watch {watched.path}", daemon=True)
        self.synced = False
        """Whether a first complete list has been read."""
        self.contact_s = float("-inf")
        """Monotonic time when the view was last known to be what the API server has."""
        self.fault: str | None = None
        """What is wrong now, in words."""
        self.requests = 0

    def start(self) -> None:
        """Begins to list and watch."""
        self._thread.start()

    def stop(self, wait_s: float = 1.0) -> None:
        """Ends the thread, and waits for it so long: it may wait for an answer itself. The view stays readable."""
        self._stopped.set()
        with self._lock:
            stream = self._stream
        if stream:
            stream.close()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def objects(self) -> Mapping[Key, Object]:
        """The view: a snapshot that does not change; the same one until something does."""
        with self._lock:
            if self._snapshot is None:
                self._snapshot = MappingProxyType(dict(self._objects))
            return self._snapshot

    def _run(self) -> None:
        while not self._stopped.is_set():
            began_s = time.monotonic()
            refusal: ApiError | None = None
            try:
                fault, words = self._follow(), None
            except CrdGoneError as error:
                fault, words, self._version = Fault.CRD_GONE, str(error), None
            except ApiError as error:
                fault, words, refusal = fault_of(error), str(error), error
                if error.status == 404 and self._watched.crd:
                    fault, words = Fault.CRD_GONE, f"the CRD {self._watched.crd} is gone"
                # Versions that are too old or too new, and what cannot be read once, mend by a list only.
                relist = error.reason == "Malformed" or "resource version" in error.message.lower()
                if relist or fault in (Fault.EXPIRED, Fault.CRD_GONE):
                    self._version = None
            except Exception as error:
                # Whatever the server sent: this thread goes on.
                log.exception("%s", self._watched.path)
                fault, words, self._version = Fault.FAILED, f"{type(error).__name__}: {error}", None
            if not self._stopped.is_set():
                self._wait(fault, words, refusal, time.monotonic() - began_s)

    def _wait(self, fault: Fault, words: str | None, refusal: ApiError | None, spent_s: float) -> None:
        if words and fault is not Fault.EXPIRED:
            self._say(words)
        self._doubt |= fault is Fault.SILENT or bool(refusal and refusal.status >= 500)
        wait_s = self._backoff.wait_s(fault, refusal.retry_after_s if refusal else None)
        if fault is Fault.SILENT:
            self._away = True
            wait_s = max(wait_s - spent_s, 0.1)  # what it waited for the answer counts
        log.debug("%s: %s, again in %.1f s: %s", self._watched.path, fault.name, wait_s, words)
        ends_s = time.monotonic() + wait_s
        # Who has too much to do (429) is ready all the time, and means what it says.
        if fault is Fault.FAILED and not (refusal and refusal.status == 429):
            ends_s = self._soonest(ends_s)
        self._stopped.wait(max(ends_s - time.monotonic(), 0))

    def _soonest(self, ends_s: float) -> float:
        """Until when to wait, in monotonic time, after waiting some of it already: a server that was not ready, or not
        there, and is ready now has failed because of that.
        """
        ready = not self._away
        while not self._stopped.is_set() and (left_s := ends_s - time.monotonic()) > PROBE_S:
            was_ready, ready = ready, self._client.ready()
            if ready and not was_ready:
                self._away = False
                self._backoff.reset()
                return time.monotonic() + random.uniform(0.1, 1)
            self._stopped.wait(min(PROBE_S, left_s))
        return ends_s

    def _follow(self) -> Fault:
        """Lists where it has to, then watches until the watch ends."""
        if self._version is None:
            self._list()
        elif (now := self._server_version()) < self._version:
            log.warning("%s: went back from version %d to %d; reading it anew", self._watched.path, self._version, now)
            self._list()
        doubt = self._doubt
        fault = self._watch(DOUBT_S if doubt else WATCH_S)
        if doubt:
            self._version = None
        return fault

    def _list(self) -> None:
        """Replaces the view by a complete list."""
        found: dict[Key, Object] = {}
        versions: dict[Key, int] = {}
        version = 0
        for page in self._pages:
            version = int(page["metadata"]["resourceVersion"])
            for item in page["items"]:
                key = key_of(item)
                found[key] = self._watched.prune(item)
                versions[key] = int(item["metadata"]["resourceVersion"])
        if self._crd:
            self._crd.believe(version)
        with self._lock:
            old = self._objects
            # Readers know by identity what has not changed.
            self._objects = {key: old[key] if old.get(key) == item else item for key, item in found.items()}
            changed = self._objects != old or not self.synced
            self._snapshot = None
        self._version, self._versions, self.synced, self._doubt = version, versions, True, False
        self._contact(changed)

    def _server_version(self) -> int:
        """Of the server's state as a whole."""
        page = self._page_of(self._watched.path, {**self._watched.parameters, "limit": 1}, metadata_only=True)
        return int(page["metadata"]["resourceVersion"])

    def _watch(self, lasts_s: tuple[int, int]) -> Fault:
        began_s = time.monotonic()
        parameters: dict[str, str | int | bool] = {
            **self._watched.parameters,
            "resourceVersion": self._version or 0,
            "allowWatchBookmarks": True,
            "timeoutSeconds": random.randint(*lasts_s),
        }
        self._versions = {key: version for key, version in self._versions.items() if key in self._objects}
        self.requests += 1
        stream = self._client.watch(self._watched.path, parameters, self._watched.metadata_only, SILENCE_S)
        with self._lock:
            self._stream = stream
        if self._stopped.is_set():
            stream.close()  # `stop` came too early to see it
        self._contact(False)
        try:
            for event in stream:
                if self._stopped.is_set():
                    break
                self._take(event)
                self._backoff.reset()
        finally:
            stream.close()
        if time.monotonic() - began_s > STEADY_S:
            self._backoff.reset()
        return Fault.CLOSED

    def _take(self, event: Event) -> None:
        item, kind = event["object"], event["type"]
        if kind == "ERROR":
            raise ApiError(int(item.get("code") or 500), str(item.get("reason")), str(item.get("message")))
        try:
            version = int(item["metadata"]["resourceVersion"])
            key = key_of(item) if kind != "BOOKMARK" else ("", "")
            kept = self._watched.prune(item) if kind in ("ADDED", "MODIFIED") else None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ApiError(0, "Malformed", f"the watch said what is no object ({error!r})") from error
        changed = False
        if kind != "BOOKMARK" and version > self._versions.get(key, 0):
            if kept is None and self._crd and key in self._objects:
                self._believe(version)
            changed = self._put(key, kept)
            self._versions[key] = version
        self._version = max(self._version or 0, version)
        self._contact(changed)

    def _believe(self, version: int) -> None:
        """Raises where the CRD is gone, or cannot be read: then only a list, which asks again, is contact."""
        try:
            if self._crd:
                self._crd.believe(version)
        except ApiError:
            self._version = None
            raise

    def _put(self, key: Key, item: Object | None) -> bool:
        """Whether the view is another now; None takes the object out of it."""
        with self._lock:
            if self._objects.get(key) == item:
                return False
            if item is None:
                del self._objects[key]
            else:
                self._objects[key] = item
            self._snapshot = None
            return True

    def _page(self, parameters: Parameters) -> Mapping[str, Any]:
        return self._page_of(self._watched.path, parameters, self._watched.metadata_only)

    def _page_of(self, path: str, parameters: Parameters, metadata_only: bool) -> Mapping[str, Any]:
        self.requests += 1
        return self._client.get(path, parameters, metadata_only)

    def _contact(self, changed: bool) -> None:
        self.contact_s, self._away = time.monotonic(), False
        if self.fault:
            log.info("%s: followed again", self._watched.path)
        if changed or self.fault:
            self.fault = None
            self._changed()

    def _say(self, words: str) -> None:
        if words != self.fault:
            log.warning("%s: %s", self._watched.path, words)
            self.fault = words
            self._changed()
