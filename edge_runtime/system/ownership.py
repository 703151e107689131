"""Whose the state folder is."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.errors import DeviceError


class StateInUseError(DeviceError):
    """Another process holds the state folder."""


@contextmanager
def own_state(folder: Path) -> Iterator[None]:
    """Make the state folder and hold it: two daemons on one state would undo each other's work.

    Raises:
        DeviceError: it cannot be written; StateInUseError: another daemon has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise DeviceError(
            f"cannot write to {folder}: {error.strerror}; set device.state_dir to a folder of yours"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StateInUseError(f"another edge-runtime is using {folder}; stop it, or set device.state_dir") from error
    else:
        yield
    finally:
        os.close(descriptor)
