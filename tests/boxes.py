"""Real daemons in processes of their own, on loopback, with a state folder of their own."""

import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from peers import free_port

READY_SECONDS = 30.0
_TUS = {"Tus-Resumable": "1.0.0"}


@dataclass
class RunningBox:
    """A daemon that answers at `url`."""

    process: "subprocess.Popen[bytes]"
    url: str
    log_path: Path
    http: urllib3.PoolManager

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_path.read_text()

    def get(self, path: str) -> Any:
        """GET a JSON document."""
        return self.http.request("GET", self.url + path, retries=False).json()

    def post(self, path: str, body: bytes = b"", content_type: str = "") -> tuple[int, Any]:
        """POST; returns the status and the JSON answer."""
        headers = {"content-type": content_type} if content_type else {}
        answer = self.http.request("POST", self.url + path, body=body, headers=headers, retries=False)
        return answer.status, answer.json()

    def upload(self, bundle: bytes, *, force: bool = False) -> str:
        """Send a bundle by tus; returns the upload's path."""
        metadata = {"Upload-Metadata": "force " + base64.b64encode(b"1").decode()} if force else {}
        headers = _TUS | {"Upload-Length": str(len(bundle))} | metadata
        created = self.http.request("POST", f"{self.url}/uploads", headers=headers, retries=False)
        assert created.status == 201, created.data
        location = str(created.headers["Location"])
        headers = _TUS | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        sent = self.http.request("PATCH", self.url + location, body=bundle, headers=headers, retries=False)
        assert sent.status == 204, sent.data
        return location

    def push(self, bundle: bytes, *, force: bool = False) -> dict[str, Any]:
        """Send a bundle and wait for its final state."""
        location, state = self.upload(bundle, force=force), "RECEIVED"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            view: dict[str, Any] = self.get(f"{location}?wait=10&state={state}")
            state = view["state"]
            if state in ("COMMITTED", "ROLLED_BACK", "REFUSED"):
                return view
        raise AssertionError(f"still {state}")

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> float:
        """SIGTERM, and wait for the end; returns how many seconds it took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        return time.monotonic() - started


@contextmanager
def running_box(
    state: Path, *settings: str, name: str = "testbox", mdns: bool = False, prefix: Sequence[str] = ()
) -> Iterator[RunningBox]:
    """A daemon with state in `state`; `settings` are further KEY=VALUE. Unsigned bundles are accepted by default.

    `prefix` is a command that becomes the daemon's, as `prlimit ...` does.
    """
    state.mkdir(parents=True, exist_ok=True)
    port, log_path = free_port(), state / "daemon.log"
    base = [
        *(f"device.name={name}", f"device.state_dir={state}", f"http.port={port}", "http.host=127.0.0.1"),
        *(f"discovery.mdns={'true' if mdns else 'false'}", "trust.require_signature=false", "deploy.trial_seconds=0.1"),
        *("grpc.enabled=false", "engine.tune_seconds=0"),  # measuring takes its time with every push
    ]
    options = [word for setting in (*base, *settings) for word in ("--set", setting)]
    command = [*prefix, sys.executable, "-m", "edge_runtime.cli.daemon", "serve", *options]
    with log_path.open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        box = RunningBox(process, f"http://127.0.0.1:{port}", log_path, urllib3.PoolManager())
        try:
            wait_ready(box)
            yield box
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
            box.http.clear()


def wait_ready(box: RunningBox) -> None:
    """Return when the box says that it is ready."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        assert box.process.poll() is None, f"the daemon ended: {box.log}"
        try:
            if box.http.request("GET", f"{box.url}/v2/health/ready", retries=False, timeout=1.0).status == 200:
                return
        except urllib3.exceptions.HTTPError:
            time.sleep(0.02)
    raise AssertionError(f"not ready: {box.log}")


def as_json(document: object) -> bytes:
    """A JSON body."""
    return json.dumps(document).encode()
