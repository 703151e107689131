"""Versions are swapped while every connection is busy: no request is lost, none fails."""

import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from boxes import RunningBox, as_json, running_box
from bundles import digits

SWAPS = 20
ASKERS = 8
PATH = "/v2/models/digits/infer"


def json_request(header: str = "") -> bytes:
    """One sample, in JSON."""
    entry = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "INT8", "data": [0] * 64}
    return packed(as_json({"inputs": [entry]}), header)


def raw_request(rows: int) -> bytes:
    """A batch, as raw bytes: more than one read, and too long for the event loop."""
    values = np.zeros((rows, 8, 8, 1), np.int8)
    entry = {"name": "image", "shape": list(values.shape), "datatype": "INT8"}
    document = as_json({"inputs": [entry | {"parameters": {"binary_data_size": values.nbytes}}]})
    return packed(document + values.tobytes(), f"Inference-Header-Content-Length: {len(document)}\r\n")


def packed(body: bytes, header: str) -> bytes:
    """A whole HTTP request."""
    return f"POST {PATH} HTTP/1.1\r\nHost: box\r\nContent-Length: {len(body)}\r\n{header}\r\n".encode() + body


class Asker(threading.Thread):
    """Sends the same request on one connection until it is told to stop, and notes what comes back."""

    def __init__(self, box: RunningBox, request: bytes, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._where = urlsplit(box.url)
        self._request, self._stopped = request, stop
        self.answers: list[tuple[int, bytes]] = []
        self.failure: Exception | None = None

    def run(self) -> None:
        """Ask and ask."""
        try:
            with socket.create_connection((str(self._where.hostname), self._where.port or 0), timeout=20) as link:
                received = link.makefile("rb")
                while not self._stopped.is_set():
                    link.sendall(self._request)
                    self.answers.append(read_answer(received))
        except Exception as error:  # noqa: BLE001 - told to the test
            self.failure = error


def read_answer(received: Any) -> tuple[int, bytes]:
    """Status and body."""
    status, length = int(received.readline().split()[1]), 0
    while line := received.readline().lower().strip():
        length = int(line.split()[1]) if line.startswith(b"content-length") else length
    body: bytes = received.read(length)
    assert len(body) == length
    return status, body


def test_no_request_is_lost_or_fails_while_versions_change(tmp_path: Path) -> None:
    """On the short way, on the long one, and for batches that a thread works on."""
    with running_box(tmp_path) as box:
        for version in ("1.0.0", "2.0.0"):
            assert box.push(digits(version))["state"] == "COMMITTED"
        stop = threading.Event()
        requests = (json_request(), json_request("X-Long-Way: 1\r\n"), raw_request(1), raw_request(3000))
        askers = [Asker(box, requests[i % len(requests)], stop) for i in range(ASKERS)]
        for asker in askers:
            asker.start()
        for number in range(SWAPS):
            status, answer = box.post("/models/digits/activate", as_json({"version": f"{1 + number % 2}.0.0"}))
            assert status == 200, answer
        stop.set()
        for asker in askers:
            asker.join(20)
        assert [asker.failure for asker in askers] == [None] * ASKERS
        for asker in askers:
            assert {status for status, _ in asker.answers} == {200}
        seen = b"".join(body[:200] for asker in askers for _, body in asker.answers)
        assert b'"model_version":"1.0.0"' in seen
        assert b'"model_version":"2.0.0"' in seen
