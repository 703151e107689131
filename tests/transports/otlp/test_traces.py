"""Traces of a real daemon, as a collector gets them, and what a bad collector may cost."""

import importlib.util
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from boxes import RunningBox, as_json, running_box
from brokers import wait_for
from bundles import digits
from hypothesis import given
from hypothesis import strategies as st
from peers import free_port, require_library

from edge_runtime.config import DeviceConfig, TelemetryConfig
from edge_runtime.errors import Code
from edge_runtime.inference.call import Call
from edge_runtime.system.trace_context import Span
from edge_runtime.transports.otlp import extra
from edge_runtime.transports.otlp.record import Record
from edge_runtime.transports.otlp.tracer import SpanTracer

require_library(
    "opentelemetry.proto" if importlib.util.find_spec("opentelemetry") else "opentelemetry", "edge-runtime[otel]"
)

from collector import Collector, plain  # noqa: E402 - needs the extra

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE_ID}-{PARENT_ID}-01", f"00-{TRACE_ID}-{PARENT_ID}-00"
ZEROS = as_json([[0] * 8] * 8)
ON = "telemetry.export_interval_seconds=0.05"


def post(box: RunningBox, path: str, body: bytes, traceparent: str = "") -> int:
    """Send a request that belongs to a trace; returns the status."""
    headers = {"traceparent": traceparent} if traceparent else {}
    return box.http.request("POST", box.url + path, body=body, headers=headers, retries=False).status


def test_a_request_is_a_span_with_its_stages(tmp_path: Path) -> None:
    """Below the caller's span; the log names the trace; what the caller does not record is not recorded here."""
    settings = (ON, "telemetry.sample_ratio=0", "log.slow_request_seconds=0.000001", 'telemetry.otlp_headers.key="k 1"')
    with (
        Collector() as collector,
        running_box(
            *(tmp_path, f"telemetry.otlp_endpoint={collector.url}", 'device.labels.site="paris"'), *settings
        ) as box,
    ):
        box.push(digits())
        for traceparent in ("", UNSAMPLED, SAMPLED):
            assert post(box, "/models/digits/predict", ZEROS, traceparent) == 200
        wait_for(lambda: collector.spans)
        request, *stages = collector.spans
        assert (request.name, request.trace_id.hex(), request.parent_span_id.hex()) == (
            "infer digits",
            TRACE_ID,
            PARENT_ID,
        )
        assert [span.name for span in stages][-1] == "postprocess"
        assert (
            {"preprocess", "engine"}
            <= {span.name for span in stages}
            <= {"preprocess", "queue", "engine", "postprocess"}
        )
        at = request.start_time_unix_nano
        for span in stages:
            assert (span.trace_id, span.parent_span_id) == (request.trace_id, request.span_id)
            assert at <= span.start_time_unix_nano <= span.end_time_unix_nano <= request.end_time_unix_nano
            at = span.end_time_unix_nano
        assert abs(request.end_time_unix_nano / 1e9 - time.time()) < 60
        about = plain(request.attributes)
        assert (about["edge.model.version"], about["edge.source"], about["edge.batch.size"]) == ("1.0.0", "http", 1)
        assert post(box, "/models/digits/predict", b"nonsense", SAMPLED) == 400
        wait_for(lambda: len(collector.spans) > 1 + len(stages))
        assert plain(collector.spans[1 + len(stages)].attributes)["error.type"] == "invalid_input"
        who = collector.resource
        assert (who["service.name"], who["host.name"], who["edge.label.site"]) == ("edge-runtime", "testbox", "paris")
        assert collector.headers[0]["key"] == "k 1"
        lines = [line for line in box.log.splitlines() if "slow: digits" in line]
        assert [line.endswith(f" trace_id={TRACE_ID}") for line in lines] == [False, True, True]
    assert "Traceback" not in box.log


def test_tensor_requests_are_sampled_and_the_stop_exports_them(tmp_path: Path) -> None:
    """Also on the short way through HTTP, which knows no traces; nothing waits for the interval."""
    with (
        Collector() as collector,
        running_box(
            *(tmp_path, f"telemetry.otlp_endpoint={collector.url}"),
            *("telemetry.sample_ratio=1", "telemetry.export_interval_seconds=600"),
        ) as box,
    ):
        box.push(digits())
        inputs = box.get("/v2/models/digits")["inputs"]
        data = [{**spec, "data": [0] * 64} for spec in inputs]
        for _ in range(20):
            assert post(box, "/v2/models/digits/infer", as_json({"inputs": data})) == 200
        assert box.terminate() < 10
        roots = [span for span in collector.spans if not span.parent_span_id]
        assert len(roots) == 20
        assert len({span.trace_id for span in roots}) == 20


