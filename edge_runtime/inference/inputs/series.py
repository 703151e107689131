"""From readings of sensors to windows, and to what a model takes of each."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.inputs import InputDeclaration, SeriesDeclaration
from edge_runtime.contract.quantization import quantize
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError
from edge_runtime.inference.inputs import series_features
from edge_runtime.inference.inputs.arrays import finite, normalize, one_sample
from edge_runtime.inference.inputs.limits import Limits, Windows, window_starts

Floats = NDArray[np.float64]


def from_readings(raw: NDArray[Any], spec: TensorSpec, declaration: InputDeclaration, limits: Limits) -> Windows:
    """The windows of readings, shape (n, channels), or their values one after another.

    Raises:
        CallerError: another number of channels, too few readings for one window, too many windows, NaN or infinity.
    """
    declared = declaration.readings
    size, channels = declared.window(spec.shape)
    if raw.ndim == 2 and raw.shape[1] != channels and raw.shape != (1, raw.size):
        raise CallerError(f"readings have {raw.shape[1]} values, but the model takes {channels} channels")
    if raw.size % channels:
        raise CallerError(f"{raw.size} values are no readings of {channels} channels")
    readings = finite(raw).reshape(-1, channels)
    if len(readings) < size:
        raise CallerError(f"there are {len(readings)} readings of {channels} channels, but a window has {size}")
    # A window that is not full is none: readings that were never made cannot be made up, as silence can.
    starts = window_starts(len(readings), size, declared.hop_samples, spec, limits)
    runs = tuple({spec.name: tensor(readings[start : start + size], spec, declaration)} for start in starts)
    if len(runs) == 1:
        return Windows(runs)
    if declared.sample_rate:
        return Windows(runs, tuple(round(start / declared.sample_rate, 6) for start in starts))
    return Windows(runs, tuple(float(start) for start in starts), "reading")


def tensor(window: Floats, spec: TensorSpec, declaration: InputDeclaration) -> NDArray[Any]:
    """The input tensor of one window of readings, float64 (readings, channels)."""
    declared = declaration.readings
    values = _standardized(_scaled(window, declared), declared)
    if declared.features:
        values = series_features.compute(values, declared.features, declared.sample_rate)
        values = (values if declared.order == "channel" else values.T).reshape(1, -1)
    return one_sample(quantize(normalize(values, declaration), spec), spec)


def _scaled(window: Floats, declared: SeriesDeclaration) -> Floats:
    if not declared.minimum:
        return window
    low, high = np.asarray(declared.minimum), np.asarray(declared.maximum)
    return np.asarray((window - low) / (high - low))


def _standardized(window: Floats, declared: SeriesDeclaration) -> Floats:
    """Each channel by the window's own mean and spread; a channel that never changes becomes 0."""
    if declared.standardize == "none":
        return window
    if declared.standardize == "minmax":
        low, spread = window.min(axis=0), np.ptp(window, axis=0)
    else:
        low, spread = window.mean(axis=0), window.std(axis=0)
    if declared.standardize == "center":
        return np.asarray(window - low)
    return np.asarray((window - low) / np.where(spread > 0, spread, 1.0))
