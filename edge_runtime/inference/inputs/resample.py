"""Another sample rate for a recording, or for a stream of samples."""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

_CROSSINGS = 24  # zero crossings of the sinc on each side
_KAISER_BETA = 8.0  # about 80 dB between what passes and what does not
_POINTS = 1024  # of the kernel's table for each crossing
_FILTER_VALUES = 1 << 18  # of the filters that are made at once
_CUT_OFF = 0.92  # of half the lower rate: the filter needs the rest to fall

Floats = NDArray[np.float64]


class Resampler:
    """From `source` to `target` Hz by a polyphase windowed sinc, piece by piece; any cutting gives the same samples.

    Frequencies above half the lower rate are filtered out. Source: J. O. Smith, "Digital Audio Resampling", 2002.
    """

    def __init__(self, source: int, target: int) -> None:
        divisor = math.gcd(source, target)
        self._up, self._down = target // divisor, source // divisor
        self._scale = min(1.0, target / source) * _CUT_OFF
        self._reach = math.ceil(_CROSSINGS / self._scale)  # input samples on each side of an output sample
        self._held: Floats = np.zeros(self._reach)  # input samples that are still needed; silence was before
        self._first = -self._reach  # number of the first held input sample
        self._made = 0
        self._seen = 0

    def feed(self, samples: Floats) -> Floats:
        """Take samples (n,); returns those that can be computed now."""
        if self._up == self._down:
            return np.asarray(samples, dtype=np.float64)
        self._seen += len(samples)
        return self._make(np.asarray(samples, dtype=np.float64), self._ready(self._seen - self._reach))

    def flush(self) -> Floats:
        """The rest, with silence after the last sample; ceil(n * target / source) in all."""
        if self._up == self._down:
            return np.zeros(0)
        return self._make(np.zeros(2 * self._reach + 1), -(-self._seen * self._up // self._down))

    def _ready(self, inputs: int) -> int:
        """How many output samples lie before input sample number `inputs`."""
        return max(self._made, -(-inputs * self._up // self._down))

    def _make(self, samples: Floats, end: int) -> Floats:
        held = np.concatenate([self._held, samples])
        made = np.empty(end - self._made)
        if not len(made):
            self._held = held
            return made
        windows = np.lib.stride_tricks.sliding_window_view(held, 2 * self._reach)
        phases = min(self._up, len(made))
        together = max(1, _FILTER_VALUES // (2 * self._reach))
        for first in range(0, phases, together):
            number = np.arange(first, min(first + together, phases))
            middle, rest = np.divmod((self._made + number) * self._down, self._up)
            starts = middle - self._reach + 1 - self._first
            for phase, start, weights in zip(number, starts, self._filters(rest / self._up), strict=True):
                part = made[phase :: self._up]
                part[:] = windows[start :: self._down][: len(part)] @ weights
        self._made = end
        keep = end * self._down // self._up - self._reach + 1 - self._first
        self._held = held[max(0, keep) :]
        self._first += max(0, keep)
        return made

    def _filters(self, fractions: Floats) -> Floats:
        """Weights of the input samples around output samples that lie `fractions` behind one of them."""
        distance = fractions[:, None] + (self._reach - 1 - np.arange(2 * self._reach))
        weights = np.interp(np.abs(distance) * self._scale, *_kernel(), right=0.0)
        # Each filter passes constants as they are: without this, phases would differ by a hum.
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@cache
def _kernel() -> tuple[Floats, Floats]:
    """A sinc under a Kaiser window: at these zero crossings, these weights."""
    at = np.linspace(0, _CROSSINGS, _CROSSINGS * _POINTS + 1)
    return at, np.sinc(at) * np.i0(_KAISER_BETA * np.sqrt(1 - (at / _CROSSINGS) ** 2))


def resample(samples: Floats, source: int, target: int) -> Floats:
    """A whole recording, (n,), at another rate: ceil(n * target / source) samples, the first at the same time."""
    resampler = Resampler(source, target)
    return np.concatenate([resampler.feed(samples), resampler.flush()])
