"""The metrics of a node's agent: what the pins tell, read at each scrape, and how its loop fares."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from sniffer.errors import SnifferError
from sniffer.kernel.look import look_at
from sniffer.metrics.families import build, families, histogram
from sniffer.stats import catalogue
from sniffer.stats.rows import Look
from sniffer.stats.series import Labels, Named, NodeSeries


@dataclass(slots=True)
class Loop:
    """What the agent's loop says of itself. It writes, scrapes read; words in between may be of two looks."""

    took_s: Histogram = field(default_factory=lambda: histogram(catalogue.ROUND_S))
    late_s: float = 0.0
    """How much later than it was due the last look began."""
    errors: int = 0
    """Looks in which something could not be done."""
    ended: float = 0.0
    """When the last look ended, in seconds since the epoch."""
    fresh: bool = False
    """Whether the source was heard recently enough for leases to be renewed."""
    faults: int = 0
    contact_s: float | None = None
    """Monotonic time until which all of the source was known; -inf: never; None: it is no cluster."""


class AgentCollector(Collector):
    """One node's, of one process."""

    def __init__(self, look: Callable[[], Look], loop: Loop, named: Named = Named.ALL) -> None:
        """look: at the pins."""
        self._look = look
        self._loop = loop
        self._series = NodeSeries(named)
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Family]:
        """One scrape. Without pins it tells of the loop alone, and that they could not be read."""
        yield build("agent")
        with self._lock:  # what one look leaves for the next is not for two at once
            try:
                series = self._series.of(self._look())
            except (SnifferError, OSError):
                series = {catalogue.READABLE: {(): 0}}
        yield from families(series)
        yield from self._of_loop()

    def _of_loop(self) -> Iterator[Family]:
        loop = self._loop
        yield from loop.took_s.collect()
        contact: dict[Labels, float] = {} if loop.contact_s is None else {(): _wall_clock(loop.contact_s)}
        yield from families(
            {
                catalogue.LAG_S: {(): loop.late_s},
                catalogue.ERRORS: {(): loop.errors},
                catalogue.LOOKED: {(): loop.ended},
                catalogue.CONTACT: contact,
                catalogue.FRESH: {(): loop.fresh},
                catalogue.AGENT_FAULTS: {(): loop.faults},
            }
        )


def _wall_clock(monotonic_s: float) -> float:
    """Seconds since the epoch; 0: never."""
    return max(time.time() - (time.monotonic() - monotonic_s), 0.0)


def registry(root: Path, loop: Loop, named: Named) -> CollectorRegistry:
    """Everything that an agent tells."""
    made = CollectorRegistry(auto_describe=False)
    made.register(AgentCollector(lambda: look_at(root), loop, named))
    ProcessCollector(registry=made)
    return made
