"""What the tests of the outbox share: waiting for the disk, filling it, and reading off what would be sent."""

import sqlite3

import pytest
from brokers import wait_for

from edge_runtime.transports.mqtt.outbox import Outbox
from edge_runtime.transports.mqtt.rows import Bound, Row
from edge_runtime.transports.mqtt.table import Table


def messages(count: int) -> Bound:
    """A bound in messages, with bytes enough."""
    return Bound(count, 2**30)


def settle(outbox: Outbox) -> None:
    """Wait until everything that was appended is on disk."""
    wait_for(lambda: not outbox._waiting, what="committed")


def take_all(outbox: Outbox) -> list[Row]:
    """Everything that is left to send."""
    outbox.rewind()
    return outbox.take(1_000_000)


def sent(rows: list[Row]) -> list[tuple[str, int, int]]:
    """(boot, first, last) of each row with a result in it, be it a message or a gap."""
    return [(row.gap.boot, row.gap.first, row.gap.last or 0) for row in rows if row.gap.first is not None]


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on each commit fails, in the middle, until the patch is undone."""

    def full(self: Table, *_: object) -> int:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("edge_runtime.transports.mqtt.outbox.RETRY_SECONDS", 0.01)
    monkeypatch.setattr(Table, "commit", full)
