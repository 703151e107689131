"""Sound that does not end: samples go in as they come, windows come out as they fill."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.inputs import InputDeclaration
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference.inputs.audio import mixed, tensor
from edge_runtime.inference.inputs.resample import Resampler


@dataclass(frozen=True, slots=True)
class Heard:
    """One window: when it began, in seconds since the stream did, and the input tensor of it."""

    start_seconds: float
    tensor: NDArray[Any]


class AudioStream:
    """Makes the input tensors of a declared sound from a stream of samples at `sample_rate` Hz.

    It does no input and output, and holds no more than a window and what was fed last.
    """

    def __init__(self, spec: TensorSpec, declaration: InputDeclaration, sample_rate: int) -> None:
        declared = declaration.sound
        self._spec, self._declaration = spec, declaration
        self._size = declared.window(spec.shape)
        self._hop = declared.hop_samples or self._size
        self._resamplers = [Resampler(sample_rate, declared.sample_rate) for _ in range(declared.channels)]
        self._held = np.zeros((0, declared.channels))
        self._first = 0  # number of the first held sample
        self._next = 0  # number of the sample that the next window starts with

    def feed(self, samples: NDArray[Any]) -> list[Heard]:
        """Take samples (n,) or (n, channels), -1..1; returns the windows that they complete, oldest first.

        Raises:
            CallerError: another number of channels than declared (and not one).
        """
        table = samples if samples.ndim == 2 else samples[:, None]
        both = mixed(np.asarray(table, dtype=np.float64), len(self._resamplers))
        made = [resampler.feed(both[:, i]) for i, resampler in enumerate(self._resamplers)]
        self._held = np.concatenate([self._held, np.stack(made, axis=1)])
        heard = []
        while self._next + self._size <= self._first + len(self._held):
            heard.append(self._window())
        self._forget()
        return heard

    def _window(self) -> Heard:
        start = self._next - self._first
        window = self._held[start : start + self._size]
        rate = self._declaration.sound.sample_rate
        heard = Heard(round(self._next / rate, 6), tensor(window, self._spec, self._declaration))
        self._next += self._hop
        return heard

    def _forget(self) -> None:
        """Let go of the samples before the next window."""
        gone = min(self._next - self._first, len(self._held))
        self._held = self._held[gone:].copy()
        self._first += gone
