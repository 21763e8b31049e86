"""Prometheus metrics of one node, read from the pins at each scrape.

Counter names end in _total, units are in names.
"""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sniffer.errors import InputError, MachineError, SnifferError
from sniffer.kernel.look import look_at
from sniffer.stats.rows import Row, status

_LABELS = ("kind", "namespace", "name")


class NodeCollector(Collector):
    """What `sniffer status` shows, as metrics."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def collect(self) -> Iterator[Metric]:
        """One scrape; without pins there is nothing to tell."""
        try:
            rows = status(look_at(self._root))
        except SnifferError:
            return
        yield from _frames(rows["mirrors"])
        yield from _octets(rows["mirrors"])
        yield from _gauges(rows)


def _label(row: Row) -> tuple[str, str, str]:
    return row["kind"], row["namespace"] or "", row["name"]


def _frames(mirrors: list[Row]) -> Iterator[Metric]:
    frames = CounterMetricFamily(
        "sniffer_mirror_frames", "Frames by outcome; matched = sent + every drop.", labels=(*_LABELS, "outcome")
    )
    lost = CounterMetricFamily(
        "sniffer_mirror_lost_packets", "Packets lost behind the relay, by reason.", labels=(*_LABELS, "reason")
    )
    wire = CounterMetricFamily("sniffer_mirror_wire_packets", "Packets handed to the uplink.", labels=_LABELS)
    for row in mirrors:
        frames.add_metric((*_label(row), "matched"), row["matched"]["packets"])
        frames.add_metric((*_label(row), "sent"), row["sent"]["packets"])
        for reason, count in row["dropped"].items():
            frames.add_metric((*_label(row), f"dropped_{reason}"), count)
        for reason, count in row["lost"].items():
            lost.add_metric((*_label(row), reason), count)
        wire.add_metric(_label(row), row["wire"]["packets"])
    return iter((frames, lost, wire))


def _octets(mirrors: list[Row]) -> Iterator[Metric]:
    for name in ("matched", "sent", "wire"):
        metric = CounterMetricFamily(f"sniffer_mirror_{name}_bytes", f"Bytes of frames {name}.", labels=_LABELS)
        for row in mirrors:
            metric.add_metric(_label(row), row[name]["bytes"])
        yield metric


def _gauges(rows: Row) -> Iterator[Metric]:
    lease = GaugeMetricFamily(
        "sniffer_mirror_lease_seconds", "Seconds until the mirror ends by itself.", labels=_LABELS
    )
    state = GaugeMetricFamily("sniffer_mirror_state", "1 for the state that it is in.", labels=(*_LABELS, "state"))
    for row in rows["mirrors"]:
        lease.add_metric(_label(row), row["lease_s"])
        state.add_metric((*_label(row), row["state"]), 1)
    hooks = GaugeMetricFamily("sniffer_hooks", "Hooks by state.", labels=("state",))
    for name in ("attached", "missing", "bypassed"):
        hooks.add_metric((name,), sum(hook["state"] == name for hook in rows["hooks"]))
    skipped = CounterMetricFamily("sniffer_skipped_frames", "Our own copies, seen again and not copied.")
    skipped.add_metric((), rows["skipped"]["packets"])
    return iter((lease, state, hooks, skipped))


def parse(address: str) -> tuple[str, int]:
    """HOST:PORT, a host in brackets without them. InputError for another form."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(f"--metrics: given {address!r}, allowed HOST:PORT as in 127.0.0.1:9090")
    return host.strip("[]"), int(port)


def serve(address: str, root: Path) -> None:
    """Serves /metrics in a thread. InputError as `parse`, MachineError when it is taken."""
    host, port = parse(address)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(root))
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        raise MachineError(f"--metrics: {address} cannot be served: {error.strerror}", "choose another") from None
