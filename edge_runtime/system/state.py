"""The one SQLite file that holds the box's state. Each room keeps tables of its own in it."""

import sqlite3
import uuid
from pathlib import Path

FILE_NAME = "state.db"


def connect(path: Path) -> sqlite3.Connection:
    """Open the state file, made if absent, in WAL mode with fsync at every commit (`synchronous=FULL`).

    The connection may be handed to another thread, but must be used by one at a time. Transactions are
    explicit: `with connection:` commits or rolls back.
    """
    connection = sqlite3.connect(path, timeout=10.0, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


def device_id(connection: sqlite3.Connection) -> str:
    """This box's own id (UUID4), made once and kept in the state."""
    with connection:
        connection.execute("CREATE TABLE IF NOT EXISTS identity (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        connection.execute("INSERT OR IGNORE INTO identity VALUES ('device_id', ?)", (str(uuid.uuid4()),))
    (value,) = connection.execute("SELECT value FROM identity WHERE key = 'device_id'").fetchone()
    return str(value)
