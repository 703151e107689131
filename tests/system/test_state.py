"""The state file keeps what was committed, also when its writer is killed."""

import sqlite3
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime.errors import DeviceError
from edge_runtime.system import state

KILLED = """
import os, sys
from pathlib import Path
from edge_runtime.system import state
connection = state.connect(Path(sys.argv[1]))
with connection:
    connection.execute("CREATE TABLE t (x)")
    connection.execute("INSERT INTO t VALUES ('kept')")
connection.execute("INSERT INTO t VALUES ('not committed')")
os.kill(os.getpid(), 9)
"""


def test_the_journal_and_the_syncs_are_as_promised(tmp_path: Path) -> None:
    """WAL, an fsync at each commit, and foreign keys are on."""
    with closing(state.connect(tmp_path / state.FILE_NAME)) as connection:
        pragmas = [connection.execute(f"PRAGMA {p}").fetchone()[0] for p in ("journal_mode", "synchronous")]
        assert pragmas == ["wal", 2]
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_a_killed_writer_loses_only_what_was_not_committed(tmp_path: Path) -> None:
    """After kill -9 the committed row is there and the other is not."""
    path = tmp_path / state.FILE_NAME
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    with closing(state.connect(path)) as connection:
        assert connection.execute("SELECT x FROM t").fetchall() == [("kept",)]
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_exception_rolls_back(tmp_path: Path) -> None:
    """A transaction that raises leaves no trace."""
    with closing(state.connect(tmp_path / state.FILE_NAME)) as connection:
        with connection:
            connection.execute("CREATE TABLE t (x)")

        def fail() -> None:
            with connection:
                connection.execute("INSERT INTO t VALUES (1)")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_the_device_id_is_made_once(tmp_path: Path) -> None:
    """It is a UUID4, and the same after every reopening."""
    ids = set()
    for _ in range(3):
        with closing(state.connect(tmp_path / state.FILE_NAME)) as connection:
            ids.add(state.device_id(connection))
    assert len(ids) == 1
    assert uuid.UUID(ids.pop()).version == 4


def test_two_who_ask_at_the_same_time_get_the_same_id(tmp_path: Path) -> None:
    """Eight connections to a new file agree."""

    def ask(_: int) -> str:
        with closing(state.connect(tmp_path / state.FILE_NAME)) as connection:
            return state.device_id(connection)

    with closing(state.connect(tmp_path / state.FILE_NAME)), ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    """A file that SQLite cannot use is an error that says which file, and nothing is left open."""
    path = tmp_path / state.FILE_NAME
    path.write_bytes(b"this is no database, but it is long enough to look at" * 100)
    with pytest.raises(DeviceError, match=r"state\.db cannot be used.*move it away") as caught:
        state.connect(path)
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    with pytest.raises(DeviceError, match="cannot be opened"):
        state.connect(tmp_path / "absent" / state.FILE_NAME)
