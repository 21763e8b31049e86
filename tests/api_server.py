"""A small API server on loopback for fast tests: lists, pages, watches, and what a test wants it to answer instead.

It keeps what it is asked, and knows nothing of kinds: a collection is a path. Every answer has a thread, which
ends with the server.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from sniffer.cluster.client import Client

Key = tuple[str, str]


@dataclass(frozen=True)
class Request:
    at_s: float
    method: str
    path: str
    parameters: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any = None
    epoch: int = 0
    """How often all watches had been ended before."""

    @property
    def is_watch(self) -> bool:
        return self.parameters.get("watch") == "true"


@dataclass(frozen=True)
class Answer:
    status: int = 200
    """0: the connection ends without a word."""
    body: Any = None
    """A JSON value, bytes, or None."""
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Iterable[bytes] | None = None
    """Sent chunk by chunk instead of the body."""


def failure(code: int, reason: str, message: str = "told to", **headers: str) -> Answer:
    status = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    return Answer(code, status, {key.replace("_", "-"): value for key, value in headers.items()})


def line(kind: str, item: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


class ApiServer:
    """Use as a context manager."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.intercept: Callable[[Request], Answer | None] = lambda request: None
        """An answer instead of the usual one."""
        self.objects_only: set[str] = set()
        """Names that are objects, not collections, though there are none."""
        self.version = 100
        self.token: str | None = None
        """What a request must carry."""
        self._collections: dict[str, dict[Key, dict[str, Any]]] = {}
        self._log: list[tuple[int, str, str, dict[str, Any]]] = []
        self._changed = threading.Condition()
        self._epoch = 0
        self.stopped = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.drop_watches()
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def client(self) -> Client:
        return Client(self._load)

    def _load(self, configuration: Any) -> None:
        configuration.host, configuration.proxy = self.url, None
        if self.token:
            configuration.api_key["BearerToken"] = f"Bearer {self.token}"

    def put(self, path: str, name: str, namespace: str = "", **content: Any) -> dict[str, Any]:
        """Creates or changes an object; `metadata` in content is merged into it."""
        with self._changed:
            self.version += 1
            collection = self._collections.setdefault(path, {})
            kind = "MODIFIED" if (namespace, name) in collection else "ADDED"
            metadata = {"name": name, "uid": f"uid-{namespace}-{name}", **content.pop("metadata", {})}
            metadata["resourceVersion"] = str(self.version)
            if namespace:
                metadata["namespace"] = namespace
            item = {"metadata": metadata, **content}
            collection[namespace, name] = item
            self._note(kind, path, item)
            return item

    def remove(self, path: str, name: str, namespace: str = "") -> None:
        with self._changed:
            self.version += 1
            item = self._collections[path].pop((namespace, name))
            item = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
            self._note("DELETED", path, item)

    def forget(self, path: str, name: str, namespace: str = "") -> None:
        """Removes it without an event, as when nobody was watching and the history is gone."""
        with self._changed:
            self.version += 1
            del self._collections[path][namespace, name]

    def go_back(self, version: int) -> None:
        """The state of an older version: what came later is not known any more."""
        with self._changed:
            self.version = version
            self._log = [entry for entry in self._log if entry[0] <= version]
            self._collections = {}
            for _, kind, path, item in self._log:
                key = item["metadata"].get("namespace", ""), item["metadata"]["name"]
                collection = self._collections.setdefault(path, {})
                if kind == "DELETED":
                    collection.pop(key, None)
                else:
                    collection[key] = item

    def drop_watches(self) -> None:
        """Ends every watch, as a timeout does."""
        with self._changed:
            self._epoch += 1
            self._changed.notify_all()

    def asked(self, path: str | None = None, watch: bool | None = None) -> list[Request]:
        """The requests so far, of one path, watches or not."""
        return [
            request for request in self.requests if path in (None, request.path) and watch in (None, request.is_watch)
        ]

    def _note(self, kind: str, path: str, item: dict[str, Any]) -> None:
        self._log.append((self.version, kind, path, item))
        self._changed.notify_all()

    def answer(self, request: Request) -> Answer:
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return failure(401, "Unauthorized")
        if answer := self.intercept(request):
            return answer
        if request.path == "/readyz":
            return Answer(200, b"ok")
        if request.method == "PATCH":
            return self._apply(request)
        if request.method != "GET":
            return failure(405, "MethodNotAllowed")
        collection, _, name = request.path.rpartition("/")
        if collection in self._collections or name in self.objects_only:
            item = self._collections.get(collection, {}).get(("", name))
            return Answer(200, item) if item else failure(404, "NotFound")
        if request.is_watch:
            return Answer(stream=self._events(request))
        return self._list(request)

    def _apply(self, request: Request) -> Answer:
        """Server-side apply to an object without namespace: creates it, but for the status."""
        path = request.path.removesuffix("/status")
        collection, _, name = path.rpartition("/")
        former = self._collections.get(collection, {}).get(("", name), {})
        if request.path != path and not former:
            return failure(404, "NotFound")
        content = {key: value for key, value in {**former, **request.body}.items() if key != "metadata"}
        metadata = {**former.get("metadata", {}), **request.body["metadata"]}
        return Answer(200, self.put(collection, name, **content, metadata=metadata))

    def _list(self, request: Request) -> Answer:
        with self._changed:
            collection = dict(sorted(self._collections.get(request.path, {}).items()))
            version = self.version
        name = request.parameters.get("fieldSelector", "").partition("metadata.name=")[2]
        items = [item for item in collection.values() if name in ("", item["metadata"]["name"])]
        begin = int(request.parameters.get("continue", 0))
        end = begin + int(request.parameters.get("limit", len(items) + 1))
        metadata = {"resourceVersion": str(version)}
        if end < len(items):
            metadata["continue"] = str(end)
        return Answer(200, {"kind": "List", "metadata": metadata, "items": items[begin:end]})

    def _events(self, request: Request) -> Iterator[bytes]:
        """A watch from the future is silent, as etcd's is."""
        sent = int(request.parameters["resourceVersion"])
        ends_s = time.monotonic() + int(request.parameters["timeoutSeconds"])
        while True:
            with self._changed:
                due = [entry for entry in self._log if entry[0] > sent and entry[2] == request.path]
                if not due:
                    if self._epoch != request.epoch or not self._changed.wait(max(ends_s - time.monotonic(), 0)):
                        return
                    continue
            for version, kind, _, item in due:
                yield line(kind, item)
                sent = version

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805  `self` is the handler's
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def do_GET(self) -> None:
                if server.stopped.is_set():
                    self.close_connection = True
                    return
                url = urlsplit(self.path)
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                headers = {key.lower(): value for key, value in self.headers.items()}
                parameters = dict(parse_qsl(url.query))
                with server._changed:
                    request = Request(
                        time.monotonic(), self.command, url.path, parameters, headers, body, server._epoch
                    )
                    server.requests.append(request)
                self._send(server.answer(request))

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

            def _send(self, answer: Answer) -> None:
                if not answer.status:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for key, value in answer.headers.items():
                    self.send_header(key, value)
                if answer.stream is None:
                    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    return
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for chunk in answer.stream:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: object) -> None:
                pass

        return Handler
