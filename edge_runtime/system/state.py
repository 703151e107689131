"""The one SQLite file that holds the box's state. Each room keeps tables of its own in it."""

import sqlite3
import time
import uuid
from contextlib import closing
from pathlib import Path

from edge_runtime.errors import DeviceError

FILE_NAME = "state.db"


def connect(path: Path) -> sqlite3.Connection:
    """Open the state file, made if absent, in WAL mode with fsync at every commit (`synchronous=FULL`).

    The connection may be handed to another thread, but must be used by one at a time. Transactions are
    explicit: `with connection:` commits or rolls back.

    Raises:
        DeviceError: the file cannot be opened, or is no SQLite database.
    """
    try:
        connection = sqlite3.connect(path, timeout=10.0, check_same_thread=False)
    except sqlite3.Error as error:
        raise DeviceError(f"the state file {path} cannot be opened: {error}; look at its folder and owner") from error
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error as error:
        connection.close()
        raise DeviceError(f"the state file {path} cannot be used: {error}; move it away to begin anew") from error
    return connection


def set_aside_if_broken(path: Path) -> str | None:
    """Move a state file away that cannot be used any more; returns what was wrong, or None if all is well.

    A box that begins anew, reachable and saying so, can be mended from afar; one that does not start cannot. The whole
    file is checked only after a stop that was no clean one (its write-ahead log is still there).
    """
    if not path.exists():
        return None
    unclean = path.with_name(f"{path.name}-wal").exists()
    try:
        with closing(sqlite3.connect(path, timeout=10.0)) as connection:
            check = "quick_check(1)" if unclean else "schema_version"
            (found,) = connection.execute(f"PRAGMA {check}").fetchone()
            problem = str(found) if unclean and found != "ok" else ""
    except sqlite3.DatabaseError as error:
        # "locked", "readonly" and the like are OperationalErrors: those files are not broken.
        problem = "" if isinstance(error, sqlite3.OperationalError) else str(error)
    if not problem:
        return None
    aside = path.with_name(f"{path.name}.broken-{time.time_ns()}")
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(f"{path.name}{suffix}")
        if file.exists():
            file.rename(f"{aside}{suffix}")
    return f"the state file was broken ({problem}) and is now {aside.name}; this box began anew: push its models again"


def device_id(connection: sqlite3.Connection) -> str:
    """This box's own id (UUID4), made once and kept in the state."""
    with connection:
        connection.execute("CREATE TABLE IF NOT EXISTS identity (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        connection.execute("INSERT OR IGNORE INTO identity VALUES ('device_id', ?)", (str(uuid.uuid4()),))
    (value,) = connection.execute("SELECT value FROM identity WHERE key = 'device_id'").fetchone()
    return str(value)
