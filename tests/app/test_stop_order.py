"""What a caller, a browser of mDNS and a load balancer see of a stop, in the order in which they see it."""

import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3
from boxes import RunningBox, as_json, running_box
from brokers import wait_for
from bundles import digits, make
from peers import ROOT, require_shared
from zeroconf import ServiceBrowser, ServiceStateChange, Zeroconf

from edge_runtime.contract.names import SERVICE_TYPE

ZEROS = as_json([[0] * 8] * 8)
# Longer than HTTP's own grace of a second, and shorter than the drain.
IN_FLIGHT_SECONDS = 3.0
DRAIN_SECONDS = 15.0
LOOP = "data/malformed/litert_while_op_with_forwarding_input.tflite"


def loop_body(iterations: int) -> bytes:
    """A request that runs a loop; when that ends, the model fails, and says so."""
    count = {"name": "num_iterations", "shape": [1], "datatype": "INT32", "data": [iterations]}
    return as_json({"inputs": [count, {"name": "increment_value", "shape": [1], "datatype": "BYTES", "data": ["x"]}]})


def in_flight(box: RunningBox) -> int:
    """How many requests the box works on."""
    text = box.http.request("GET", f"{box.url}/metrics").data.decode()
    return sum(map(int, re.findall(r"^edge_inference_requests_in_flight{.*} (\d+)$", text, re.MULTILINE)))


def listening(box: RunningBox) -> bool:
    """Whether a new connection is answered."""
    where = urlsplit(box.url)
    try:
        with socket.create_connection((str(where.hostname), where.port or 0), timeout=2) as link:
            link.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            return link.recv(1000).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


@contextmanager
def watched(name: str, seen: dict[str, Any], box: RunningBox) -> Iterator[None]:
    """Note in `seen` when the box is announced, and at its goodbye whether it still listens."""

    def changed(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if name.partition(".")[0] == wanted:
            seen.setdefault(state_change.name, listening(box))

    wanted, zeroconf = name, Zeroconf(interfaces=["127.0.0.1"])
    try:
        ServiceBrowser(zeroconf, SERVICE_TYPE, handlers=[changed])
        yield
    finally:
        zeroconf.close()


@pytest.mark.timeout(120)
def test_a_stop_finishes_what_was_begun_and_takes_nothing_new(tmp_path: Path) -> None:
    """Goodbye on mDNS while it still listens; not ready; new work refused; the answer that is owed; then the end."""
    model, name = require_shared(LOOP).read_bytes(), f"box-{uuid.uuid4().hex[:6]}"
    seen: dict[str, Any] = {}
    owed: list[tuple[int, Any]] = []
    with running_box(tmp_path, f"lifecycle.drain_seconds={DRAIN_SECONDS}", name=name, mdns=True) as box:
        assert box.push(digits())["state"] == "COMMITTED"
        assert box.push(make({"model.tflite": model}, name="loop"))["state"] == "COMMITTED"
        began = time.monotonic()
        box.post("/v2/models/loop/infer", loop_body(200_000))
        iterations = int(200_000 * IN_FLIGHT_SECONDS / (time.monotonic() - began))
        with watched(name, seen, box):
            wait_for(lambda: "Added" in seen, what="the announcement")
            caller = threading.Thread(
                target=lambda: owed.append(box.post("/v2/models/loop/infer", loop_body(iterations)))
            )
            caller.start()
            wait_for(lambda: in_flight(box) == 1, what="the request in flight")
            box.process.send_signal(signal.SIGTERM)
            ready = f"{box.url}/v2/health/ready"
            wait_for(lambda: box.http.request("GET", ready, retries=False).status == 503, what="not ready")
            status, answer = box.post("/models/digits/predict", ZEROS)
            assert (status, "stopping" in answer["error"]) == (503, True), answer
            assert box.get("/v2/health/live") == {"live": True}
            wait_for(lambda: "Removed" in seen, what="the goodbye")
            assert not owed, "the request in flight should have taken longer"
            assert box.process.poll() is None
            caller.join(DRAIN_SECONDS)
        ((status, answer),) = owed
        assert (status, "the model failed to run" in answer["error"]) == (422, True), answer
        box.process.wait(5)
        assert box.process.returncode == 0
        assert seen["Removed"] is True, "the listener was closed before the goodbye"
        assert not listening(box)
        assert "Traceback" not in box.log


def test_a_step_of_the_stop_that_fails_does_not_keep_the_others_from_being_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is drained, the state closed, the exit clean; the log tells what failed."""
    faults = tmp_path / "faults"
    faults.mkdir()
    (faults / "sitecustomize.py").write_text(
        "from edge_runtime.transports import mdns\n"
        "async def fails(self):\n"
        "    raise OSError(24, 'Too many open files')\n"
        "mdns.Advertiser.stop = fails\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{faults}:{ROOT}")
    with running_box(tmp_path / "state", name=f"box-{uuid.uuid4().hex[:6]}", mdns=True) as box:
        assert box.terminate() < 5
        assert box.process.returncode == 0
        assert "the mDNS goodbye failed; going on" in box.log
        assert box.log.rstrip().endswith("stopped")
        with pytest.raises(urllib3.exceptions.HTTPError):
            box.get("/healthz")
