"""The service manager's notification protocol (sd_notify(3)): a datagram to $NOTIFY_SOCKET."""

import os
import socket
from collections.abc import Mapping
from typing import Self

_SEND_MAX_SECONDS = 1.0  # a datagram socket whose reader sleeps would block for ever


class Notifier:
    """Tells the service manager our state; does nothing where there is none.

    Its socket is opened once: the watchdog must be fed also when the process has no file descriptor left.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # sd_notify(3): a leading "@" stands for the abstract namespace's zero byte.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_microseconds = _watchdog(environ)
        self._socket = _open() if address else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def watchdog_seconds(self) -> float:
        """The interval within which WATCHDOG=1 is expected, in seconds; 0.0 where nobody watches."""
        return self._watchdog_microseconds / 1e6

    def notify(self, *assignments: str) -> bool:
        """Send "KEY=value" lines; returns whether there was somebody to send them to. Never raises OSError."""
        if self._socket is None:
            return False
        try:
            self._socket.sendto("\n".join(assignments).encode(), self._address)
        except OSError:  # a manager that went away or does not read must not take the daemon with it
            return False
        return True

    def close(self) -> None:
        """Tell nobody any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _open() -> socket.socket | None:
    try:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError:
        return None
    opened.settimeout(_SEND_MAX_SECONDS)
    return opened


def _watchdog(environ: Mapping[str, str]) -> int:
    # sd_watchdog_enabled(3): the variable counts only for the process that it names.
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    try:
        return max(0, int(environ.get("WATCHDOG_USEC", "0")))
    except ValueError:
        return 0
