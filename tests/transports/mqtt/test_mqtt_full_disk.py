"""A disk that is really full: results go out all the same, and afterwards no number is missing."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from brokers import Mosquitto
from mqtt_peers import DIGITS, EVENTS, Box, Gate, Watcher, until

from edge_runtime.transports.mqtt import MqttLink
from edge_runtime.transports.mqtt.outbox import Outbox


class Disk(Protocol):
    """Somewhere for the state, with little room."""

    folder: Path

    def fill(self, link: MqttLink) -> None:
        """Take all the room that is left."""

    def free(self, link: MqttLink) -> None:
        """Give it back."""


class PageLimit:
    """SQLite itself, told that the file cannot grow: needs no rights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, link: MqttLink) -> None:
        """No further page."""
        self._limit(link, 1)

    def free(self, link: MqttLink) -> None:
        """As many pages as it wants."""
        self._limit(link, 2**30)

    def _limit(self, link: MqttLink, pages: int) -> None:
        assert isinstance(link._outbox, Outbox)
        link._outbox._table._db.execute(f"PRAGMA max_page_count={pages}")


class SmallDisk:
    """A file system in memory of 1 MB, filled up by a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, link: MqttLink) -> None:
        """No further byte."""
        with self._ballast.open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(b"x" * 4096)
            except OSError:
                return

    def free(self, link: MqttLink) -> None:
        """The room of the file."""
        self._ballast.unlink()


@pytest.fixture(params=["page limit", "tmpfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A place for the state that can be full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "page limit":
        yield PageLimit(folder)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a file system can be mounted by root only, and not in every container")
    yield SmallDisk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def produce(box: Box, count: int) -> None:
    """Results that need new pages."""
    box.produce(count, source="x" * 3000)


def test_results_go_out_while_the_disk_is_full(disk: Disk, broker: Mosquitto) -> None:
    """With the broker up nothing waits for the disk: all arrive in order, and the problem says what is at stake."""
    box = Box(disk.folder / "state.db")

    async def scenario() -> None:
        with Watcher(broker.port, qos=0) as watcher:
            link = box.link(broker.url)
            await link.start()
            produce(box, 3)
            await until(lambda: link.connected and link.outbox_depth == 0)
            disk.fill(link)
            for round_ in range(1, 11):
                produce(box, 40)
                await until(lambda expected=3 + 40 * round_: len(watcher.payloads(DIGITS)) >= expected)
            assert "full" in (link.problem() or "")
            assert "lost if the box stops" in (link.problem() or "")
            disk.free(link)
            produce(box, 3)
            await until(lambda: link.problem() is None and link.outbox_depth == 0)
            await until(lambda: len(watcher.payloads(DIGITS)) >= 406)
            await link.stop(1.0)
            assert not watcher.payloads(EVENTS)
            link = box.link(broker.url, boot="boot-2")
            await link.start()
            produce(box, 1)
            await until(lambda: len(watcher.payloads(DIGITS)) >= 407)
            await link.stop(1.0)
        numbers = [(r["boot"], r["seq"]) for r in watcher.documents(DIGITS)]
        assert numbers == [("boot-1", seq) for seq in range(1, 407)] + [("boot-2", 1)]

    asyncio.run(scenario())


def test_disk_and_broker_are_away(disk: Disk, broker: Mosquitto) -> None:
    """What memory cannot hold meanwhile is announced as a gap, whether the broker or the disk comes back first."""
    box = Box(disk.folder / "state.db")

    async def outage(link: MqttLink, gate: Gate, first: Callable[[], None], second: Callable[[], None]) -> None:
        produce(box, 3)
        await until(lambda: link.connected and link.outbox_depth == 0)
        gate.shut()
        await until(lambda: not link.connected)
        disk.fill(link)
        for _ in range(20):
            produce(box, 20)
            await asyncio.sleep(0.01)
        await until(lambda: "full" in (link.problem() or ""))
        first()
        await asyncio.sleep(0.2)
        produce(box, 1)
        second()
        await until(lambda: link.connected and link.problem() is None and link.outbox_depth == 0)

    async def scenario() -> None:
        with Gate(broker.port) as gate, Watcher(broker.port, qos=0) as watcher:
            link = box.link(gate.url, outbox_max_waiting_bytes=200_000, reconnect_max_seconds=0.3)
            await link.start()
            await outage(link, gate, gate.open, lambda: disk.free(link))
            await outage(link, gate, lambda: disk.free(link), gate.open)
            await link.stop(1.0)
        received = {r["seq"] for r in watcher.documents(DIGITS)}
        missing = {seq for gap in watcher.documents(EVENTS) for seq in range(gap["first_seq"], gap["last_seq"] + 1)}
        assert missing
        assert not received & missing
        assert received | missing == set(range(1, 2 * 404 + 1))

    asyncio.run(scenario())
