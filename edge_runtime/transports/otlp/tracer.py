"""Which requests are recorded, and the thread that exports them: a slow or absent collector costs spans only."""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from edge_runtime.config import TelemetryConfig
from edge_runtime.errors import Code
from edge_runtime.inference.call import Call
from edge_runtime.system import trace_context
from edge_runtime.system.trace_context import Span
from edge_runtime.transports.otlp.record import Record

log = logging.getLogger(__name__)

_MOST_AT_ONCE = 256
_COMPLAIN_SECONDS = 60.0


class Exporter(Protocol):
    """Sends records; used in one thread."""

    def export(self, records: Sequence[Record]) -> None:
        """Return when the collector has them; raise where it does not take them."""
        ...

    def close(self) -> None:
        """Give up what is being sent; from any thread."""
        ...


Open = Callable[[TelemetryConfig, Mapping[str, str]], Exporter]


def _open(config: TelemetryConfig, resource: Mapping[str, str]) -> Exporter:
    from edge_runtime.transports.otlp.exporter import SpanExporter  # noqa: PLC0415 - half a second: in the thread

    return SpanExporter(config, resource)


class SpanTracer:
    """Implements `inference.tracer.Tracer`.

    A trace that comes with a request is recorded if its sampled flag is set; of the others so many as the
    configuration says.

    Attributes:
        exported: requests that the collector has.
    """

    def __init__(self, config: TelemetryConfig, resource: Mapping[str, str], open_exporter: Open = _open) -> None:
        self.exported = 0
        self._failed = 0
        self._crowded_out = 0
        self._config = config
        self._ratio = config.sample_ratio
        self._queue: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._exporter: Exporter | None = None
        self._closing = threading.Event()
        self._complained = -_COMPLAIN_SECONDS
        work = (open_exporter, config, resource)
        self._thread = threading.Thread(target=self._run, args=work, name="otlp", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Requests that the collector never got."""
        return self._failed + self._crowded_out

    def begin(self, call: Call) -> None:
        """See `Tracer.begin`."""
        if call.span != "undecided":
            return
        if not call.traceparent and random.random() >= self._ratio:  # noqa: S311 - no secret; what most requests are
            call.span = None
            return
        call.span = self._span(call.traceparent)
        if call.span is not None:
            call.traceparent = call.span.traceparent

    def _span(self, traceparent: str) -> Span | None:
        parent, span_id = trace_context.parent(traceparent), trace_context.new_span_id()
        if parent is None:
            return Span(trace_context.new_trace_id(), span_id, 0)
        return Span(parent.trace_id, span_id, parent.span_id) if parent.sampled else None

    def end(self, model: str, version: str, call: Call, seconds: float, error: Code | None = None) -> None:
        """See `Tracer.end`."""
        self.begin(call)
        if call.span is None or call.span == "undecided":
            return
        if self._queue.qsize() >= self._config.queue_max_requests:
            self._crowded_out += 1
            return
        about = (call.span, model, version, call.source, call.id, call.batch, error, time.time_ns(), seconds)
        self._queue.put(Record(*about, call.pre_seconds, call.queue_seconds, call.engine_seconds, call.post_seconds))

    def close(self, seconds: float) -> None:
        """Export what is there, for at most so many seconds. Blocking."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            log.warning("%d recorded requests did not reach %s", self._queue.qsize(), self._config.otlp_endpoint)
            if self._exporter is not None:
                self._exporter.close()

    def _run(self, open_exporter: Open, config: TelemetryConfig, resource: Mapping[str, str]) -> None:
        try:
            self._exporter = open_exporter(config, resource)
            while batch := self._batch():
                self._export(self._exporter, batch)
            self._exporter.close()
        except Exception:
            log.exception("traces are off from now on")

    def _batch(self) -> list[Record]:
        """What came within an interval of the first; empty at the end."""
        batch: list[Record] = []
        latest = 0.0
        while len(batch) < _MOST_AT_ONCE:
            try:
                record = self._queue.get(timeout=self._patience(latest) if batch else None)
            except queue.Empty:
                break
            if record is None:
                if batch:
                    self._queue.put(None)  # for the next turn
                break
            latest = latest or time.monotonic() + self._config.export_interval_seconds
            batch.append(record)
        return batch

    def _patience(self, latest: float) -> float:
        return 0.0 if self._closing.is_set() else max(0.0, latest - time.monotonic())

    def _export(self, exporter: Exporter, batch: Sequence[Record]) -> None:
        try:
            exporter.export(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, traces are not worth more than a line
            self._failed += len(batch)
            if time.monotonic() - self._complained >= _COMPLAIN_SECONDS:
                self._complained = time.monotonic()
                log.warning("recorded requests did not reach %s: %s", self._config.otlp_endpoint, error)
        else:
            self.exported += len(batch)
