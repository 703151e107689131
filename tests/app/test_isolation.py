"""Isolated models in a running daemon: what their crashes do to it, to its other models, and what is left of them."""

import json
import os
import select
import signal
import threading
import time
from pathlib import Path
from typing import Any

from boxes import RunningBox, as_json, running_box
from bundles import digits, digits_content, make

PICTURE = as_json([[0] * 8] * 8)
SETTINGS = ('model=[{name = "caged", isolation = "process"}]', "engine.isolated_max_crashes=1000")


def caged() -> bytes:
    """The example's model under the name of one that is isolated."""
    return make(digits_content(), name="caged", task="classification")


def workers(box: RunningBox) -> list[int]:
    """Process ids of the daemon's worker processes, dead ones too."""
    tasks = Path(f"/proc/{box.process.pid}/task")
    return [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]


def shown(box: RunningBox, name: str) -> dict[str, Any]:
    """The model in /models."""
    (found,) = [model for model in box.get("/models")["models"] if model["name"] == name]
    return dict(found)


class Crowd:
    """Threads that ask one model without pause and note each status."""

    def __init__(self, box: RunningBox, model: str, count: int) -> None:
        self.statuses: list[int] = []
        self.errors: list[str] = []
        self.slowest = 0.0
        self._box, self._model, self._over = box, model, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._over.is_set():
            started = time.monotonic()
            status, answer = self._box.post(f"/models/{self._model}/predict", PICTURE)
            self.slowest = max(self.slowest, time.monotonic() - started)
            self.statuses.append(status)
            if status != 200:
                self.errors.append(json.dumps(answer))

    def wait(self, answers: int) -> None:
        """Until so many more answers have come."""
        target = len(self.statuses) + answers
        while len(self.statuses) < target:
            time.sleep(0.005)

    def end(self) -> None:
        """Until the last answer."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_crashes_under_load_cost_one_answer_each_and_nobody_else_anything(tmp_path: Path) -> None:
    """The isolated model's worker is killed again and again while it and its neighbour are asked all the time."""
    kills = 4
    with running_box(tmp_path / "state", *SETTINGS) as box:
        for bundle in (digits(), caged()):
            assert box.push(bundle)["state"] == "COMMITTED"
        assert (shown(box, "caged")["isolation"], shown(box, "digits")["isolation"]) == ("process", "none")
        beside, inside = Crowd(box, "digits", 1), Crowd(box, "caged", 2)
        for i in range(kills):
            inside.wait(20)
            (pid,) = workers(box)
            os.kill(pid, signal.SIGSEGV if i % 2 else signal.SIGKILL)
        inside.wait(20)
        beside.end()
        inside.end()
        assert set(beside.statuses) == {200}
        assert len(inside.errors) <= kills, inside.errors
        assert all("SIGSEGV" in text or "SIGKILL" in text for text in inside.errors)
        assert shown(box, "caged")["worker_crashes"] == kills
        metrics = box.http.request("GET", f"{box.url}/metrics").data.decode()
        assert f'edge_worker_crashes_total{{model="caged",version="1.0.0"}} {kills}\n' in metrics
        assert box.log.count("isolated: caged 1.0.0: the model's worker process") == kills
        assert box.get("/healthz")["status"] == "ok"
        assert len(workers(box)) == 1
    assert "Traceback" not in box.log


def test_no_worker_outlives_the_daemon(tmp_path: Path) -> None:
    """Neither its kill -9 nor its stop leaves an orphan; what is swapped out ends its workers, too."""
    with running_box(tmp_path / "state", "engine.isolation=process", "engine.instances=2") as box:
        box.push(digits())
        assert len(workers(box)) == 2
        ends = [os.pidfd_open(pid) for pid in workers(box)]
        box.kill()
        for end in ends:
            assert select.select([end], [], [], 5.0)[0]
            os.close(end)
    with running_box(tmp_path / "state", "engine.isolation=process") as box:
        assert box.post("/models/digits/predict", PICTURE)[0] == 200
        for version in ("1.0.1", "1.0.2", "1.0.3"):
            assert box.push(digits(version))["state"] == "COMMITTED"
        assert len(workers(box)) == 2  # the active version's, and that of the one to roll back to
        ends = [os.pidfd_open(pid) for pid in workers(box)]
        box.terminate()
        for end in ends:
            assert select.select([end], [], [], 5.0)[0]
            os.close(end)


def test_auto_isolates_what_nobody_signed(tmp_path: Path) -> None:
    """A box that takes unsigned bundles may still not trust them with its own process."""
    with running_box(tmp_path / "state", "engine.isolation=auto") as box:
        box.push(digits())
        assert shown(box, "digits")["isolation"] == "process"
        assert box.post("/models/digits/predict", PICTURE)[0] == 200
