"""The metrics of a controller."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from sniffer.metrics.families import build, families
from sniffer.stats import catalogue


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
    turned: float
    """When its loop last began a turn, in seconds since the epoch."""


class ControllerCollector(Collector):
    """Of one replica."""

    def __init__(self, look: Callable[[], Figures]) -> None:
        self._look = look

    def collect(self) -> Iterator[Family]:
        """One scrape."""
        yield build("controller")
        figures = self._look()
        outcomes = [(what, outcome) for what in ("status", "event", "jitter") for outcome in ("done", "failed")]
        yield from families(
            {
                catalogue.WRITES: {key: figures.writes.get(key, 0) for key in outcomes},
                catalogue.QUEUE: {("status",): figures.statuses_waiting, ("event",): figures.events_waiting},
                catalogue.LEADER: {(): figures.leads},
                catalogue.CONTROLLER_FAULTS: {(): figures.watch_faults},
                catalogue.EVENTS_DROPPED: {(): figures.events_dropped},
                catalogue.DESELECTED: {(): figures.pods_deselected},
                catalogue.TURNED: {(): figures.turned},
            }
        )


def registry(look: Callable[[], Figures]) -> CollectorRegistry:
    """Everything that a controller tells; look is called by the threads that serve."""
    made = CollectorRegistry(auto_describe=False)
    made.register(ControllerCollector(look))
    ProcessCollector(registry=made)
    return made
