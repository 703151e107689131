"""Messages on disk until the broker has them: one SQLite table, one writer thread, group commit.

`append` never waits for the disk: it queues in memory, and the writer commits whatever has gathered, in order.
Only committed rows are handed to the sender. A row leaves the table after its PUBACK; a crash in between sends
it again with the same (boot, seq), which is how a subscriber tells a duplicate.
"""

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.errors import DeviceError
from edge_runtime.system import state
from edge_runtime.transports.mqtt import messages
from edge_runtime.transports.mqtt.gaps import Gap, coalesce

log = logging.getLogger(__name__)

# Deleting acknowledged rows rides along with the next commit; alone it waits, to spare flash an fsync for each.
ACKNOWLEDGED_MAX_ROWS = 512
ACKNOWLEDGED_MAX_SECONDS = 1.0
RETRY_SECONDS = 1.0
# Ranges kept at most: a box that fills its outbox in each of 256 boots has other worries.
MAX_GAPS = 256

# A gap is a row with an empty topic, at the place of the last message that it stands for.
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS outbox (
        id INTEGER PRIMARY KEY, boot TEXT NOT NULL, seq INTEGER, last INTEGER, events INTEGER NOT NULL,
        topic TEXT NOT NULL, payload BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS outbox_gap ON outbox (id) WHERE topic = ''",
    "CREATE TABLE IF NOT EXISTS outbox_boot (boot TEXT PRIMARY KEY, seq INTEGER NOT NULL)",
)
_INSERT = "INSERT INTO outbox (id, boot, seq, last, events, topic, payload) VALUES (?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Row:
    """A committed message, or (topic "") the place of dropped ones; `gap` is what is missing without it."""

    id: int
    topic: str
    payload: bytes
    gap: Gap


@dataclass(frozen=True, slots=True)
class _Entry:
    topic: str
    document: Mapping[str, Any]
    seq: int | None


