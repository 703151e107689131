"""The notification protocol on real sockets (sd_notify(3), sd_watchdog_enabled(3))."""

import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.system.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket and what it puts into NOTIFY_SOCKET."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@edge-runtime-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        listener.bind(address.replace("@", "\0", 1) if request.param == "abstract" else address)
        yield listener, address


def test_each_notification_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    """Assignments arrive as lines of one datagram, on a path and on an abstract socket."""
    listener, address = manager
    with Notifier({"NOTIFY_SOCKET": address}) as notifier:
        assert notifier.notify("READY=1", "STATUS=serving 3 models · läuft")
        assert listener.recv(4096).decode() == "READY=1\nSTATUS=serving 3 models · läuft"
        assert notifier.notify("WATCHDOG=1")
        assert listener.recv(4096) == b"WATCHDOG=1"
    assert not notifier.notify("WATCHDOG=1")


def test_the_watchdog_is_fed_with_no_file_descriptor_left(
    manager: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of connections must not look like a daemon that hangs."""
    listener, address = manager

    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with Notifier({"NOTIFY_SOCKET": address}) as notifier:
        monkeypatch.setattr(socket, "socket", none_left)
        assert notifier.notify("WATCHDOG=1")
        assert listener.recv(4096) == b"WATCHDOG=1"
        with Notifier({"NOTIFY_SOCKET": address}) as late:
            assert not late.notify("WATCHDOG=1")


def test_without_a_manager_nothing_happens() -> None:
    """Started by hand there is nobody to tell, which is no error."""
    assert not Notifier({}).notify("READY=1")
    assert not Notifier({"NOTIFY_SOCKET": ""}).notify("READY=1")


@pytest.mark.parametrize(
    "address", ["/nonexistent/notify", "/dev/null", "@nobody-listens-here", "vsock:2:1", "x" * 300]
)
def test_a_manager_that_is_gone_is_survived(address: str) -> None:
    """An address that nobody answers at gives False."""
    with Notifier({"NOTIFY_SOCKET": address}) as notifier:
        assert not notifier.notify("WATCHDOG=1")


def test_a_manager_that_does_not_read_does_not_block(manager: tuple[socket.socket, str]) -> None:
    """With the receiver's queue full, notify gives up after a moment instead of hanging the daemon."""
    _, address = manager
    began = time.monotonic()
    sent = 0
    with Notifier({"NOTIFY_SOCKET": address}) as notifier:
        while notifier.notify("WATCHDOG=1"):
            sent += 1
            assert sent < 100_000
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": ""}, 0.0),
        ({"WATCHDOG_USEC": "0"}, 0.0),
        ({"WATCHDOG_USEC": "-5"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_counts_only_for_the_process_it_names(environ: dict[str, str], seconds: float) -> None:
    """The interval is WATCHDOG_USEC where WATCHDOG_PID is absent or ours; nonsense means no watchdog."""
    assert Notifier(environ).watchdog_seconds == seconds
