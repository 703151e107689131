"""`edge-runtime tune` and the tuning of a push, with real daemons: measured once, remembered, swapped in."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from boxes import RunningBox, as_json, running_box
from bundles import digits

QUICK = "engine.tune_seconds=0.4"


def tuning_of(box: RunningBox) -> dict[str, Any]:
    """What `/models` says of the only one."""
    (model,) = box.get("/models")["models"]
    tuning: dict[str, Any] = model["tuning"]
    return tuning


def command(state: Path, port: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`edge-runtime tune` on that state."""
    settings = [f"device.state_dir={state}", "http.host=127.0.0.1", f"http.port={port}", QUICK]
    options = [word for setting in settings for word in ("--set", setting)]
    return subprocess.run(
        [sys.executable, "-m", "edge_runtime.cli.daemon", "tune", *options, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def infer_body(box: RunningBox) -> bytes:
    """Zeros as the model takes them."""
    (spec,) = box.get("/v2/models/digits")["inputs"]
    data = [0] * 64
    return as_json(
        {"inputs": [{"name": spec["name"], "shape": [1, 8, 8, 1], "datatype": spec["datatype"], "data": data}]}
    )


def test_a_push_is_measured_once_and_tuned_again_under_load_without_a_lost_request(tmp_path: Path) -> None:
    """A restart measures nothing; the command does, and swaps the result in while requests are answered."""
    with running_box(tmp_path, QUICK) as box:
        assert box.push(digits())["state"] == "COMMITTED"
        first = tuning_of(box)
        assert first["chosen"] in [c["setup"] for c in first["candidates"]]
        assert (first["objective"], first["objective_from"], first["inputs"]) == (
            "throughput",
            "configuration",
            "golden",
        )
        assert first["measured_seconds"] < 2
        box.terminate()
    with running_box(tmp_path, QUICK) as box:
        assert tuning_of(box) == first
        statuses, stop, body = [], threading.Event(), infer_body(box)

        def ask() -> None:
            while not stop.is_set():
                statuses.append(box.post("/v2/models/digits/infer", body)[0])

        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        done = command(tmp_path, box.url.rsplit(":", 1)[1], "--objective", "latency", "--json")
        stop.set()
        for asker in askers:
            asker.join()
        assert done.returncode == 0, done.stderr
        (tuned,) = json.loads(done.stdout)["tuned"]
        assert (tuned["model"], tuned["tuning"]["objective"]) == ("digits", "latency")
        assert set(statuses) == {200}
        again = tuning_of(box)
        assert (again["objective"], again["objective_from"]) == ("latency", "edge-runtime tune")
        assert again["measured_unix_time"] >= first["measured_unix_time"]
        assert box.get("/models")["models"][0]["setup"] == again["chosen"] == tuned["setup"]


def test_without_a_daemon_it_measures_for_the_next_one(tmp_path: Path) -> None:
    """And says what it cannot do, in its exit status, too."""
    with running_box(tmp_path) as box:
        assert box.push(digits())["state"] == "COMMITTED"
        assert tuning_of(box) is None
        port = box.url.rsplit(":", 1)[1]
        box.terminate()
    done = command(tmp_path, port)
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stdout
    assert "throughput" in done.stdout
    absent = command(tmp_path, port, "nothing")
    assert absent.returncode == 1
    assert "not on this box" in absent.stdout
    assert command(tmp_path, port, "--objective", "beauty").returncode == 2
    with running_box(tmp_path, QUICK) as box:
        assert tuning_of(box)["chosen"] in done.stdout


def test_what_was_never_measured_on_this_box_is_measured_after_the_start(tmp_path: Path) -> None:
    """As after an update of the engine or on another board: it serves at once, and tunes meanwhile."""
    with running_box(tmp_path) as box:
        assert box.push(digits())["state"] == "COMMITTED"
        box.terminate()
    with running_box(tmp_path, QUICK) as box:
        body, deadline = infer_body(box), time.monotonic() + 30
        while tuning_of(box) is None:
            assert box.post("/v2/models/digits/infer", body)[0] == 200
            assert time.monotonic() < deadline
        assert box.get("/models")["models"][0]["setup"] == tuning_of(box)["chosen"]


def test_a_box_that_is_tuning_stops_as_soon_as_any_other(tmp_path: Path) -> None:
    """The child goes with it, and what it had found so far is not kept."""
    with running_box(tmp_path) as box:
        assert box.push(digits())["state"] == "COMMITTED"
        box.terminate()
    with running_box(tmp_path, "engine.tune_seconds=20", "lifecycle.drain_seconds=0.5") as box:
        assert box.post("/models/digits/tune")[0] == 202
        assert box.post("/models/digits/tune")[0] == 409
        assert box.terminate() < 6
    with running_box(tmp_path) as box:
        assert tuning_of(box) is None


def test_what_is_wrong_with_a_request_to_tune_is_told(tmp_path: Path) -> None:
    """And what has not been asked for cannot be looked at."""
    with running_box(tmp_path) as box:
        for body, message in (
            (b'{"objective": "beauty"}', "the body must be"),
            (b"[]", "the body must be"),
            (b"no", "JSON"),
        ):
            status, answer = box.post("/models/digits/tune", body)
            assert status == 400
            assert message in answer["error"]
        assert box.post("/models/digits/tune")[0] == 404
        assert "not on this box" in box.get("/models/digits/tune")["error"]
