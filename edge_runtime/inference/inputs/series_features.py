"""Features of a window of sensor readings, by name."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.readings import band

Floats = NDArray[np.float64]
_SMALLEST = 1e-12  # a deviation or a level below it is none


def compute(window: Floats, names: tuple[str, ...], sample_rate: float) -> Floats:
    """Features of each channel of a window (readings, channels), float64 (channels, names).

    A channel that never changes has 0 where the definition divides by its deviation, its level or its power.
    """
    return np.stack([_feature(name, window, sample_rate) for name in names], axis=1)


def _feature(name: str, window: Floats, sample_rate: float) -> Floats:
    edges = band(name)
    if edges is not None:
        hz, power = _power(window, sample_rate)
        return np.asarray(power[(hz >= edges[0]) & (hz < edges[1])].sum(axis=0))
    if name in _OF_SPECTRUM:
        return _OF_SPECTRUM[name](*_power(window - window.mean(axis=0), sample_rate))
    return np.asarray(_OF_WINDOW[name](window))


def _power(window: Floats, sample_rate: float) -> tuple[Floats, Floats]:
    """Frequencies in Hz, and each one's part of the mean square (the parts add up to it, Parseval)."""
    count = len(window)
    power = np.abs(np.fft.rfft(window, axis=0)) ** 2 / count**2
    power[1 : (count + 1) // 2] *= 2  # the negative frequencies
    return np.asarray(np.fft.rfftfreq(count, 1 / sample_rate), dtype=np.float64), power


def _ratio(above: Floats, below: Floats) -> Floats:
    known = np.abs(below) > _SMALLEST
    return np.where(known, above / np.where(known, below, 1.0), 0.0)


def _moment(window: Floats, order: int) -> Floats:
    """The standardized moment (biased)."""
    away = window - window.mean(axis=0)
    return _ratio((away**order).mean(axis=0), window.std(axis=0) ** order)


def _crossings(window: Floats) -> Floats:
    """How often the sign changes; 0 counts as positive."""
    return np.asarray((np.diff(window >= 0, axis=0)).sum(axis=0), dtype=np.float64)


def _rms(window: Floats) -> Floats:
    return np.asarray(np.sqrt((window * window).mean(axis=0)))


_OF_WINDOW: dict[str, Callable[[Floats], Floats]] = {
    "mean": lambda w: w.mean(axis=0),
    "std": lambda w: w.std(axis=0),
    "min": lambda w: w.min(axis=0),
    "max": lambda w: w.max(axis=0),
    "median": lambda w: np.asarray(np.median(w, axis=0)),
    "rms": _rms,
    "energy": lambda w: (w * w).sum(axis=0),
    "peak_to_peak": lambda w: np.asarray(np.ptp(w, axis=0)),
    "crest": lambda w: _ratio(np.abs(w).max(axis=0), _rms(w)),
    "skewness": lambda w: _moment(w, 3),
    "kurtosis": lambda w: _moment(w, 4),
    "zero_crossings": _crossings,
    "mean_crossings": lambda w: _crossings(w - w.mean(axis=0)),
    "mean_abs_change": lambda w: np.abs(np.diff(w, axis=0)).mean(axis=0),
}
_OF_SPECTRUM: dict[str, Callable[[Floats, Floats], Floats]] = {
    "dominant_hz": lambda hz, power: np.where(power.max(axis=0) > _SMALLEST, hz[power.argmax(axis=0)], 0.0),
    "spectral_centroid": lambda hz, power: _ratio(hz @ power, power.sum(axis=0)),
}
