"""What a link to a sensor is: chunks of bytes as they come, and a state that says why none come."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class LinkState(StrEnum):
    """Where a link stands; anything but OPEN is being worked on by itself."""

    CLOSED = "closed"
    WAITING = "waiting for port"
    DENIED = "permission denied"
    BUSY = "busy"
    FAILED = "failed"
    OPEN = "open"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """The state of a link, what it is about, and the clock's seconds at which it began."""

    state: LinkState
    detail: str
    since: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes as they came; the chunks of one `opening` (1, 2, ...) are one unbroken stream."""

    opening: int
    data: bytes


class Link(Protocol):
    """A source of bytes that comes back by itself."""

    @property
    def status(self) -> LinkStatus:
        """What is the matter with it now."""
        ...

    def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Every chunk from now on; closing the generator closes the link. Never raises because of the sensor."""
        ...
