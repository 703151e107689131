"""Prometheus exposition of the counts that the data plane keeps."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from edge_runtime import __version__
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.stats import BUCKETS

_LABELS = ("model", "version")
Gauges = Callable[[], Iterable[tuple[str, str, float]]]


class _Collector(Collector):
    def __init__(self, registry: Registry, gauges: Gauges) -> None:
        self._registry = registry
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Read the counts at the moment of the scrape."""
        served = self._registry.active()
        info = GaugeMetricFamily("edge_runtime_info", "Version of the daemon.", labels=("version",))
        info.add_metric((__version__,), 1)
        yield info
        yield _requests(served)
        yield _errors(served)
        yield _latency(served)
        yield _busy(served)
        yield _crashes(served)
        for name, text, value in self._gauges():
            yield GaugeMetricFamily(name, text, value=value)


def _labels(served: ServedVersion) -> tuple[str, str]:
    return served.name, served.version


def _requests(served: Iterable[ServedVersion]) -> Metric:
    family = CounterMetricFamily("edge_requests", "Requests, failed ones too.", labels=_LABELS)
    for version in served:
        family.add_metric(_labels(version), version.stats.requests)
    return family


def _errors(served: Iterable[ServedVersion]) -> Metric:
    family = CounterMetricFamily("edge_errors", "Failed requests by error code.", labels=(*_LABELS, "code"))
    for version in served:
        for code, count in version.stats.errors.items():
            family.add_metric((*_labels(version), code), count)
    return family


def _latency(served: Iterable[ServedVersion]) -> Metric:
    text = "Time from the request's arrival in the data plane to its answer."
    family = HistogramMetricFamily("edge_request_duration_seconds", text, labels=_LABELS)
    for version in served:
        buckets, total = [], 0
        for bound, count in zip([*map(str, BUCKETS), "+Inf"], version.stats.total.buckets, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric(_labels(version), buckets, sum_value=version.stats.total.seconds)
    return family


def _crashes(served: Iterable[ServedVersion]) -> Metric:
    family = CounterMetricFamily("edge_worker_crashes", "Worker processes that a model lost.", labels=_LABELS)
    for version in served:
        if version.placement.isolated:
            family.add_metric(_labels(version), version.placement.crashes)
    return family


def _busy(served: Iterable[ServedVersion]) -> Metric:
    family = GaugeMetricFamily("edge_requests_waiting", "Requests that wait for an interpreter.", labels=_LABELS)
    for version in served:
        family.add_metric(_labels(version), version.runner.waiting)
    return family


class Metrics:
    """What `/metrics` answers. `gauges` gives (name, help, value) of what belongs to the whole box."""

    def __init__(self, registry: Registry, gauges: Gauges = lambda: ()) -> None:
        self._prometheus = CollectorRegistry()
        self._prometheus.register(_Collector(registry, gauges))
        ProcessCollector(registry=self._prometheus)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._prometheus)
