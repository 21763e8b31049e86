"""Serves /metrics and probes: in plain text on loopback, elsewhere by HTTPS to whom the API server knows and allows.

A connection has a thread and a time limit, and there are a few at most. For one more the oldest of whoever has most of
them is left: callers that only hold on to theirs keep no kubelet out, nor a scrape.
"""

import contextlib
import ipaddress
import logging
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from sniffer.cluster.access import Decision
from sniffer.errors import InputError, MachineError

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Fault = Callable[[], str | None]
"""What a probe asks: why not, in words; None: all is well. Called by the threads that serve; must not block."""
Reviewer = Callable[[str], Decision]
"""What a bearer token ("": none) may do; called by the threads that serve."""

ALWAYS_LIVE: Mapping[str, Fault] = {"/healthz": lambda: None}
CONNECTIONS_LIMIT = 16
THREADS_LIMIT = 64
"""Those of connections that were left, and are not done yet, included."""
IDLE_S = 10.0
"""A caller that says nothing for so long is left."""

_CERTIFICATE, _KEY = "tls.crt", "tls.key"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where, and to whom."""

    host: str
    port: int
    tls: Path | None = None
    """Directory of tls.crt and tls.key; None: plain text."""
    reviewer: Reviewer | None = None
    """None: anybody who gets there."""


def parse(option: str, address: str) -> Place:
    """HOST:PORT, an IPv6 address in brackets, without TLS. InputError for another form; no name is looked up."""
    host, _, port = address.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        # In brackets is an address of IPv6, without them one of IPv4.
        good = (ipaddress.ip_address(bare).version == 6) == (bare != host)
    except ValueError:
        good = False
    if not good or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(f"{option}: given {address!r}, allowed ADDRESS:PORT as in 127.0.0.1:9750 or [::1]:9750")
    return Place(bare, int(port))


def guarded(option: str, address: str, tls: Path | None, reviewer: Callable[[], Reviewer] | None) -> Place:
    """Where metrics may be served as asked. reviewer: makes one; None: there is no API server to ask.

    InputError: no address; not loopback, and without TLS; TLS where nobody can be asked who scrapes.
    """
    place = parse(option, address)
    if tls is None:
        if not ipaddress.ip_address(place.host).is_loopback:
            raise InputError(
                f"{option}: given {address} without {option}-tls, allowed 127.0.0.1 or [::1], where whoever is on this "
                f"node reads it; or any address with {option}-tls DIR: HTTPS, and the API server is asked who scrapes"
            )
        return place
    if reviewer is None:
        raise InputError(f"{option}-tls: given without a cluster, allowed where an API server can be asked who scrapes")
    context_of(f"{option}-tls", tls)
    return Place(place.host, place.port, tls, reviewer())


def context_of(option: str, directory: Path) -> ssl.SSLContext:
    """InputError: no certificate with its key there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(directory / _CERTIFICATE, directory / _KEY)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        words = error.strerror if isinstance(error, FileNotFoundError) else error
        allowed = f"a directory with {_CERTIFICATE} and {_KEY}, as a Secret of type kubernetes.io/tls is mounted"
        raise InputError(f"{option}: given {directory} ({words}), allowed {allowed}") from None
    return context


def serve(
    option: str, place: Place, registry: CollectorRegistry | None, probes: Mapping[str, Fault] = ALWAYS_LIVE
) -> None:
    """In a thread, for ever; registry and probes are called by others, one for each connection.

    registry: None: no metrics. probes: by path. MachineError: the port is taken.
    """
    tls = _Certificate(option, place.tls) if place.tls else None
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        server = _Server(family, (place.host, place.port), tls)
    except OSError as error:
        words = f"{option}: {place.host}:{place.port} cannot be served: {error.strerror}"
        raise MachineError(words, "choose another") from None
    metrics = make_wsgi_app(registry) if registry else None
    server.set_app(_application(metrics, place.reviewer, probes))
    threading.Thread(target=server.serve_forever, name=option.strip("-"), daemon=True).start()


