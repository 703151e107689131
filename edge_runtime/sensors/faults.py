"""Why something that a sensor sent was not used, and how long a first impression of a sensor is kept."""

from collections import Counter
from collections.abc import Hashable
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Fault(StrEnum):
    """The reasons for which a frame is dropped, as they are counted."""

    TOO_LONG = "too_long"
    NOT_TEXT = "not_text"
    NOT_NUMBERS = "not_numbers"
    NOT_JSON = "not_json"
    NOT_FINITE = "not_finite"
    KEYS = "keys"
    CHANNELS = "channels"
    WINDOW_TOO_LARGE = "window_too_large"


Faults = Counter[Fault]


class Agreement(Generic[T]):
    """What a sensor's readings have in common (their channels, their keys): the first reading says.

    The first one may be the tail of a frame, though, so `patience` readings in a row that differ from it, but not
    from each other, outvote it.
    """

    def __init__(self, patience: int = 8) -> None:
        self._patience = patience
        self._agreed: T | None = None
        self._rival: T | None = None
        self._votes = 0

    def accepts(self, value: T) -> bool:
        """Whether a reading with `value` is like the ones before it."""
        if self._agreed is None or value == self._agreed:
            self._agreed, self._votes = value, 0
            return True
        self._votes = self._votes + 1 if value == self._rival else 1
        self._rival = value
        if self._votes < self._patience:
            return False
        self._agreed, self._votes = value, 0
        return True
