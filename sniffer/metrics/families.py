"""Series -> what prometheus_client prints, with names and words of the catalogue."""

from collections.abc import Iterator, Mapping

import prometheus_client
from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family

import sniffer
from sniffer.abi.limits import ABI
from sniffer.stats import catalogue
from sniffer.stats.catalogue import Metric, Type
from sniffer.stats.series import Labels

prometheus_client.disable_created_metrics()


def families(series: Mapping[Metric, Mapping[Labels, float]]) -> Iterator[Family]:
    """Counters and gauges; a metric without series is left out."""
    for metric, samples in series.items():
        made = CounterMetricFamily if metric.type is Type.COUNTER else GaugeMetricFamily
        family = made(metric.name.removesuffix("_total"), metric.help, labels=metric.labels)
        for labels, value in samples.items():
            family.add_metric(labels, value)
        if samples:
            yield family


def histogram(metric: Metric) -> Histogram:
    """To be observed by one thread and collected by another; in no registry."""
    return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=None)


def build(component: str) -> Family:
    """What is running."""
    return next(families({catalogue.BUILD: {(component, sniffer.__version__, str(ABI)): 1}}))
