"""What `/metrics` tells: the counts of the data plane by model and version, and what belongs to the whole box."""

import asyncio
import importlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from edge_runtime import __version__
from edge_runtime.errors import Code
from edge_runtime.inference.loader import session_bytes
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.stats import Histogram, Stats
from edge_runtime.transports.http import exposition
from edge_runtime.transports.http.exposition import Family, HistogramFamily, Metric, labels, single

if TYPE_CHECKING:
    from prometheus_client.process_collector import ProcessCollector

Box = Callable[[], Iterable[Family]]

# What inference refuses with: there from the start, so that the first one of a kind is an increase.
_USUAL_CODES = (
    *(Code.INVALID_INPUT, Code.OVERLOADED, Code.DEADLINE_EXCEEDED),
    *(Code.BAD_CONTENT, Code.UNAVAILABLE, Code.INTERNAL),
)
_HISTOGRAMS: dict[str, tuple[str, Callable[[Stats], Histogram]]] = {
    "request_duration_seconds": (
        "Time from an answered request's arrival in the data plane to its answer.",
        lambda stats: stats.total,
    ),
    "queue_duration_seconds": ("Time that answered requests waited for an interpreter.", lambda stats: stats.queue),
    "preprocess_duration_seconds": ("Time that making the input tensors took.", lambda stats: stats.pre),
    "engine_duration_seconds": ("Time that answered requests were in the engine.", lambda stats: stats.engine),
    "postprocess_duration_seconds": ("Time that reading the answer took.", lambda stats: stats.post),
    "batch_size": ("Samples that the engine ran together, for each answered request.", lambda stats: stats.batch),
}
# After so many lines whoever else has something to do on the event loop has their turn.
_LINES_AT_ONCE = 200

Group = dict[str, list[ServedVersion]]  # by labels; several where one version is loaded anew while it still answers


def of_versions(versions: Iterable[ServedVersion]) -> Iterator[Metric]:
    """What was counted of each version, and how it is now."""
    group: Group = {}
    for served in versions:
        group.setdefault(labels(model=served.name, version=served.version), []).append(served)
    stats = {where: members[0].stats for where, members in group.items()}  # which the members of a group share
    yield _info(group)
    yield from _counts(stats)
    yield from _histograms(stats)
    yield from _gauges(group)


def _info(group: Group) -> Metric:
    info = Family("edge_model_info", "gauge", "1; labels tell how the version runs on this box.")
    for where, (served, *_) in group.items():
        about = served.description
        more = labels(
            active="false" if served.previous or served.retired else "true",
            task=about.task,
            engine=f"{about.engine} {about.engine_version}",
            kernels=served.setup.kernels if served.setup else about.kernels,
            runs_on=about.runs_on,
            isolation=served.placement.isolation,
            digest=served.digest,
        )
        info.values[f"{where},{more}"] = 1
    return info


def _counts(stats: dict[str, Stats]) -> Iterator[Metric]:
    requests = Family("edge_inference_requests", "counter", "Requests for the version, failed ones too.")
    errors = Family("edge_inference_errors", "counter", "Requests that failed, by error code.")
    for where, counted in stats.items():
        requests.values[where] = counted.requests
        for code, count in (dict.fromkeys(_USUAL_CODES, 0) | counted.errors).items():
            errors.values[f'{where},code="{code.value}"'] = count
    yield requests
    yield errors


def _histograms(stats: dict[str, Stats]) -> Iterator[Metric]:
    def each(pick: Callable[[Stats], Histogram]) -> Iterator[tuple[str, Histogram]]:
        return ((where, pick(counted)) for where, counted in stats.items())

    for name, (meaning, pick) in _HISTOGRAMS.items():
        yield HistogramFamily(f"edge_inference_{name}", meaning, each(pick))


def _gauges(group: Group) -> Iterator[Metric]:
    def gauge(name: str, meaning: str, value: Callable[[ServedVersion], int]) -> Family:
        return Family(name, "gauge", meaning, {w: sum(map(value, members)) for w, members in group.items()})

    in_flight = "Requests that are being worked on, waiting ones too."
    yield gauge("edge_inference_requests_in_flight", in_flight, lambda served: served.leases - served.holds)
    waiting = "Requests that wait for an interpreter."
    yield gauge("edge_inference_requests_waiting", waiting, lambda served: served.runner.waiting)
    yield gauge("edge_model_instances", "Interpreters in memory.", lambda served: served.runner.size)
    yield gauge("edge_model_instances_busy", "Interpreters that run a request.", lambda served: served.runner.busy)
    memory = "Memory of the interpreters, as measured when the version was proven."
    yield gauge("edge_model_memory_bytes", memory, _memory)
    crashes = Family("edge_worker_crashes", "counter", "Worker processes that an isolated model lost, and got anew.")
    for where, members in group.items():
        if members[0].placement.isolated:
            crashes.values[where] = sum(served.placement.crashes for served in members)
    yield crashes


def _memory(served: ServedVersion) -> int:
    if not served.resident:
        return 0
    isolated = served.placement.isolated
    return served.runner.size * session_bytes(served.manifest, served.description, isolated=isolated)


class Metrics:
    """Renders a scrape. `box` gives the metrics of the whole box."""

    def __init__(self, registry: Registry, box: Box = lambda: ()) -> None:
        self._registry = registry
        self._box = box
        self._process: ProcessCollector | None = None

    async def render(self, *, openmetrics: bool = False) -> bytes:
        """The text of all metrics."""
        process = await self._process_collector()
        lines = (line for metric in self._metrics(process) for line in metric.lines(openmetrics=openmetrics))
        parts = []
        while part := "".join(islice(lines, _LINES_AT_ONCE)):
            parts.append(part)
            await asyncio.sleep(0)
        return "".join([*parts, exposition.OPENMETRICS_END if openmetrics else ""]).encode()

    def _metrics(self, process: "ProcessCollector") -> Iterator[Metric]:
        info = Family("edge_runtime_info", "gauge", "1; the label tells the version of the daemon.")
        info.values[labels(version=__version__)] = 1
        yield info
        yield from self._box()
        yield from of_versions(self._registry.versions())
        yield from _of_process(process)

    async def _process_collector(self) -> "ProcessCollector":
        """Made for the first scrape: a box that nobody scrapes saves its memory."""
        if self._process is None:
            await asyncio.to_thread(importlib.import_module, "prometheus_client.process_collector")
            from prometheus_client import CollectorRegistry  # noqa: PLC0415 - see above
            from prometheus_client.process_collector import ProcessCollector  # noqa: PLC0415 - see above

            self._process = ProcessCollector(registry=CollectorRegistry(auto_describe=False))
        return self._process


def _of_process(process: "ProcessCollector") -> Iterator[Metric]:
    for metric in process.collect():
        kind, samples = metric.type, metric.samples
        if kind in ("counter", "gauge") and samples:
            yield single(
                metric.name, "counter" if kind == "counter" else "gauge", metric.documentation, samples[0].value
            )