class _Certificate:
    """What TLS is done with: read again when its file is another, as that of a Secret becomes."""

    def __init__(self, option: str, directory: Path) -> None:
        self._option, self._directory = option, directory
        self._context = context_of(option, directory)
        self._seen = self._signature()

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        """With the handshake. Raises OSError."""
        seen = self._signature()
        if seen != self._seen:
            self._seen = seen
            try:
                self._context = context_of(self._option, self._directory)
            except InputError as error:
                log.warning("%s; going on with the former one", error)
        return self._context.wrap_socket(connection, server_side=True)

    def _signature(self) -> tuple[object, ...]:
        with contextlib.suppress(OSError):
            stat = (self._directory / _CERTIFICATE).stat()
            return stat.st_mtime_ns, stat.st_ino
        return ()


class _Quiet(WSGIRequestHandler):
    timeout = IDLE_S

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes and probes come every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 16

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int], tls: _Certificate | None) -> None:
        self.address_family = family
        self._tls = tls
        self._lock = threading.Lock()
        self._served: dict[socket.socket, tuple[str, socket.socket]] = {}
        """Connections, oldest first: whose they are, and a duplicate by which another thread can end them."""
        self._running = 0
        super().__init__(address, _Quiet)

    def server_bind(self) -> None:
        """Without the reverse look-up of the standard library's: nothing here asks a name server."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            full = self._running >= THREADS_LIMIT
            if not full:
                if len(self._served) >= CONNECTIONS_LIMIT:
                    self._leave_one()
                self._served[request] = str(client_address[0]), request.dup()
                self._running += 1
        if full:
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._done(request)
            raise

    def _leave_one(self) -> None:
        """The oldest of whoever has most."""
        of_each = Counter(host for host, _ in self._served.values())
        crowd = max(of_each, key=lambda host: of_each[host])
        oldest = next(one for one, (host, _) in self._served.items() if host == crowd)
        _, duplicate = self._served.pop(oldest)
        with duplicate, contextlib.suppress(OSError):
            duplicate.shutdown(socket.SHUT_RDWR)

    def _done(self, request: socket.socket) -> None:
        with self._lock:
            self._running -= 1
            if request in self._served:
                self._served.pop(request)[1].close()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            request.settimeout(IDLE_S)
            wrapped = self._tls.wrap(request) if self._tls else request
        except OSError:  # no TLS, or not of ours
            self.shutdown_request(request)
        else:
            super().process_request_thread(wrapped, client_address)
        finally:
            self._done(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("a scrape from %s broke off", client_address)


def _application(metrics: Application | None, reviewer: Reviewer | None, probes: Mapping[str, Fault]) -> Application:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        headers = [("Content-Type", "text/plain; charset=utf-8")]
        if probe := probes.get(environ["PATH_INFO"]):
            fault = probe()
            start_response("503 Service Unavailable" if fault else "200 OK", headers)
            return [f"{fault or 'ok'}\n".encode()]
        if environ["PATH_INFO"] != "/metrics" or metrics is None:
            start_response("404 Not Found", headers)
            return [f"{', '.join((*(['/metrics'] if metrics else []), *probes))}\n".encode()]
        decision = reviewer(_bearer(environ)) if reviewer else Decision.ALLOWED
        if decision is Decision.ALLOWED:
            return metrics(environ, start_response)
        code, words = decision.value
        if decision is Decision.UNAUTHENTICATED:
            headers.append(("WWW-Authenticate", "Bearer"))
        start_response(f"{code} {words}", headers)
        return [_WORDS[decision]]

    return application


_WORDS = {
    Decision.UNAUTHENTICATED: b"a bearer token is needed that the API server knows\n",
    Decision.FORBIDDEN: b"the right to get the nonResourceURL /metrics is needed\n",
    Decision.BUSY: b"too many tokens to ask the API server about\n",
    Decision.UNKNOWN: b"the API server does not say who this is\n",
}


def _bearer(environ: dict[str, Any]) -> str:
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
