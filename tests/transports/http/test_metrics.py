"""What /metrics says, as Prometheus's own programs and libraries read it."""

import asyncio
import json
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import urllib3
from boxes import RunningBox, as_json, running_box
from bundles import digits
from hypothesis import given
from hypothesis import strategies as st
from peers import free_port, require_peer
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from edge_runtime.errors import Code
from edge_runtime.inference.call import Call
from edge_runtime.inference.placement import Placement
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.transports.http.exposition import Family, labels, wants_openmetrics
from edge_runtime.transports.http.metrics import Metrics

ZEROS = as_json([[0] * 8] * 8)
WHERE = {"model": "digits", "version": "1.0.0"}
OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBox]:
    """A daemon that has answered three requests for digits and refused one."""
    with running_box(tmp_path_factory.mktemp("box")) as running:
        assert running.push(digits())["state"] == "COMMITTED"
        for body in (ZEROS, ZEROS, ZEROS, b"nonsense"):
            running.post("/models/digits/predict", body)
        yield running


def scrape(box: RunningBox, **headers: str) -> str:
    """What /metrics answers."""
    answer = box.http.request("GET", f"{box.url}/metrics", headers=headers, retries=False)
    assert answer.status == 200
    return answer.data.decode()


def values(text: str, name: str, **wanted: str) -> list[float]:
    """Of the samples called `name` with these labels, among others."""
    found = [s for family in parser.text_string_to_metric_families(text) for s in family.samples if s.name == name]
    return [s.value for s in found if wanted.items() <= s.labels.items()]


def test_promtool_finds_nothing_to_say(box: RunningBox) -> None:
    """Prometheus's own lint of names, units, types and help."""
    command = [require_peer("promtool"), "check", "metrics"]
    checked = subprocess.run(command, check=False, input=scrape(box), text=True, capture_output=True, timeout=20)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_both_formats_say_the_same(box: RunningBox) -> None:
    """Prometheus asks for OpenMetrics first; who asks for nothing gets the older text."""
    plain = box.http.request("GET", f"{box.url}/metrics")
    modern = box.http.request("GET", f"{box.url}/metrics", headers=OPENMETRICS)
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert modern.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    old = {f.name: f.type for f in parser.text_string_to_metric_families(plain.data.decode())}
    new = {f.name: f.type for f in openmetrics_parser.text_string_to_metric_families(modern.data.decode())}
    assert old == new
    assert modern.data.endswith(b"# EOF\n")


def test_every_stage_has_counted_every_answer(box: RunningBox) -> None:
    """So that a stage's share of the time can be computed."""
    text = scrape(box)
    assert values(text, "edge_inference_requests_total", **WHERE) == [4]
    assert values(text, "edge_inference_errors_total", **WHERE, code="invalid_input") == [1]
    assert values(text, "edge_inference_errors_total", **WHERE, code="overloaded") == [0]
    for stage in ("request", "queue", "preprocess", "engine", "postprocess"):
        name = f"edge_inference_{stage}_duration_seconds"
        assert values(text, f"{name}_count", **WHERE) == [3], stage
        assert values(text, f"{name}_bucket", **WHERE, le="+Inf") == [3], stage
    parts = ("queue", "preprocess", "engine", "postprocess")
    spent = sum(values(text, f"edge_inference_{part}_duration_seconds_sum", **WHERE)[0] for part in parts)
    assert 0 < spent <= values(text, "edge_inference_request_duration_seconds_sum", **WHERE)[0]
    assert values(text, "edge_inference_batch_size_sum", **WHERE) == [3]


def test_the_box_tells_what_runs_and_what_it_takes(box: RunningBox) -> None:
    """Version, memory, interpreters, process."""
    text = scrape(box)
    assert values(text, "edge_model_info", **WHERE, active="true", task="classification", isolation="none") == [1]
    (memory,) = values(text, "edge_model_memory_bytes", **WHERE)
    assert 0 < memory == values(text, "edge_memory_loaded_bytes")[0] <= values(text, "edge_memory_budget_bytes")[0]
    assert values(text, "edge_model_instances", **WHERE)[0] >= 1
    assert values(text, "edge_inference_requests_in_flight", **WHERE) == [0]
    assert values(text, "process_resident_memory_bytes")[0] > 2**20


