"""Records as OpenTelemetry spans, sent by its own exporter. Needs the `otel` extra; importing it is slow."""

import logging
from collections.abc import Iterator, Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from edge_runtime import __version__
from edge_runtime.config import TelemetryConfig
from edge_runtime.errors import Code, DeviceError
from edge_runtime.system.trace_context import new_span_id
from edge_runtime.transports.otlp.record import Record

_PATH = "/v1/traces"  # OTLP 1.x, "OTLP/HTTP Request"
_SCOPE = InstrumentationScope("edge_runtime", __version__)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
# What the box could not do is an error of its span; what its caller did wrong is not (semantic conventions, HTTP).
_CALLERS_FAULT = (Code.INVALID_INPUT, Code.NOT_FOUND, Code.TOO_LARGE, Code.UNSUPPORTED_MEDIA, Code.CONFLICT)


class _LastWords(logging.Handler):
    """Keeps what the exporter logs: it tells nobody else why it failed, and would write a line for every try."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = "no reason was given"

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.text = record.getMessage()


class SpanExporter:
    """Implements `tracer.Exporter`. Certificates are set in the exporter's own environment variables."""

    def __init__(self, config: TelemetryConfig, resource: Mapping[str, str]) -> None:
        endpoint = config.otlp_endpoint.rstrip("/").removesuffix(_PATH) + _PATH
        self._resource = Resource(dict(resource))
        self._words = _LastWords()
        library = logging.getLogger("opentelemetry")
        library.addHandler(self._words)
        library.propagate = False
        self._exporter = OTLPSpanExporter(endpoint, headers=config.otlp_headers, timeout=config.export_timeout_seconds)

    def export(self, records: Sequence[Record]) -> None:
        """Send the spans of these requests. Raises DeviceError where the collector does not take them."""
        spans = [span for record in records for span in spans_of(record, self._resource)]
        if self._exporter.export(spans) is not SpanExportResult.SUCCESS:
            raise DeviceError(self._words.text)

    def close(self) -> None:
        """Give up what is being sent."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


def spans_of(record: Record, resource: Resource) -> Iterator[ReadableSpan]:
    """One span of the request, and one for each stage below it."""
    span = record.span
    context, parent = _context(span.trace_id, span.span_id), None
    if span.parent_id:
        parent = SpanContext(span.trace_id, span.parent_id, is_remote=True, trace_flags=_SAMPLED)
    yield ReadableSpan(
        f"infer {record.model}",
        context,
        parent,
        resource,
        _attributes(record),
        kind=SpanKind.INTERNAL if record.source.startswith("pipeline:") else SpanKind.SERVER,
        status=_status(record.error),
        start_time=record.started_ns,
        end_time=record.ended_ns,
        instrumentation_scope=_SCOPE,
    )
    for name, start, end in record.stages():
        child = _context(span.trace_id, new_span_id())
        yield ReadableSpan(name, child, context, resource, start_time=start, end_time=end, instrumentation_scope=_SCOPE)


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=_SAMPLED)


def _status(error: Code | None) -> Status:
    return Status() if error is None or error in _CALLERS_FAULT else Status(StatusCode.ERROR, error.value)


def _attributes(record: Record) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "edge.model.name": record.model,
        "edge.model.version": record.version,
        "edge.source": record.source,
        "edge.batch.size": record.batch,
    }
    if record.id:
        found["edge.request.id"] = record.id
    if record.error is not None:
        found["error.type"] = record.error.value
    return found
