"""The outbox's rows on disk: one table of the state file, one connection that writes and one that reads."""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_runtime.errors import DeviceError
from edge_runtime.system import state
from edge_runtime.transports.mqtt.gaps import Gap, coalesce
from edge_runtime.transports.mqtt.rows import Amount, Bound, Row, amount

# Ranges kept at most: a box that fills its outbox in each of 256 boots has other worries.
MAX_GAPS = 256
# SQLite begins the WAL anew after 1000 pages (4 MB), and leaves the file as long as it ever was unless it has a limit.
# A lower one would cut the file at each checkpoint, and give away the room that a full disk still leaves us.
WAL_MAX_BYTES = 4 * 1024 * 1024

# A gap is a row with an empty topic, at the place of the last message that it stands for.
#
# Pages that a backlog has used stay in the file and are used again by the next one, and by the tables of others: the
# file grows to what outbox_max_bytes allows once, and no further. Giving them back would be worse. auto_vacuum must be
# chosen before the file's first table is made, which is not ours, and writes each moved page a second time, on flash;
# VACUUM needs the whole file's size again, when the disk may be full, and locks out the deployments meanwhile.
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS outbox (
        id INTEGER PRIMARY KEY, boot TEXT NOT NULL, seq INTEGER, last INTEGER, events INTEGER NOT NULL,
        topic TEXT NOT NULL, payload BLOB NOT NULL
    )""",
    "CREATE TABLE IF NOT EXISTS outbox_boot (boot TEXT PRIMARY KEY, seq INTEGER NOT NULL)",
)
_INSERT = "INSERT INTO outbox (id, boot, seq, last, events, topic, payload) VALUES (?, ?, ?, ?, ?, ?, ?)"
# Of a blob, length() reads the row's header only, not the pages that hold it.
_BYTES = "length(CAST(topic AS BLOB)) + length(payload)"


class Table:
    """Knows how much it holds without counting: that is done once, when it is opened."""

    def __init__(self, path: Path, boot: str, bound: Bound) -> None:
        """Raises DeviceError: the state file cannot be opened or written."""
        self._boot = boot
        self._bound = bound
        self._reading = threading.Lock()
        self._db = state.connect(path)
        try:
            self._reader = state.connect(path)
            self._db.execute(f"PRAGMA journal_size_limit={WAL_MAX_BYTES}")
            # Debian's SQLite writes zeros over each page that is freed: a backlog would be written to flash twice.
            self._db.execute("PRAGMA secure_delete=FAST")
            self.newest, self.seq, self.amount = self._open()
        except sqlite3.Error as error:
            raise DeviceError(f"the outbox cannot be opened in {path}: {error}") from error

    def _open(self) -> tuple[int, int, Amount]:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                self._db.execute(statement)
            # Numbers go on where the same boot name was used before: (boot, seq) must never name two results.
            self._db.execute("DELETE FROM outbox_boot WHERE boot <> ?", (self._boot,))
            known = self._db.execute("SELECT seq FROM outbox_boot").fetchone()
            (newest,) = self._db.execute("SELECT coalesce(max(id), 0) FROM outbox").fetchone()
            held = Amount()
            for topic, size in self._db.execute(f"SELECT topic, {_BYTES} FROM outbox"):  # noqa: S608 - ours
                held += amount(topic, size)
        return int(newest), int(known[0]) if known else 0, held

    def close(self) -> None:
        """Close the writing connection."""
        self._db.close()

    def close_reader(self) -> None:
        """Close the reading connection, when nobody reads."""
        with self._reading:
            self._reader.close()

    # The sender's thread

    def read(self, cursor: int, limit: int) -> list[Row]:
        """The next rows behind an id, at most `limit`; raises sqlite3.Error."""
        with self._reading:
            found = self._reader.execute(
                "SELECT id, payload, topic, boot, seq, last, events FROM outbox WHERE id > ? ORDER BY id LIMIT ?",
                (cursor, limit),
            ).fetchall()
        return [Row(row_id, rest[0], payload, _gap(*rest)) for row_id, payload, *rest in found]

    # The writer's thread

    def commit(
        self, batch: Sequence[Row], acknowledged: Sequence[int], seq: int, spared: Callable[[], tuple[int, set[int]]]
    ) -> int:
        """Write rows, delete acknowledged ones, drop the oldest over the bound; returns how many messages that were.

        `seq` is the last number in use. `spared` is asked before anything is dropped: up to which id, and which
        beyond, rows are or were with the broker. Raises sqlite3.Error; then nothing has changed.
        """
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            held = self._delete(self.amount, acknowledged)
            self._db.executemany(_INSERT, [_values(row) for row in batch])
            for row in batch:
                held += row.amount
            if seq != self.seq or not (batch or acknowledged):  # with nothing else to write, it tries the disk
                self._db.execute("INSERT OR REPLACE INTO outbox_boot VALUES (?, ?)", (self._boot, seq))
            before = held.messages
            if self._bound.exceeded_by(held):
                held = self._shrink(held, *spared())
        self.amount, self.seq = held, seq
        return before - held.messages

    def _delete(self, held: Amount, ids: Iterable[int]) -> Amount:
        query = f"SELECT topic, {_BYTES} FROM outbox WHERE id = ?"  # noqa: S608 - ours
        rows = [(row_id,) for row_id in ids]
        for row in rows:
            found = self._db.execute(query, row).fetchone()
            if found is not None:
                held -= amount(*found)
        self._db.executemany("DELETE FROM outbox WHERE id = ?", rows)
        return held

    def _shrink(self, held: Amount, cursor: int, spared: set[int]) -> Amount:
        """Replace the oldest messages over the bound by gap rows; returns what is left."""
        dropped: list[tuple[int, Gap]] = []
        query = f"SELECT id, {_BYTES}, topic, boot, seq, last, events FROM outbox WHERE id > ? ORDER BY id"  # noqa: S608
        with closing(self._db.execute(query, (cursor,))) as rows:
            for row_id, size, *rest in rows:
                if not self._bound.exceeded_by(held):
                    break
                if row_id not in spared:
                    held -= amount(rest[0], size)
                    dropped.append((row_id, _gap(*rest)))
        kept = [Row(row_id, "", b"", gap) for row_id, gap in coalesce(dropped)[-MAX_GAPS:]]
        self._db.executemany("DELETE FROM outbox WHERE id = ?", [(row_id,) for row_id, _ in dropped])
        self._db.executemany(_INSERT, [_values(row) for row in kept])
        return held + Amount(len(kept))


def _values(row: Row) -> tuple[Any, ...]:
    gap = row.gap
    if row.topic:
        return (row.id, gap.boot, gap.first, None, 0, row.topic, row.payload)
    return (row.id, gap.boot, gap.first, gap.last, gap.events, "", b"")


def _gap(topic: str, boot: str, seq: int | None, last: int | None, events: int) -> Gap:
    if not topic:
        return Gap(boot, seq, last, events)
    return Gap(boot, seq, seq, 1 if seq is None else 0)
