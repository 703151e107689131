"""What the daemon costs when nobody asks it: processor, memory, and the time until it is ready."""

import os
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.serving import contestants, meters
from benchmarks.serving.contestants import Server
from benchmarks.serving.load import ask
from benchmarks.serving.questions import oip_json
from benchmarks.serving.scenarios import model_and_questions
from benchmarks.serving.turns import Plan, Row, tell

_IDLE_SECONDS_A_ROUND = 4.0  # 20 s with five rounds
_SETTLE_SECONDS = 2.0


def resting(plan: Plan) -> list[Row]:
    """Idle processor time, memory with one 4 MB model, and start to ready, ours, with and without gRPC."""
    if "ours" not in plan.only:
        return []
    path, asked = model_and_questions("mobilenet")
    rows = []
    for name, settings in {"ours": ["grpc.enabled=false"], "ours, with gRPC": ["grpc.enabled=true"]}.items():
        room = plan.room(name)
        with contestants.ours({"mobilenet": path}, room, (), settings):
            pass  # the model is committed; from here on it is a daemon as it starts after a boot
        ready = []
        for number in range(plan.rounds):
            tell(f"resting: start {number + 1} of {plan.rounds}: {name}")
            with _started(room, settings) as (_, seconds):
                ready.append(seconds)
        with _started(room, settings) as (server, _):
            time.sleep(_SETTLE_SECONDS)
            measures = {"ready_seconds": statistics.median(ready)}
            measures["resident_mb"] = meters.resident_mb(server.process.pid)
            tell(f"resting: idle: {name}")
            measures["idle_percent"] = _idle_percent(server, _IDLE_SECONDS_A_ROUND * plan.rounds)
            ask(server.url("mobilenet"), asked, oip_json, key="data", connections=8, seconds=2)
            measures["resident_after_load_mb"] = meters.resident_mb(server.process.pid)
        rows.append(Row("resting", name, measures))
    return rows


@contextmanager
def _started(room: Path, settings: Sequence[str]) -> Iterator[tuple[Server, float]]:
    """The daemon on a state that is there already, and the seconds from its start to READY=1 (sd_notify(3))."""
    ports = contestants.free_port(), contestants.free_port()
    command = contestants.serve_command(room, *ports, settings)
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = f"{folder}/notify"
        manager.bind(address)
        manager.settimeout(60)
        began = time.perf_counter()
        with contestants.running("ours", command, room, (), os.environ | {"NOTIFY_SOCKET": address}) as process:
            while b"READY=1" not in manager.recv(4096):
                pass
            yield Server("ours", process, *ports), time.perf_counter() - began


def _idle_percent(server: Server, seconds: float) -> float:
    """Share of one core, in percent, over that time."""
    before = meters.cpu_seconds(server.process.pid)
    time.sleep(seconds)
    return (meters.cpu_seconds(server.process.pid) - before) / seconds * 100
