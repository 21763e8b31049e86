"""What the controller tells of itself: /metrics for Prometheus, /healthz for its probes."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from sniffer.errors import MachineError

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Figures:
    """One look at a controller."""

    leads: bool
    writes: Mapping[tuple[str, str], int]
    """By what is written and its outcome."""
    statuses_waiting: int
    events_waiting: int
    events_dropped: int
    pods_deselected: int
    watch_faults: int


class _Figures(Collector):
    def __init__(self, look: Callable[[], Figures]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        figures = self._look()
        writes = CounterMetricFamily("sniffer_controller_writes", "Requests that write.", labels=("what", "outcome"))
        for what in ("status", "event", "jitter"):
            for outcome in ("done", "failed"):
                writes.add_metric((what, outcome), figures.writes.get((what, outcome), 0))
        queue = GaugeMetricFamily("sniffer_controller_queue", "What waits to be looked at.", labels=("what",))
        queue.add_metric(("status",), figures.statuses_waiting)
        queue.add_metric(("event",), figures.events_waiting)
        yield from (writes, queue)
        for name, words, value in (
            ("leader", "1 for the replica that writes.", figures.leads),
            ("watch_faults", "Watches that are not followed now.", figures.watch_faults),
        ):
            yield GaugeMetricFamily(f"sniffer_controller_{name}", words, value=float(value))
        for name, words, value in (
            ("events_dropped", "Events for which the queue had no room.", figures.events_dropped),
            (
                "deselected_pods",
                "Pods that left a ClusterTrafficMirror by their labels.",
                figures.pods_deselected,
            ),
        ):
            yield CounterMetricFamily(f"sniffer_controller_{name}", words, value=value)


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds."""


def serve(host: str, port: int, look: Callable[[], Figures], is_healthy: Callable[[], bool]) -> None:
    """In a thread, for ever; look and is_healthy are called in it. MachineError: the port is taken."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(look))
    application = _application(make_wsgi_app(registry), is_healthy)
    try:
        server = make_server(host, port, application, ThreadingWSGIServer, handler_class=_Silent)
    except OSError as error:
        raise MachineError(f"--metrics: {host}:{port} cannot be served: {error.strerror}", "choose another") from None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


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
