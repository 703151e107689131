"""The outbox's stand-in for `qos = 0`: numbered like it, kept in memory, forgotten when the connection is lost."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from edge_runtime.transports.mqtt import messages
from edge_runtime.transports.mqtt.gaps import Gap
from edge_runtime.transports.mqtt.rows import Bound, Row
from edge_runtime.transports.mqtt.waiting import Waiting


class Unstored:
    """Same use as Outbox; nothing is durable, and nothing is sent twice."""

    problem = ""
    dead = False

    def __init__(self, boot: str, waiting: Bound, on_commit: Callable[[], None]) -> None:
        self._boot = boot
        self._on_commit = on_commit
        self._lock = threading.Lock()
        self._waiting = Waiting(waiting)
        self._newest = self._seq = 0

    @property
    def depth(self) -> int:
        """Messages not handed out yet."""
        return len(self._waiting)

    def append(self, topic: str, document: Mapping[str, Any], *, numbered: bool) -> int | None:
        """Queue a message, in place of the oldest where there are too many; that is announced as a gap."""
        with self._lock:
            seq = self._seq + 1 if numbered else None
            if seq is not None:
                self._seq = seq
                document = {**document, "boot": self._boot, "seq": seq}
            self._newest += 1
            gap = Gap(self._boot, seq, seq, 0 if numbered else 1)
            self._waiting.add(Row(self._newest, topic, messages.encode(document), gap), 0)
        self._on_commit()
        return seq

    def take(self, limit: int) -> list[Row]:
        """The next messages, at most `limit`."""
        with self._lock:
            rows = self._waiting.after(0, limit)
            if rows:
                self._waiting.remove_to(rows[-1].id)
            return rows

    def acknowledge(self, row_id: int) -> None:
        """There is nothing to delete."""

    def refuse(self, row: Row) -> None:
        """There is nothing to announce: what QoS 0 loses on the way is lost."""

    def rewind(self) -> None:
        """Forget what was produced while nobody was connected."""
        with self._lock:
            self._waiting.remove_to(self._newest)

    def close(self, timeout_seconds: float = 0.0) -> None:
        """There is nothing to close."""