@pytest.mark.parametrize("status", [0, 400])
def test_a_collector_that_is_not_there_costs_nothing_but_traces(tmp_path: Path, status: int) -> None:
    """Requests are answered, the loss is counted and logged once, and the stop does not wait for it."""
    with Collector(status) as collector:
        url = collector.url if status else f"http://127.0.0.1:{free_port()}"
        settings = (ON, "telemetry.sample_ratio=1", "telemetry.export_timeout_seconds=0.3")
        with running_box(tmp_path, f"telemetry.otlp_endpoint={url}", *settings) as box:
            box.push(digits())
            for _ in range(5):
                assert post(box, "/models/digits/predict", ZEROS) == 200
            wait_for(lambda: "edge_traces_dropped_total 5" in metrics(box), what=metrics(box))
            assert "edge_traces_exported_total 0" in metrics(box)
            assert box.log.count("recorded requests did not reach") == 1
            assert "Traceback" not in box.log
            assert box.terminate() < 10


def metrics(box: RunningBox) -> str:
    """A scrape."""
    return box.http.request("GET", f"{box.url}/metrics").data.decode()


# Without a daemon


class Held:
    """An exporter that waits to be let go."""

    def __init__(self) -> None:
        self.gate, self.entered = threading.Event(), threading.Event()
        self.records: list[Record] = []

    def open(self, _config: TelemetryConfig, _resource: Mapping[str, str]) -> "Held":
        """What a tracer is given to open it."""
        return self

    def export(self, records: Sequence[Record]) -> None:
        """Wait."""
        self.entered.set()
        assert self.gate.wait(10)
        self.records += records

    def close(self) -> None:
        """Let it go."""
        self.gate.set()


def traced(tracer: SpanTracer, traceparent: str = "") -> Call:
    """One request."""
    call = Call(traceparent=traceparent, engine_seconds=0.1)
    tracer.end("m", "1", call, 0.2)
    return call


def config(**more: float) -> TelemetryConfig:
    """Of a collector that nobody calls."""
    return TelemetryConfig(**{"otlp_endpoint": "http://collector", "export_interval_seconds": 0.05, **more})  # type: ignore[arg-type]


def test_the_queue_is_bounded_and_what_is_dropped_is_counted() -> None:
    """While the collector takes its time, requests do not wait for it."""
    held = Held()
    tracer = SpanTracer(config(queue_max_requests=3), {}, held.open)
    traced(tracer, SAMPLED)
    assert held.entered.wait(10)
    for _ in range(10):
        traced(tracer, SAMPLED)
    assert (tracer.exported, tracer.dropped) == (0, 7)
    held.gate.set()
    tracer.close(10)
    assert (tracer.exported, tracer.dropped, len(held.records)) == (4, 7, 4)


def test_closing_waits_no_longer_than_it_may() -> None:
    """An export that hangs is given up."""
    held = Held()
    tracer = SpanTracer(config(), {}, held.open)
    traced(tracer, SAMPLED)
    assert held.entered.wait(10)
    tracer.close(0.05)
    assert held.gate.is_set()


def test_the_decision_is_made_once_and_the_callers_flag_counts() -> None:
    """The ratio is for requests that bring no trace."""
    free = Held()
    free.gate.set()
    tracer = SpanTracer(config(sample_ratio=0.25), {}, free.open)
    assert traced(tracer, UNSAMPLED).span is None
    followed = traced(tracer, SAMPLED)
    assert isinstance(followed.span, Span)
    assert followed.span.parent_id == int(PARENT_ID, 16)
    assert followed.traceparent == f"00-{TRACE_ID}-{followed.span.span_id:016x}-01"
    calls = [Call() for _ in range(2000)]
    for call in calls:
        for _ in range(5):
            tracer.begin(call)
    recorded = [call for call in calls if call.span is not None]
    assert 350 < len(recorded) < 650  # 500 +- 8 sigma
    assert all(call.traceparent for call in recorded)
    assert not any(call.traceparent for call in calls if call.span is None)
    tracer.close(10)


seconds = st.floats(0, 100)


@given(seconds, seconds, seconds, seconds, seconds)
def test_stages_stay_within_their_request(whole: float, pre: float, queue: float, engine: float, post: float) -> None:
    """In order, whatever was noted."""
    record = Record(Span(1, 2, 3), "m", "1", "http", "", 1, Code.INTERNAL, 10**18, whole, pre, queue, engine, post)
    at = record.started_ns
    for _, start, end in record.stages():
        assert at <= start <= end <= record.ended_ns
        at = end


def test_without_the_extra_the_box_serves(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """And says what is missing; nothing is loaded where it is off."""
    monkeypatch.setattr(extra, "_EXPORTER", "opentelemetry_that_is_not_there.exporter")
    assert extra.open_tracer(config(), DeviceConfig(name="kitchen"), "id") is None
    assert "edge-runtime[otel]" in caplog.text
    assert extra.open_tracer(TelemetryConfig(), DeviceConfig(name="kitchen"), "id") is None
