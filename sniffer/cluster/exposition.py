"""What the controller tells of itself: /metrics for Prometheus, /healthz for its probes."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from sniffer.errors import MachineError

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serve(host: str, port: int, collector: Collector, is_healthy: Callable[[], bool]) -> None:
    """In a thread, for ever. MachineError: the port is taken."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    application = _application(make_wsgi_app(registry), is_healthy)
    try:
        server = _make(host, port, application)
    except OSError as error:
        raise MachineError(f"--metrics: {host}:{port} cannot be served: {error.strerror}", "choose another") from None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def _make(host: str, port: int, application: Application) -> ThreadingWSGIServer:
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Probes come every few seconds."""

    return make_server(host, port, application, ThreadingWSGIServer, handler_class=Silent)


def _application(metrics: Application, is_healthy: Callable[[], bool]) -> Application:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            return metrics(environ, start_response)
        known = environ["PATH_INFO"] == "/healthz"
        healthy = known and is_healthy()
        status = "200 OK" if healthy else "503 Service Unavailable" if known else "404 Not Found"
        start_response(status, [("Content-Type", "text/plain")])
        return [b"ok\n" if healthy else b"the loop stands still\n" if known else b"/metrics, /healthz\n"]

    return application
