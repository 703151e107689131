"""What one raw input may cost, and what comes out of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError, Code

# What a picture may unpack to where the configuration says nothing: a few kilobytes of PNG can claim gigapixels.
MAX_PICTURE_PIXELS = 25_000_000
MAX_AUDIO_SECONDS = 60.0
MAX_WINDOWS = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request; `max_bytes` of all its tensors together, `max_samples` of an open batch dimension."""

    max_pixels: int = MAX_PICTURE_PIXELS
    max_audio_seconds: float = MAX_AUDIO_SECONDS
    max_windows: int = MAX_WINDOWS
    max_bytes: int = 64 * 1024 * 1024
    max_samples: int = 1


@dataclass(frozen=True, slots=True)
class Windows:
    """What is to be run: one set of tensors by input name for each window, and where each window starts.

    Attributes:
        runs: stored dtypes, full shapes.
        starts: seconds from the beginning, or readings where the rate is not known; empty where there is one window
            only, or what was sent has no time.
        unit: what `starts` counts.
    """

    runs: tuple[Mapping[str, NDArray[Any]], ...]
    starts: tuple[float, ...] = ()
    unit: str = "seconds"


def window_starts(count: int, size: int, hop: int, spec: TensorSpec, limits: Limits) -> list[int]:
    """Where the windows of `size` start that `count` samples fill, every `hop` (0: `size`); at least one.

    Raises:
        CallerError: TOO_LARGE: more windows than allowed.
    """
    starts = range(0, max(1, count - size + 1), hop or size)
    bytes_each = max(size, math.prod(abs(n) for n in spec.shape)) * np.dtype(np.float64).itemsize
    most = max(1, min(limits.max_windows, limits.max_bytes // bytes_each))
    if len(starts) > most:
        raise CallerError(
            f"the input gives {len(starts)} windows, more than {most} (engine.max_windows); send it in parts",
            Code.TOO_LARGE,
        )
    return list(starts)
