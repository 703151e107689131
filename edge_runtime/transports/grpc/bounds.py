"""What all calls of one server may take together: how many, and how many bytes."""

import asyncio

from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.workers import Workers


class Bounds:
    """What all calls of one server may take together."""

    def __init__(self, max_calls: int, max_message_bytes: int, max_messages_bytes: int, workers: Workers) -> None:
        self.max_calls = max_calls
        self.max_message_bytes = max_message_bytes
        self.max_messages_bytes = max_messages_bytes
        self.workers = workers
        self.calls = 0
        self.bytes = 0
        self.closing = False
        self.quiet = asyncio.Event()  # no call is under way, and none is to come

    def enter(self) -> None:
        """One call more."""
        self.calls += 1

    def leave(self) -> None:
        """One call less."""
        self.calls -= 1
        self._note_quiet()

    def close(self) -> None:
        """From now on nothing new comes: be quiet after the last call."""
        self.closing = True
        self._note_quiet()

    def _note_quiet(self) -> None:
        if self.closing and not self.calls:
            self.quiet.set()

    @property
    def full(self) -> bool:
        """Whether no further call may run now."""
        return self.calls >= self.max_calls

    def take(self, size: int) -> None:
        """Note that `size` bytes more are held; raises CallerError OVERLOADED where they are too many."""
        if self.bytes + size > self.max_messages_bytes:
            raise CallerError(
                f"overloaded: requests of {self.bytes} bytes are being worked on, {size} more are too many "
                "(grpc.max_messages_bytes); try again later",
                Code.OVERLOADED,
            )
        self.bytes += size

    def check_message(self, size: int) -> None:
        """Raise CallerError TOO_LARGE for a message of more than `max_message_bytes`."""
        if size > self.max_message_bytes:
            raise CallerError(
                f"the message has {size} bytes, the limit here is {self.max_message_bytes} (grpc.max_message_bytes)",
                Code.TOO_LARGE,
            )
