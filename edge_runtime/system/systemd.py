"""The service manager's notification protocol (sd_notify(3)): a datagram to $NOTIFY_SOCKET."""

import os
import socket
from collections.abc import Mapping

_SEND_MAX_SECONDS = 1.0  # a datagram socket whose reader sleeps would block for ever


class Notifier:
    """Tells the service manager our state; does nothing where there is none."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # sd_notify(3): a leading "@" stands for the abstract namespace's zero byte.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_microseconds = _watchdog(environ)

    @property
    def watchdog_seconds(self) -> float:
        """The interval within which WATCHDOG=1 is expected, in seconds; 0.0 where nobody watches."""
        return self._watchdog_microseconds / 1e6

    def notify(self, *assignments: str) -> bool:
        """Send "KEY=value" lines; returns whether there was somebody to send them to."""
        if not self._address:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(_SEND_MAX_SECONDS)
            try:
                sender.sendto("\n".join(assignments).encode(), self._address)
            except OSError:  # a manager that went away or does not read must not take the daemon with it
                return False
        return True


def _watchdog(environ: Mapping[str, str]) -> int:
    # sd_watchdog_enabled(3): the variable counts only for the process that it names.
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    try:
        return max(0, int(environ.get("WATCHDOG_USEC", "0")))
    except ValueError:
        return 0
