"""The serving benchmark runs: what it measures is not judged here, that it measures is."""

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from peers import ROOT, require_library, require_peer

from benchmarks.serving import load, pace, scenarios, targets
from benchmarks.serving.questions import Questions, plain_json
from benchmarks.serving.turns import Plan, Row

RIGHT = np.arange(8 * 10, dtype=np.int8).reshape(8, 10)
ASKED = Questions("any", np.arange(8, dtype=np.int8).reshape(8, 1), RIGHT)


class Unreliable(http.server.BaseHTTPRequestHandler):
    """Answers a question rightly, but question 3 with the answer of 2 and question 5 with an error."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer."""
        (number,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["data"]
        numbers = RIGHT[2 if number == 3 else number].tolist()
        body = json.dumps({"shape": [1, 10], "data": [numbers]}).encode()
        self.send_response(500 if number == 5 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def unreliable() -> Iterator[str]:
    """URL of a server that answers some questions wrongly."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unreliable) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_ours_and_the_bare_engine(tmp_path: Path) -> None:
    """One short round of two contestants gives answers without an error, and the engine alone is quicker."""
    require_peer("wrk")
    require_library("litert_quantizer", "edge-runtime[convert]")
    command = [sys.executable, "-m", "benchmarks.serving", "--only", "ours,bare", "--scenarios", "tiny-json"]
    ran = subprocess.run(
        [*command, "--seconds", "1", "--rounds", "1", "--json", "--keep", str(tmp_path / "results.json")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ours, bare = json.loads(ran.stdout)["rows"]
    assert (ours["lane"], bare["lane"]) == ("ours", "bare")
    measures = ours["measures"]
    assert measures["answered"] > 50
    assert measures["failed"] == measures["wrong"] == 0
    assert measures["memory_mb"] > 20
    assert bare["measures"]["per_second"] > measures["per_second"]


def test_wrong_and_failed_answers_are_counted(unreliable: str) -> None:
    """Each of the eight threads asks one question: an eighth fails, an eighth is wrong, none is mistaken for right."""
    require_peer("wrk")
    seen = load.ask(unreliable, ASKED, plain_json, key="data", connections=8, seconds=1)
    good = seen.answered - seen.failed - seen.wrong
    assert seen.failed > 0
    assert seen.wrong > 0
    assert good > 2 * max(seen.failed, seen.wrong)
    assert seen.per_second == pytest.approx(good, rel=0.2)


def test_a_ratio_is_that_of_the_median_round() -> None:
    """A round in which the whole machine was slow changes no ratio; what was not measured promises nothing."""
    ours = Row("tiny-json", "ours", {"failed": 0, "wrong": 0}, [3000.0, 300.0, 3300.0])
    triton = Row("tiny-json", "triton", {}, [1000.0, 100.0, 1000.0])
    judged = {name: (value, holds) for name, value, _, holds in targets.judged([ours, triton])}
    assert judged == {
        "tiny, JSON: ours / Triton": ("3.00 x", True),
        "failed or wrong answers of ours, overload aside": ("0", True),
    }


def test_a_peer_that_cannot_start_is_left_out_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are measured all the same; ours must start."""

    @contextmanager
    def broken(*_: object) -> Iterator[None]:
        raise RuntimeError("no wheel for this machine\nand a log")
        yield

    monkeypatch.setattr("benchmarks.serving.contestants.SERVERS", {"ours": broken, "triton": broken})
    plan = Plan(("ours", "triton"), 1, 1, tmp_path)
    with ExitStack() as stack:
        assert scenarios.start(stack, plan, ("triton",), {}, ()) == []
        assert plan.absent == {"triton": "no wheel for this machine"}
        with pytest.raises(RuntimeError):
            scenarios.start(stack, plan, ("ours",), {}, ())


def test_a_paced_request_waits_from_when_it_was_due(unreliable: str) -> None:
    """All requests are sent although some fail, at the rate that was asked for; each status has its own percentiles."""
    port = int(unreliable.rpartition(":")[2].strip("/"))
    requests = []
    for tensor in ASKED.inputs:
        _, body = plain_json(tensor)
        requests.append(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    began = time.monotonic()
    seen = pace.ask(port, requests, rate=80, seconds=0.5, connections=4, spin=False)
    assert time.monotonic() - began > 0.45
    assert {status: len(times) for status, times in seen.items()} == {200: 35, 500: 5}
    assert min(seen[200]) > 0


def test_an_unknown_contestant_is_a_usage_error() -> None:
    """It says which are known."""
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", "--only", "apache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "unknown: apache" in ran.stderr
    assert "triton" in ran.stderr
