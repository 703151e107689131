"""Messages on disk until the broker has them: one SQLite table, one writer thread, group commit.

`append` never waits for the disk: it queues in memory, and the writer commits whatever has gathered, in order.
Only committed rows are handed to the sender, unless the disk refuses them: then those in memory are handed out, too,
after all that are on disk. A row is forgotten after its PUBACK; a crash in between sends it again with the same
(boot, seq), which is how a subscriber tells a duplicate. Both places are bounded, in messages and in bytes; the oldest
message that was not handed out gives way, and leaves a gap that is told at its place.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.transports.mqtt import messages
from edge_runtime.transports.mqtt.gaps import Gap
from edge_runtime.transports.mqtt.rows import Bound, Row
from edge_runtime.transports.mqtt.table import Table
from edge_runtime.transports.mqtt.waiting import Waiting

log = logging.getLogger(__name__)

# Deleting acknowledged rows rides along with the next commit; alone it waits, to spare flash an fsync for each.
ACKNOWLEDGED_MAX_ROWS = 512
ACKNOWLEDGED_MAX_SECONDS = 1.0
# Small transactions keep the WAL small, and a disk that is nearly full may still take a small one.
COMMIT_MAX_BYTES = 1024 * 1024
RETRY_SECONDS = 1.0
# A full disk or a full outbox stays so for days; once a minute is often enough to say it.
LOG_SECONDS = 60.0

WAITING = Bound(10_000, 8 * 1024 * 1024)


class Outbox:
    """Durable, ordered, bounded. `append` is for any thread; `take` and `rewind` are for the one that sends."""

    def __init__(
        self,
        path: Path,
        boot: str,
        *,
        stored: Bound,
        waiting: Bound = WAITING,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Call `on_commit`, from any thread, when there may be more to take. Raises DeviceError."""
        self._boot = boot
        self._on_commit = on_commit
        self._max_row_bytes = min(stored.bytes, waiting.bytes)
        self._table = Table(path, boot, stored)
        # All that follows is shared by the threads, and guarded by this.
        self._changed = threading.Condition()
        self._waiting = Waiting(waiting)
        self._stored_rows = self._table.amount.rows
        self._seq = self._sent_seq = self._table.seq
        self._newest = self._newest_committed = self._table.newest
        self._committing_to = 0
        self._commits = 0
        self._shrinking = False
        self._acknowledged: set[int] = set()
        self._cursor = 0
        self._closing = False
        self._problem = self._read_problem = ""
        self._dropped = 0
        self._logged: dict[str, float] = {}
        self._thread = threading.Thread(target=self._write, name="mqtt-outbox", daemon=True)
        self._thread.start()

    # Any thread

    def append(self, topic: str, document: Mapping[str, Any], *, numbered: bool) -> int | None:
        """Queue a message; returns its sequence number, which goes into it together with the boot, if `numbered`."""
        with self._changed:
            seq = self._seq + 1 if numbered else None
            if seq is not None:
                self._seq = seq
                document = {**document, "boot": self._boot, "seq": seq}
            row = Row(self._newest + 1, topic, _encode(document), Gap(self._boot, seq, seq, 0 if numbered else 1))
            self._queue(Row(row.id, "", b"", row.gap) if self._closing or self._is_too_large(row) else row)
            self._log_dropped()
            failing = bool(self._problem)
        if failing:
            self._on_commit()
        return seq

    def _is_too_large(self, row: Row) -> bool:
        # It would push everything else out, and then itself.
        too_large = row.amount.bytes > self._max_row_bytes
        if too_large and self._may_log("large"):
            log.warning(
                "a message to %s is dropped, since its %d bytes are more than mqtt.outbox_max_bytes or "
                "mqtt.outbox_max_waiting_bytes allow",
                row.topic,
                row.amount.bytes,
            )
        return too_large

    def _queue(self, row: Row) -> None:
        self._newest = row.id
        self._dropped += self._waiting.add(row, max(self._cursor, self._committing_to))
        self._changed.notify()

    def acknowledge(self, row_id: int) -> None:
        """The broker has this row: it will not be handed out again, and is deleted soon."""
        with self._changed:
            self._forget(row_id)

    def refuse(self, row: Row) -> None:
        """The broker will not take this row: it is dropped, and the gap is announced unless that was refused, too."""
        with self._changed:
            if row.topic:
                self._queue(Row(self._newest + 1, "", b"", row.gap))
            self._forget(row.id)

    def _forget(self, row_id: int) -> None:
        # A row that is being written may be on disk in a moment; what is only in memory never gets there.
        if row_id > self._committing_to and self._waiting.remove(row_id):
            return
        self._acknowledged.add(row_id)
        if len(self._acknowledged) in (1, ACKNOWLEDGED_MAX_ROWS):
            self._changed.notify()

    @property
    def depth(self) -> int:
        """Messages that the broker does not have yet."""
        with self._changed:
            return max(0, self._stored_rows + len(self._waiting) - len(self._acknowledged))

    @property
    def problem(self) -> str:
        """Why the disk does not serve, and what that means, or ""."""
        return self._problem or self._read_problem

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
        self._table.close_reader()
        if self._thread.is_alive():
            log.error("the outbox could not be committed within %g s: what waits is lost", timeout_seconds)
        else:
            self._table.close()

    # The sender's thread

    def rewind(self) -> None:
        """Hand out everything that is not acknowledged again: a new connection knows nothing of the old one."""
        with self._changed:
            self._cursor = 0

    def take(self, limit: int) -> list[Row]:
        """The next rows in order, at most `limit`; none twice until `rewind`."""
        rows: list[Row] = []
        while len(rows) < limit:
            found = self._take_some(limit - len(rows))
            if found is None:
                break
            rows += found
        return rows

    def _take_some(self, limit: int) -> list[Row] | None:
        """Rows, or none where it is worth asking again; None where there are no more for now."""
        with self._changed:
            commits, cursor, newest = self._commits, self._cursor, self._newest_committed
        try:
            found = self._table.read(cursor, limit)
            self._read_problem = ""
        except sqlite3.Error as error:
            self._read_problem = f"the outbox cannot be read: {error}"
            found = []
        with self._changed:
            if self._read_problem and self._stored_rows > len(self._acknowledged):
                return None  # what is in memory must not overtake what is on disk
            if self._shrinking:  # what was read may just be given up; the commit's end wakes us
                return None
            if commits != self._commits:  # what was read may be deleted by now
                return []
            if found:
                self._cursor = found[-1].id
                return [row for row in found if row.id not in self._acknowledged]
            self._cursor = max(cursor, newest)
            return self._take_from_memory(limit)

    def _take_from_memory(self, limit: int) -> list[Row] | None:
        rows = self._waiting.after(self._cursor, limit) if self._problem else []
        if not rows:
            return None
        self._cursor = rows[-1].id
        self._sent_seq = max(self._sent_seq, self._last_seq(rows))
        # Acknowledged, and still here: a commit that began before is under way.
        return [row for row in rows if row.id not in self._acknowledged]

    # The writer's thread

    def _write(self) -> None:
        while True:
            batch, acknowledged, closing = self._gather()
            done = self._commit(batch, acknowledged)
            self._on_commit()
            with self._changed:
                if closing and done and not self._waiting:
                    return
                if closing and not done:
                    log.error("the outbox could not be committed: %d messages are lost", self._waiting.amount.messages)
                    return
                if not done:
                    self._changed.wait_for(lambda: self._closing, RETRY_SECONDS)

    def _gather(self) -> tuple[list[Row], list[int], bool]:
        with self._changed:
            # While there is a problem the disk is tried again even if there is nothing to write.
            self._changed.wait_for(lambda: bool(self._waiting or self._acknowledged or self._closing or self._problem))
            if not self._problem:
                self._changed.wait_for(
                    lambda: bool(self._waiting) or self._closing or len(self._acknowledged) >= ACKNOWLEDGED_MAX_ROWS,
                    ACKNOWLEDGED_MAX_SECONDS,
                )
            batch = self._waiting.oldest(COMMIT_MAX_BYTES)
            self._committing_to = batch[-1].id if batch else 0
            return batch, sorted(self._acknowledged)[:ACKNOWLEDGED_MAX_ROWS], self._closing

    def _commit(self, batch: Sequence[Row], acknowledged: Sequence[int]) -> bool:
        with self._changed:
            seq = max(self._table.seq, self._sent_seq, self._last_seq(batch))
        try:
            dropped = self._table.commit(batch, acknowledged, seq, self._spared)
        except sqlite3.Error as error:
            self._failed(batch, error)
            if batch and acknowledged:
                # Alone they need less room on a full disk, and make some.
                self._delete_only(acknowledged)
            return False
        with self._changed:
            self._problem = ""
            if batch:
                self._waiting.remove_to(batch[-1].id)
                self._newest_committed = batch[-1].id
            self._dropped += dropped
            self._settled(acknowledged)
            self._log_dropped()
        return True

    def _spared(self) -> tuple[int, set[int]]:
        """What must not be dropped: rows that are in flight, or acknowledged. From now on none is handed out."""
        with self._changed:
            self._shrinking = True
            return self._cursor, set(self._acknowledged)

    def _settled(self, acknowledged: Sequence[int]) -> None:
        self._commits += 1
        self._stored_rows = self._table.amount.rows
        self._committing_to = 0
        self._shrinking = False
        self._acknowledged.difference_update(acknowledged)

    def _failed(self, batch: Sequence[Row], error: sqlite3.Error) -> None:
        with self._changed:
            self._committing_to = 0
            self._shrinking = False
            self._problem = (
                f"the outbox cannot be written: {error}; results go out from memory, "
                "and those that the broker does not have are lost if the box stops"
            )
            for row in batch:
                if row.id in self._acknowledged:
                    self._acknowledged.discard(row.id)
                    self._waiting.remove(row.id)
            if self._may_log("failed"):
                log.error("%s; look at the free space and the health of the disk", self._problem)

    def _delete_only(self, acknowledged: Sequence[int]) -> None:
        try:
            self._table.commit((), acknowledged, self._table.seq, self._spared)
        except sqlite3.Error as error:
            log.debug("acknowledged rows cannot be deleted either: %s", error)
            acknowledged = ()
        with self._changed:
            self._settled(acknowledged)

    # For whoever holds the lock

    def _last_seq(self, rows: Sequence[Row]) -> int:
        return max((row.gap.last or 0 for row in rows if row.gap.boot == self._boot), default=0)

    def _log_dropped(self) -> None:
        if self._dropped and self._may_log("dropped"):
            log.warning("the outbox is full: %d messages were dropped, the oldest first", self._dropped)
            self._dropped = 0

    def _may_log(self, what: str) -> bool:
        now = time.monotonic()
        if now - self._logged.get(what, -LOG_SECONDS) < LOG_SECONDS:
            return False
        self._logged[what] = now
        return True


def _encode(document: Mapping[str, Any]) -> bytes:
    try:
        return messages.encode(document)
    except Exception as error:  # noqa: BLE001 - its number is taken: an unwritable result must not look like a lost one
        reason = f"this message could not be written as JSON: {error!r}"
        return messages.encode({k: v for k, v in document.items() if k != "result"} | {"error": reason})
