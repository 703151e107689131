"""kill -9 on both sides: what was produced arrives, in order, and what is missing can be proved."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from brokers import Mosquitto, wait_for
from mqtt_peers import DIGITS, STATUS, Box, Gate, Watcher, until

ROOT = Path(__file__).resolve().parents[3]
# mosquitto forgets all at kill -9, so a subscriber must get what the broker acknowledged before that: no windows.
UNLIMITED = ("max_inflight_messages 0", "max_queued_messages 0")

CHILD = """
import asyncio, sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
from mqtt_peers import Box

async def main():
    box = Box(Path({state!r}))
    link = box.link({url!r})
    await link.start()
    while True:
        box.produce(1)
        await asyncio.sleep(0.0005)

asyncio.run(main())
"""


def numbers(watcher: Watcher) -> list[tuple[str, int]]:
    """(boot, seq) of all results, without the duplicates that QoS 1 allows, in the order of their first arrival."""
    return list(dict.fromkeys((r["boot"], r["seq"]) for r in watcher.documents(DIGITS)))


def test_broker_killed_while_results_are_produced(box: Box, make_broker: Callable[..., Mosquitto]) -> None:
    """Three kill -9 of the broker: received is what was produced, in order."""

    async def produce(stopped: asyncio.Event) -> int:
        produced = 0
        while not stopped.is_set():
            box.produce(5)
            produced += 5
            await asyncio.sleep(0.01)
        return produced

    async def outage(broker: Mosquitto, gate: Gate, watcher: Watcher) -> None:
        seen = len(watcher.messages)
        await until(lambda: len(watcher.messages) > seen + 100)
        watcher.subscribed.clear()
        broker.kill()
        gate.shut()  # so that the subscriber is back before the box is
        broker.start()
        await asyncio.to_thread(watcher.subscribed.wait, 10)
        gate.open()

    async def scenario() -> None:
        broker = make_broker(*UNLIMITED).start()
        stopped = asyncio.Event()
        with Gate(broker.port) as gate, Watcher(broker.port, qos=0) as watcher:
            link = box.link(gate.url, reconnect_max_seconds=0.3)
            await link.start()
            producer = asyncio.create_task(produce(stopped))
            for _ in range(3):
                await outage(broker, gate, watcher)
            stopped.set()
            produced = await producer
            await until(lambda: link.outbox_depth == 0)
            await until(lambda: len(watcher.payloads(DIGITS)) >= produced)
            await link.stop(1.0)
        assert numbers(watcher) == [("boot-1", seq) for seq in range(1, produced + 1)]

    asyncio.run(scenario())


def test_daemon_killed_in_the_middle(box: Box, broker: Mosquitto) -> None:
    """After kill -9 of the box the will says offline; the next start sends the rest first, and no number is missing."""
    paths = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    with Gate(broker.port) as gate, Watcher(broker.port, qos=0) as watcher:
        script = CHILD.format(paths=paths, state=str(box.state), url=gate.url)
        child = subprocess.Popen([sys.executable, "-c", script])
        try:
            wait_for(lambda: len(watcher.payloads(DIGITS)) > 50, seconds=20)
            gate.shut()
            wait_for(lambda: rows_on_disk(box.state) > 50)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        wait_for(lambda: watcher.payloads(STATUS)[-1] == b"offline")
        committed = rows_on_disk(box.state)
        gate.open()
        asyncio.run(next_boot(box, gate))
        wait_for(lambda: numbers(watcher)[-1] == ("boot-2", 3))
    received = numbers(watcher)
    first = [seq for boot, seq in received if boot == "boot-1"]
    assert first == list(range(1, len(first) + 1))
    assert len(first) >= committed
    assert received[len(first) :] == [("boot-2", 1), ("boot-2", 2), ("boot-2", 3)]


async def next_boot(box: Box, gate: Gate) -> None:
    """Start anew on the same state, and produce three results."""
    link = box.link(gate.url, boot="boot-2")
    await link.start()
    box.produce(3)
    await until(lambda: link.outbox_depth == 0)
    await link.stop(1.0)


def rows_on_disk(path: Path) -> int:
    """How many messages the outbox holds, as another process sees it."""
    connection = sqlite3.connect(path)
    try:
        found: Any = connection.execute("SELECT count(*) FROM outbox").fetchone()
        return int(found[0])
    finally:
        connection.close()
