"""Durable results per second through the outbox, beside paho publishing QoS 1 from memory: same broker, same run.

Usage: python benchmarks/mqtt_outbox.py [--results N] [--rounds N] [--state-dir DIR]
Needs mosquitto. The state must be on a real disk for the fsync to count: DIR is the working directory by default.
"""

import argparse
import asyncio
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_runtime.config import MqttConfig
from edge_runtime.events import EventBus, Result
from edge_runtime.transports.mqtt import MqttLink, messages

WINDOW = 100


class Idle:
    """Stands for the service and the registry, which nobody asks here."""

    report_tensor_requests = False


def result(number: int) -> Result:
    """A classification as the service reports it."""
    scores = [{"label": f"class {i}", "score": 0.1234 * (i + number % 7)} for i in range(5)]
    return Result("digits", "1.0.0", time.time(), "http", {"classes": scores}, 1.234)


@contextmanager
def mosquitto(folder: Path) -> Iterator[int]:
    """A broker on a free port, without the limit of 20 messages in flight that it has by default."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    lines = (f"listener {port} 127.0.0.1", "allow_anonymous true", "log_dest none", "max_inflight_messages 0")
    (folder / "mosquitto.conf").write_text("\n".join(lines), encoding="utf-8")
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/opt/homebrew/sbin") or "mosquitto"
    process = subprocess.Popen([program, "-c", str(folder / "mosquitto.conf")], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: reachable(port))
        yield port
    finally:
        process.terminate()
        process.wait()


def reachable(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.001)


def from_memory(port: int, count: int) -> float:
    """Seconds until paho, with its queue in memory, has `count` acknowledgements."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages = WINDOW
    acknowledged, connected, done = 0, threading.Event(), threading.Event()

    def on_publish(*_: object) -> None:
        nonlocal acknowledged
        acknowledged += 1
        if acknowledged == count:
            done.set()

    client.on_publish = on_publish
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    connected.wait(10)
    started = time.perf_counter()
    for number in range(count):
        payload = messages.encode(messages.result("bench", result(number)) | {"boot": "b", "seq": number})
        client.publish("edge/bench/results/digits", payload, qos=1)
    if not done.wait(120):
        raise TimeoutError
    elapsed = time.perf_counter() - started
    client.disconnect()
    client.loop_stop()
    return elapsed


async def durably(port: int, count: int, folder: Path) -> float:
    """Seconds until the link has brought `count` results to disk and to the broker."""
    bus = EventBus()
    link = MqttLink(
        MqttConfig(url=f"mqtt://127.0.0.1:{port}", inflight_max_messages=WINDOW, outbox_max_waiting_messages=count),
        device="bench",
        device_id="0" * 8,
        boot="b",
        state_path=folder / "state.db",
        bus=bus,
        service=Idle(),  # type: ignore[arg-type]
        registry=Idle(),  # type: ignore[arg-type]
        info=dict,
        models=list,
    )
    await link.start()
    await asyncio.to_thread(wait_for, lambda: link.connected)
    started = time.perf_counter()
    for number in range(count):
        bus.publish(result(number))
    await asyncio.to_thread(wait_for, lambda: link.outbox_depth == 0)
    elapsed = time.perf_counter() - started
    await link.stop(5.0)
    return elapsed


def main() -> None:
    """Measure both in turn, and print rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--state-dir", default=".")
    options = parser.parse_args()
    memory, durable = [], []
    with tempfile.TemporaryDirectory(dir=options.state_dir) as name:
        folder = Path(name)
        with mosquitto(folder) as port:
            for number in range(options.rounds):
                memory.append(options.results / from_memory(port, options.results))
                state = folder / str(number)
                state.mkdir()
                durable.append(options.results / asyncio.run(durably(port, options.results, state)))
    print(f"paho, QoS 1 from memory: {statistics.median(memory):8.0f} results/s  {sorted(map(round, memory))}")
    print(f"outbox, on disk before:  {statistics.median(durable):8.0f} results/s  {sorted(map(round, durable))}")
    print(f"ratio:                   {statistics.median(durable) / statistics.median(memory):8.2f}")


if __name__ == "__main__":
    main()