def test_prometheus_itself_scrapes_a_box(box: RunningBox, tmp_path: Path) -> None:
    """The server reads every series, and its query language finds them."""
    program, port = require_peer("prometheus"), free_port()
    target = {"targets": [urllib.parse.urlsplit(box.url).netloc]}
    job = {"job_name": "edge", "scrape_interval": "1s", "static_configs": [target]}
    (tmp_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": [job]}))  # JSON is YAML, too
    options = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    with subprocess.Popen(
        [program, *options, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as server:
        try:
            query = 'sum(edge_inference_requests_total{job="edge",model="digits"})'
            assert asked(f"http://127.0.0.1:{port}", query) == "4"
            assert asked(f"http://127.0.0.1:{port}", 'up{job="edge"}') == "1"
        finally:
            server.kill()
            server.communicate()


def asked(prometheus: str, query: str) -> str:
    """The value of a query as soon as it has one."""
    deadline = time.monotonic() + 30
    with urllib3.PoolManager() as http:
        while time.monotonic() < deadline:
            try:
                answer = http.request("GET", f"{prometheus}/api/v1/query", fields={"query": query}, retries=False)
                result = answer.json()["data"]["result"] if answer.status == 200 else []
            except urllib3.exceptions.HTTPError:
                result = []
            if result:
                return str(result[0]["value"][1])
            time.sleep(0.1)
    raise AssertionError(f"no answer to {query}")


def test_nobody_pays_for_metrics_that_nobody_reads() -> None:
    """prometheus_client comes with the first scrape, OpenTelemetry where a collector is configured."""
    code = (
        "import sys, edge_runtime.app, edge_runtime.transports.http.management, edge_runtime.transports.http.metrics;"
        "sys.exit(any(name.startswith(('prometheus_client', 'opentelemetry')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/v1/models/digits:predict"])
def test_what_cannot_be_read_is_counted_once(box: RunningBox, path: str) -> None:
    """Although no model has seen it; a model that is not there has no counts."""
    name, wrong = "edge_inference_errors_total", WHERE | {"code": "invalid_input"}
    (before,) = values(scrape(box), name, **wrong)
    assert box.post(path, b'{"nonsense": 1}')[0] == 400
    assert box.post(path.replace("digits", "absent"), b"{}")[0] == 404
    assert values(scrape(box), name, **wrong) == [before + 1]
    assert values(scrape(box), name, model="absent") == []


# Without a daemon


class Idle:
    """A runner of two interpreters."""

    size, busy, waiting, inline_bytes = 2, 0, 0, 0

    def close(self) -> None:
        """Nothing to free."""


def version(name: str, number: str = "1.0.0") -> ServedVersion:
    """A version that is served, as far as the metrics look at it."""
    manifest = SimpleNamespace(name=name, version=number, files={})
    about = SimpleNamespace(
        task="classification", engine="litert", engine_version="2", kernels="fast", runs_on="cpu", memory_bytes=1000
    )
    parts = cast("Any", (manifest, "0" * 64, about, Idle(), None, Placement()))
    return ServedVersion(*parts)


def rendered(registry: Registry) -> str:
    """A scrape."""
    return asyncio.run(Metrics(registry).render()).decode()


def test_counters_stay_while_the_old_version_answers() -> None:
    """Through two swaps, and a third that loads the first version anew: no series is twice, goes back or is lost."""
    registry, first = Registry(), version("m", "1")
    registry.swap(first)
    with registry.lease("m"):
        first.stats.answered(0.1, Call())
        for number in ("2", "3"):
            registry.swap(version("m", number))
        first.stats.failed(Code.INTERNAL)
        text = rendered(registry)
        assert values(text, "edge_inference_requests_total", version="1") == [2]
        assert values(text, "edge_inference_requests_in_flight", version="1") == [1]
        assert values(text, "edge_model_info", active="true") == [1]
        registry.swap(version("m", "1"))
        registry.find("m").stats.answered(0.1, Call())
        text = rendered(registry)
        assert values(text, "edge_inference_requests_total", version="1") == [3]
        assert values(text, "edge_model_instances", version="1") == [4]
    assert values(rendered(registry), "edge_inference_requests_total", version="1") == [3]
    assert values(rendered(registry), "edge_inference_requests_total", version="2") == []


def test_a_scrape_of_many_models_lets_others_have_their_turn() -> None:
    """Fifty models are more than ten thousand lines."""

    async def go() -> tuple[int, int]:
        registry = Registry()
        for number in range(50):
            registry.swap(version(f"m{number}"))
        metrics, turns = Metrics(registry), 0
        await metrics.render()
        scraping = asyncio.create_task(metrics.render())
        while not scraping.done():
            await asyncio.sleep(0)
            turns += 1
        return turns, (await scraping).count(b"\n")

    turns, lines = asyncio.run(go())
    assert lines > 5000
    assert turns > lines // 250


@given(st.text(max_size=50))
def test_any_label_comes_through(text: str) -> None:
    """Quotes, backslashes, line feeds and what is not ASCII."""
    family = Family("edge_x", "gauge", "About x.", {labels(a=text, b="b"): 0.25})
    (read,) = parser.text_string_to_metric_families("".join(family.lines(openmetrics=False)))
    assert [(s.labels, s.value) for s in read.samples] == [({"a": text, "b": "b"}, 0.25)]


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text; version=1.0.0", True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=0.0.1,text/plain;q=0.5", False),
        ("text/html, application/openmetrics-text ;version=1.0.0;charset=utf-8;q=0.4", True),
    ],
)
def test_openmetrics_is_for_who_asks(accept: str, *, wanted: bool) -> None:
    """In version 1.0.0, the only one."""
    assert wants_openmetrics(accept) is wanted
