"""Real pseudo-terminals to plug and pull."""

import os
import tty
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from serial_bench import Cable


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Cable]:
    """A serial line that is not plugged in yet."""
    line = Cable(tmp_path)
    yield line
    line.pull()


@pytest.fixture
def pty() -> Iterator[tuple[int, str]]:
    """The master's descriptor and the slave's path of a pseudo-terminal."""
    master, slave = os.openpty()
    tty.setraw(slave)
    path = os.ttyname(slave)
    yield master, path
    for descriptor in (master, slave):
        with suppress(OSError):
            os.close(descriptor)
