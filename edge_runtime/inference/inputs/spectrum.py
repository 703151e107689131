"""Features of sound: spectrogram, log-mel, MFCC, as the training's libraries compute them."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.inputs import FeatureDeclaration

Floats = NDArray[np.float64]


def features(samples: Floats, declared: FeatureDeclaration, sample_rate: int) -> Floats:
    """Features of a window of samples (n,), float64 (frames, bins), time first.

    Sources: S. Davis, P. Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word Recognition",
    1980 (MFCC); the HTK Book, section 5.4 (mel scale, filters, scale of the DCT); M. Slaney, "Auditory Toolbox", 1998.
    """
    spectrum = _spectrum(samples, declared)
    if declared.type != "spectrogram":
        spectrum = spectrum @ _mel_filters(declared, sample_rate)
    values = _logarithm(spectrum, declared)
    return values @ _dct(declared.mel_bins, declared.coefficients, declared.dct) if declared.type == "mfcc" else values


def _spectrum(samples: Floats, declared: FeatureDeclaration) -> Floats:
    """Magnitude or power of every frame's FFT, (frames, fft // 2 + 1)."""
    if declared.center != "none":
        mode = "reflect" if declared.center == "reflect" else "constant"
        samples = np.pad(samples, declared.fft // 2, mode=mode)  # type: ignore[call-overload]
    frames = np.lib.stride_tricks.sliding_window_view(samples, declared.frame)[:: declared.hop]
    magnitude = np.abs(np.fft.rfft(frames * _window(declared), declared.fft))
    return magnitude if declared.power == 1.0 else magnitude * magnitude


def _window(declared: FeatureDeclaration) -> Floats:
    """What a frame is multiplied with; in the middle of a longer frame, with zeros around it."""
    size = declared.frame_samples
    if declared.window == "rectangular":
        shape = np.ones(size)
    else:
        share = 0.5 if declared.window == "hann" else 0.54
        period = size - 1 if declared.symmetric else size
        shape = share - (1 - share) * np.cos(2 * np.pi * np.arange(size) / period)
    missing = declared.frame - size
    return np.pad(shape, (missing // 2, missing - missing // 2))


@lru_cache(maxsize=16)
def _mel_filters(declared: FeatureDeclaration, sample_rate: int) -> Floats:
    """Triangular filters, (fft // 2 + 1, mel_bins)."""
    top = declared.high_hz or sample_rate / 2
    hz = np.linspace(0, sample_rate / 2, declared.fft // 2 + 1)
    low, high = (_to_mel(np.array(f), declared.mel_scale) for f in (declared.low_hz, top))
    mels = np.linspace(low, high, declared.mel_bins + 2)
    edges = _to_hz(mels, declared.mel_scale)
    at, corners = (hz, edges) if declared.mel_triangles == "hz" else (_to_mel(hz, declared.mel_scale), mels)
    left, peak, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (at[:, None] - left) / (peak - left), (right - at[:, None]) / (right - peak)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if declared.mel_triangles == "mel":
        filters[0] = 0.0  # TensorFlow leaves the constant part out
    if declared.mel_norm == "slaney":
        filters *= 2.0 / (edges[2:] - edges[:-2])
    return filters


def _to_mel(hz: Floats, scale: str) -> Floats:
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hz / 700.0))
    # Linear up to 1 kHz (3 mel every 200 Hz), then 27 mel for a factor of 6.4.
    above = 15.0 + 27.0 * np.log(np.maximum(hz, 1000.0) / 1000.0) / np.log(6.4)
    return np.where(hz < 1000.0, 3.0 * hz / 200.0, above)


def _to_hz(mel: Floats, scale: str) -> Floats:
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    return np.where(mel < 15.0, 200.0 * mel / 3.0, 1000.0 * 6.4 ** ((mel - 15.0) / 27.0))


def _logarithm(values: Floats, declared: FeatureDeclaration) -> Floats:
    if declared.log == "none":
        return values
    values = np.maximum(values + declared.log_offset, declared.log_floor)
    if declared.log == "natural":
        return np.asarray(np.log(values))
    if declared.log == "log10":
        return np.asarray(np.log10(values))
    decibels = (10.0 if declared.power == 2.0 else 20.0) * np.log10(values)
    return np.maximum(decibels, decibels.max() - declared.top_db) if declared.top_db else np.asarray(decibels)


@lru_cache(maxsize=16)
def _dct(count: int, kept: int, scale: str) -> Floats:
    """The first columns of the DCT-II, (count, kept)."""
    phase = np.pi / count * np.outer(np.arange(count) + 0.5, np.arange(kept))
    matrix = np.sqrt(2.0 / count) * np.cos(phase)
    if scale == "ortho":
        matrix[:, 0] /= np.sqrt(2.0)
    return np.asarray(matrix)
