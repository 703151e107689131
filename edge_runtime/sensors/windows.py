"""Windows: so many readings in a row become one input."""

import numpy as np
from numpy.typing import NDArray

from edge_runtime.sensors.faults import Agreement, Fault, Faults
from edge_runtime.sensors.values import Reading


class Window:
    """Gives `count` readings at a time, each time `hop` readings after the time before (0: `count`, no overlap).

    The first reading sets the number of channels; readings with another number are counted and dropped.
    `max_bytes` bounds what a window may take in memory.
    """

    def __init__(self, count: int, hop: int = 0, max_bytes: int = 64 * 1024 * 1024) -> None:
        self.faults: Faults = Faults()
        self._count = count
        self._hop = hop or count
        self._max_bytes = max_bytes
        self.reset()

    def reset(self) -> None:
        """Begin anew: what follows does not continue what was."""
        self._agreement: Agreement[int] = Agreement()
        self._start(0)

    def push(self, reading: Reading) -> NDArray[np.float64] | None:
        """Take a reading of shape (channels,); returns the (count, channels) float64 window it completes."""
        channels = len(reading)
        if channels * self._count * reading.itemsize > self._max_bytes:
            self.faults[Fault.WINDOW_TOO_LARGE] += 1
            return None
        if not self._agreement.accepts(channels):
            self.faults[Fault.CHANNELS] += 1
            return None
        if channels != self._readings.shape[1]:
            self._start(channels)
        return self._take(reading)

    def _start(self, channels: int) -> None:
        self._readings = np.empty((self._count if channels else 0, channels), dtype=np.float64)
        self._filled = 0
        self._skip = 0

    def _take(self, reading: Reading) -> NDArray[np.float64] | None:
        if self._skip:
            self._skip -= 1
            return None
        self._readings[self._filled] = reading
        self._filled += 1
        if self._filled < self._count:
            return None
        window = self._readings.copy()
        self._filled = max(0, self._count - self._hop)
        self._readings[: self._filled] = window[self._count - self._filled :]
        self._skip = max(0, self._hop - self._count)
        return window
