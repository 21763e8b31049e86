"""What a watch says, line by line."""

import contextlib
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError, ReadTimeoutError

from sniffer.errors import ApiError

Event = Mapping[str, Any]
"""`type` and `object`."""

CHUNK_BYTES = 1 << 16
LINE_BYTES = 64 << 20
"""Longer than any object can be."""

log = logging.getLogger(__name__)


class Stream:
    """The events of one watch, in order; `close` from any thread ends them. Iterating ends where the server ends it.

    ApiError: the server fell silent (reason NoAnswer), or said what is no event (reason Malformed).
    """

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Event]:
        try:
            for line in self._lines():
                yield _event(line)
        finally:
            self._response.close()

    def close(self) -> None:
        """Wakes the thread that reads."""
        self._closed.set()
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # it may have ended by itself
            self._response.shutdown()

    def _lines(self) -> Iterator[bytes]:
        """What follows the last newline was cut off, and is not an event."""
        buffer = bytearray()
        try:
            for chunk in self._response.stream(CHUNK_BYTES):
                if self._closed.is_set():
                    return
                searched = len(buffer)
                buffer += chunk
                while (end := buffer.find(b"\n", searched)) >= 0:
                    yield bytes(buffer[:end])
                    del buffer[: end + 1]
                    searched = 0
                if len(buffer) > LINE_BYTES:
                    raise ApiError(0, "Malformed", f"an event of more than {LINE_BYTES} bytes")
        except ReadTimeoutError as error:
            raise ApiError(0, "NoAnswer", "the watch fell silent") from error
        except (HTTPError, OSError) as error:
            log.debug("watch broken off: %s", error)


def _event(line: bytes) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict) or "type" not in event:
        raise ApiError(0, "Malformed", "the watch said what is not an event")
    return event
