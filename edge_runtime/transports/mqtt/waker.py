"""Wakes a thread that polls sockets, from any other thread."""

import socket


class Waker:
    """A socket pair: readable after `wake`, until `drain`."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._receiver.fileno()

    def wake(self) -> None:
        """Make it readable."""
        try:
            self._sender.send(b"\0")
        except OSError:  # full: readable already; closed: nobody sleeps here any more
            return

    def drain(self) -> None:
        """Make it unreadable again."""
        try:
            while self._receiver.recv(4096):
                pass
        except OSError:
            return

    def close(self) -> None:
        """Free both ends."""
        self._receiver.close()
        self._sender.close()