class Outbox:
    """Durable, ordered, bounded. `append` is for any thread; `take` and `rewind` are for the one that sends."""

    def __init__(
        self,
        path: Path,
        boot: str,
        *,
        max_messages: int,
        max_waiting: int = 10_000,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._boot = boot
        self._max_messages = max_messages
        self._max_waiting = max_waiting
        self._on_commit = on_commit
        self._changed = threading.Condition()
        self._waiting: deque[_Entry | Gap] = deque()
        self._committing = 0
        self._acknowledged: set[int] = set()
        self._cursor = 0
        self._closing = False
        self._problem = ""
        self._reading = threading.Lock()
        try:
            self._db = state.connect(path)
            self._reader = state.connect(path)
            self._next_id, self._stored, self._seq = self._open()
        except sqlite3.Error as error:
            raise DeviceError(f"the outbox cannot be opened in {path}: {error}") from error
        self._thread = threading.Thread(target=self._write, name="mqtt-outbox", daemon=True)
        self._thread.start()

    def _open(self) -> tuple[int, int, int]:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                self._db.execute(statement)
            # Numbers go on where the same boot name was used before: (boot, seq) must never name two results.
            self._db.execute("DELETE FROM outbox_boot WHERE boot <> ?", (self._boot,))
            known = self._db.execute("SELECT seq FROM outbox_boot").fetchone()
            newest, stored = self._db.execute("SELECT coalesce(max(id), 0), count(*) FROM outbox").fetchone()
        return int(newest) + 1, int(stored), int(known[0]) if known else 0

    # Any thread

    def append(self, topic: str, document: Mapping[str, Any], *, numbered: bool) -> int | None:
        """Queue a message; returns its sequence number, which goes into it together with the boot, if `numbered`."""
        with self._changed:
            if numbered:
                self._seq += 1
            seq = self._seq if numbered else None
            if len(self._waiting) < self._max_waiting and not self._closing:
                self._waiting.append(_Entry(topic, document, seq))
            else:
                self._drop_waiting(Gap(self._boot, seq, seq, 0 if numbered else 1))
            self._changed.notify()
            return seq

    def _drop_waiting(self, dropped: Gap) -> None:
        # The queue's tail tells of the overflow, so it grows by one entry at most.
        tail = self._waiting[-1] if self._waiting else None
        joined = tail.followed_by(dropped) if isinstance(tail, Gap) else None
        if joined is None:
            self._waiting.append(dropped)
        else:
            self._waiting[-1] = joined

    def acknowledge(self, row_id: int) -> None:
        """The broker has this row: it will not be handed out again, and is deleted soon."""
        with self._changed:
            self._acknowledged.add(row_id)
            if len(self._acknowledged) in (1, ACKNOWLEDGED_MAX_ROWS):
                self._changed.notify()

    def refuse(self, row: Row) -> None:
        """The broker will not take this row: it is dropped, and the gap is announced unless that was refused, too."""
        with self._changed:
            if row.topic:
                self._waiting.append(row.gap)
            self._acknowledged.add(row.id)
            self._changed.notify()

    @property
    def depth(self) -> int:
        """Messages that the broker does not have yet."""
        with self._changed:
            return max(0, self._stored - len(self._acknowledged)) + self._committing + len(self._waiting)

    @property
    def problem(self) -> str:
        """Why the last commit failed, or ""."""
        return self._problem

    @property
    def dead(self) -> bool:
        """The writer thread ended without being told to."""
        return not self._closing and not self._thread.is_alive()

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Commit what waits, and end. Messages that come later are lost."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_seconds)
        with self._reading:
            self._reader.close()
        if self._thread.is_alive():
            log.error(
                "the outbox could not be committed within %g s: %d messages are lost", timeout_seconds, self.depth
            )
        else:
            self._db.close()

    # The sender's thread

    def rewind(self) -> None:
        """Hand out everything that is not acknowledged again: a new connection knows nothing of the old one."""
        self._cursor = 0

    def take(self, limit: int) -> list[Row]:
        """The next committed rows in order, at most `limit`; none twice until `rewind`."""
        rows: list[Row] = []
        with self._reading:
            while len(rows) < limit:
                found = self._reader.execute(
                    "SELECT id, payload, topic, boot, seq, last, events FROM outbox WHERE id > ? ORDER BY id LIMIT ?",
                    (self._cursor, limit - len(rows)),
                ).fetchall()
                if not found:
                    break
                self._cursor = found[-1][0]
                rows += [
                    Row(row_id, rest[0], payload, _gap(*rest))
                    for row_id, payload, *rest in found
                    if row_id not in self._acknowledged
                ]
        return rows

    # The writer's thread

    def _write(self) -> None:
        while True:
            batch, acknowledged, closing = self._gather()
            while not self._commit(batch, acknowledged):
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, RETRY_SECONDS)
                    if closing:
                        log.error("the outbox could not be committed: %d messages are lost", len(batch))
                        return
                    closing = self._closing
            if batch:
                self._on_commit()
            if closing:
                return

    def _gather(self) -> tuple[list[_Entry | Gap], list[int], bool]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._acknowledged or self._closing)
            self._changed.wait_for(
                lambda: self._waiting or self._closing or len(self._acknowledged) >= ACKNOWLEDGED_MAX_ROWS,
                ACKNOWLEDGED_MAX_SECONDS,
            )
            batch = list(self._waiting)
            self._waiting.clear()
            self._committing = len(batch)
            return batch, list(self._acknowledged), self._closing

    def _commit(self, batch: list[_Entry | Gap], acknowledged: list[int]) -> bool:
        rows = [self._values(self._next_id + i, entry) for i, entry in enumerate(batch)]
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                deleted = self._delete(acknowledged)
                self._db.executemany(_INSERT, rows)
                self._remember_seq(rows)
                shrunk = self._shrink(self._stored + len(rows) - deleted)
        except sqlite3.Error as error:
            if not self._problem:
                log.error("the outbox cannot be written, results wait in memory: %s", error)  # noqa: TRY400
            self._problem = f"the outbox cannot be written: {error}"
            return False
        self._problem = ""
        with self._changed:
            self._next_id += len(rows)
            self._stored += len(rows) - deleted - shrunk
            self._committing = 0
            self._acknowledged.difference_update(acknowledged)
        return True

    def _values(self, row_id: int, entry: _Entry | Gap) -> tuple[Any, ...]:
        if isinstance(entry, Gap):
            return (row_id, entry.boot, entry.first, entry.last, entry.events, "", b"")
        document = entry.document if entry.seq is None else {**entry.document, "boot": self._boot, "seq": entry.seq}
        return (row_id, self._boot, entry.seq, None, 0, entry.topic, _encode(document))

    def _delete(self, ids: Iterable[int]) -> int:
        before = self._db.total_changes
        self._db.executemany("DELETE FROM outbox WHERE id = ?", [(row_id,) for row_id in ids])
        return self._db.total_changes - before

    def _remember_seq(self, rows: list[tuple[Any, ...]]) -> None:
        seqs = [values[3] or values[2] for values in rows if values[2] is not None]
        if seqs:
            self._db.execute("INSERT OR REPLACE INTO outbox_boot VALUES (?, ?)", (self._boot, seqs[-1]))

    def _shrink(self, stored: int) -> int:
        """Replace the oldest messages over the bound by gap rows; returns by how many rows the table shrank."""
        excess = stored - self._max_messages
        if excess <= 0:
            return 0
        (gap_rows,) = self._db.execute("SELECT count(*) FROM outbox WHERE topic = ''").fetchone()
        excess -= gap_rows
        if excess <= 0:
            return 0
        # Rows after the cursor only: what is in flight may be with the broker already.
        cursor = self._cursor
        found = self._db.execute(
            "SELECT id FROM outbox WHERE id > ? AND topic <> '' ORDER BY id LIMIT ?", (cursor, excess)
        ).fetchall()
        if not found:
            return 0
        rows = self._db.execute(
            "SELECT id, topic, boot, seq, last, events FROM outbox WHERE id > ? AND id <= ? ORDER BY id",
            (cursor, found[-1][0]),
        ).fetchall()
        gaps = coalesce((values[0], _gap(*values[1:])) for values in rows)
        kept = gaps[-MAX_GAPS:]
        log.warning("the outbox is full (%d messages): dropped the oldest %d", self._max_messages, len(found))
        self._delete(values[0] for values in rows)
        self._db.executemany(_INSERT, [(i, g.boot, g.first, g.last, g.events, "", b"") for i, g in kept])
        return len(rows) - len(kept)


def _gap(topic: str, boot: str, seq: int | None, last: int | None, events: int) -> Gap:
    if not topic:
        return Gap(boot, seq, last, events)
    return Gap(boot, seq, seq, 1 if seq is None else 0)


def _encode(document: Mapping[str, Any]) -> bytes:
    try:
        return messages.encode(document)
    except Exception as error:  # noqa: BLE001 - its number is taken: an unwritable result must not look like a lost one
        reason = f"this message could not be written as JSON: {error!r}"
        return messages.encode({k: v for k, v in document.items() if k != "result"} | {"error": reason})
