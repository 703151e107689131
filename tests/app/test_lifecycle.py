"""A real daemon's life: start, stop, kill, start again."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from boxes import as_json, running_box
from bundles import digits
from peers import require_shared

from edge_runtime.inference import engine
from edge_runtime.transports.grpc import extra as grpc_extra

ZEROS = as_json([[0] * 8] * 8)
STOP_SECONDS = 5.0


def predicted(box: object) -> str:
    """The version that answers."""
    status, answer = box.post("/models/digits/predict", ZEROS)  # type: ignore[attr-defined]
    assert status == 200, answer
    return str(answer["version"])


def test_sigterm_is_a_clean_and_quick_exit(tmp_path: Path) -> None:
    """Exit status 0 within five seconds, in the order that the design says."""
    with running_box(tmp_path) as box:
        box.push(digits())
        assert box.terminate() < STOP_SECONDS
        assert box.process.returncode == 0
        assert re.search(r"stopping.*stopped", box.log, re.DOTALL)
        assert "Traceback" not in box.log


def test_sigterm_ends_a_daemon_whose_model_is_stuck(tmp_path: Path) -> None:
    """A call that never returns holds an engine thread; it must not hold the exit."""
    model = require_shared("data/malformed/litert_while_op_with_forwarding_input.tflite").read_bytes()
    from bundles import make  # noqa: PLC0415 - only here

    endless = as_json(
        {
            "inputs": [
                {"name": "num_iterations", "shape": [1], "datatype": "INT32", "data": [2**31 - 1]},
                {"name": "increment_value", "shape": [1], "datatype": "BYTES", "data": ["x"]},
            ]
        }
    )
    with running_box(tmp_path, "engine.request_timeout_seconds=0.5", "lifecycle.drain_seconds=0.5") as box:
        assert box.push(make({"model.tflite": model}, name="loop"))["state"] == "COMMITTED"
        status, answer = box.post("/v2/models/loop/infer", endless)
        assert status == 504, answer
        assert box.terminate() < STOP_SECONDS
        assert box.process.returncode == 0


def test_after_kill_9_the_committed_model_is_served_again(tmp_path: Path) -> None:
    """Without a push."""
    with running_box(tmp_path) as box:
        assert box.push(digits("1.2.3"))["state"] == "COMMITTED"
        box.kill()
    with running_box(tmp_path) as box:
        assert predicted(box) == "1.2.3"


@pytest.mark.timeout(120)
def test_kill_9_at_every_step_of_a_push_leaves_a_box_that_serves(tmp_path: Path) -> None:
    """After each: the version committed before answers, and the interrupted push can be repeated."""
    with running_box(tmp_path) as box:
        assert box.push(digits("1.0.0"))["state"] == "COMMITTED"
    steps = ["RECEIVED", "VERIFIED", "STAGED", "TRIAL"]
    for number, step in enumerate(steps):
        version = f"2.0.{number}"
        with running_box(tmp_path, "deploy.trial_seconds=20") as box:
            location, state = box.upload(digits(version)), "RECEIVED"
            while state != step:
                state = box.get(f"{location}?wait=10&state={state}")["state"]
                assert state in steps, state
            box.kill()
        with running_box(tmp_path) as box:
            assert predicted(box) == "1.0.0", step
            # What died during its trial is not tried again by itself; the operator may insist.
            assert box.push(digits(version), force=step == "TRIAL")["state"] == "COMMITTED", step
            assert box.post("/models/digits/activate", as_json({"version": "1.0.0"}))[0] == 200


def test_a_second_daemon_on_the_same_state_is_refused(tmp_path: Path) -> None:
    """Two would undo each other's work."""
    with running_box(tmp_path):
        options = ["--set", f"device.state_dir={tmp_path}", "--set", "http.port=0", "--set", "discovery.mdns=false"]
        second = [sys.executable, "-m", "edge_runtime.cli.daemon", "serve", *options]
        ended = subprocess.run(second, capture_output=True, text=True, timeout=30, check=False)
        assert ended.returncode == 1
        assert "another edge-runtime is using" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """With the key that helps."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = [f"device.state_dir={tmp_path}", f"http.port={port}", "http.host=127.0.0.1"]
        command = [sys.executable, "-m", "edge_runtime.cli.daemon", "serve"]
        command += [word for option in options for word in ("--set", option)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "http.port" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["serve", "--set", "http.prot=1"], 1, "unknown key 'http.prot'"),
        (["serve", "--config", "/does/not/exist.toml"], 1, "no such file"),
        (["frobnicate"], 2, "invalid choice"),
        ([], 2, "required"),
    ],
)
def test_wrong_usage_is_one_clear_line(arguments: list[str], status: int, message: str) -> None:
    """And the right exit status."""
    command = [sys.executable, "-m", "edge_runtime.cli.daemon", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == status
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_check_says_what_a_configuration_means(tmp_path: Path) -> None:
    """A box without trusted keys is told before it matters, and one that will not start fails the check."""
    command = [sys.executable, "-m", "edge_runtime.cli.daemon", "check", "--json"]
    command += ["--set", f"device.state_dir={tmp_path}", "--set", f'trust.keys=["{tmp_path}/*.pub"]']
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0
    found = json.loads(ended.stdout)
    assert "no trusted key" in found["warnings"][0]
    assert found["grpc"] == ("0.0.0.0:8701" if grpc_extra.installed() else "off")
    assert any("gRPC is off" in warning for warning in found["warnings"]) != grpc_extra.installed()
    ended = subprocess.run([*command, "--set", "engine.name=litert"], capture_output=True, timeout=30, check=False)
    assert ended.returncode == (0 if "litert" in engine.available() else 1)


@pytest.mark.parametrize("damage", [b"this is no database at all", None])
def test_a_broken_state_file_does_not_keep_the_box_from_starting(tmp_path: Path, damage: bytes | None) -> None:
    """It is set aside, the box begins anew and says so: that can be mended from afar."""
    with running_box(tmp_path) as box:
        box.push(digits())
        box.kill()
    path = tmp_path / "state.db"
    content = bytearray(path.read_bytes() + (tmp_path / "state.db-wal").read_bytes())
    if damage is None:
        damage = bytes(content[:100]) + b"\xff" * 40_000
    (tmp_path / "state.db-wal").write_bytes(b"")  # or SQLite would mend the file out of it
    path.write_bytes(damage)
    with running_box(tmp_path) as box:
        health = box.get("/healthz")
        assert health["status"] == "degraded"
        assert "push its models again" in health["problems"]["state history"]
        assert box.push(digits())["state"] == "COMMITTED"
    assert list(tmp_path.glob("state.db.broken-*"))
