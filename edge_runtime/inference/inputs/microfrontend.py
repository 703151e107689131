"""The audio front end of TensorFlow Lite Micro's speech models, in the fixed-point arithmetic they were trained with.

Source: tflite-micro's signal library and its `micro_speech` audio preprocessor: 30 ms frames every 20 ms, a Hann
window, a 512-point FFT, 40 mel channels from 125 to 7500 Hz, spectral subtraction of a running noise estimate,
per-channel automatic gain control (PCAN: Wang et al., "Trainable Frontend For Robust and Far-Field Keyword
Spotting", 2016), and a logarithm. All numbers are integers, as on a microcontroller: scales are powers of two.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE, FRAME, STEP, CHANNELS = 16_000, 480, 320, 40  # Hz, samples, samples, mel channels
LOG_SCALE = 25.6  # the training's input is a feature divided by it, 0 to about 26
_WINDOW_BITS = _WEIGHT_BITS = 12
_LOW_HZ, _HIGH_HZ = 125.0, 7500.0
_FFT, _FFT_BITS = 512, 9
_CORRECTION_BITS = _FFT_BITS - _WEIGHT_BITS // 2  # what the FFT and the weights leave of the scale after the root
_NOISE_BITS, _SUBTRACTION_BITS = 10, 14
_SMOOTHING = (0.025, 0.06)  # of the noise estimate in even and odd channels
_SIGNAL_LEFT = 0.05
_GAIN_STRENGTH, _GAIN_OFFSET, _GAIN_BITS = 0.95, 80.0, 21
_SNR_BITS, _GAINED_BITS = 12, 6
_SNR_SHIFT = _GAIN_BITS - _CORRECTION_BITS - _SNR_BITS
_LOG_BITS = 6
_LN2 = 45426  # ln(2), 16 fractional bits
_INT16_MAX = 32767
_TOGETHER = 512  # frames whose FFT is made at once: it takes 4 KiB for each, several times over

Ints = NDArray[np.int64]


def features(samples: NDArray[Any]) -> NDArray[np.int32]:
    """Features of a recording at 16 kHz, int16 units (-32768..32767), shape (n,), silence before it.

    Returns int32 (1 + (n - 480) // 320, 40), each about 0 to 670; divided by 25.6 they are what models are trained on.
    """
    whole = np.clip(np.rint(samples), -_INT16_MAX - 1, _INT16_MAX).astype(np.int64)
    if len(whole) < FRAME:
        return np.zeros((0, CHANNELS), dtype=np.int32)
    frames = np.lib.stride_tricks.sliding_window_view(whole, FRAME)[::STEP]
    parts = [_mel_channels(frames[i : i + _TOGETHER]) for i in range(0, len(frames), _TOGETHER)]
    return _logarithm(_gained(*_denoised(np.concatenate(parts))))


def stored_as_byte(values: NDArray[np.int32]) -> Ints:
    """Features on the scale 0..255 of a quantized model: 256 steps for 0..26, rounded half up."""
    scale = int(LOG_SCALE * 26 + 0.5)
    return np.clip((values.astype(np.int64) * 256 + scale // 2) // scale, 0, 255)


def _mel_channels(frames: Ints) -> Ints:
    """The root of each mel channel's energy, (frames, 40)."""
    windowed = np.clip((frames * _hann()) >> _WINDOW_BITS, -_INT16_MAX - 1, _INT16_MAX)
    # Each frame is shifted up as far as 16 bits allow, and its channels down again: an FFT of integers loses least so.
    peak = np.abs(windowed).max(axis=1, keepdims=True)
    shift = np.maximum(15 - _bit_length(peak), 0)
    padded = np.zeros((len(frames), _FFT), dtype=np.int64)
    padded[:, :FRAME] = windowed << shift
    real, imaginary = _real_fft(padded)
    energy = real * real + imaginary * imaginary
    weights = _mel_weights()
    channels: Ints = energy[:, : weights.shape[0]] @ weights
    scaled: Ints = _root(channels) >> shift
    return scaled


@cache
def _hann() -> Ints:
    phase = 2 * np.pi / FRAME * (np.arange(FRAME) + 0.5)
    return np.asarray(np.round((0.5 - 0.5 * np.cos(phase)) * (1 << _WINDOW_BITS)), dtype=np.int64)


@cache
def _mel_weights() -> Ints:
    """Triangles in mel, (bins, 40): a bin's energy goes to two neighbouring channels, w and 1 - w of it."""
    hz_per_bin = np.float32(SAMPLE_RATE / 2 / (_FFT // 2))
    bins = np.arange(round(1 + _LOW_HZ / float(hz_per_bin)), _FFT // 2 + 1)
    mels, low = _mel(bins.astype(np.float32) * hz_per_bin), _mel(np.float32(_LOW_HZ))
    spacing = (_mel(np.float32(_HIGH_HZ)) - low) / np.float32(CHANNELS + 1)
    centers = low + spacing * np.arange(CHANNELS + 2, dtype=np.float32)
    weights = np.zeros((_FFT // 2 + 1, CHANNELS + 2), dtype=np.int64)
    for at, mel in zip(bins, mels, strict=True):
        above = int(np.searchsorted(centers[1:], mel)) + 1
        if above <= CHANNELS + 1:
            share = (centers[above] - mel) / (centers[above] - centers[above - 1])
            weights[at, above] = int((1 - share) * (1 << _WEIGHT_BITS))
            weights[at, above - 1] = int(share * (1 << _WEIGHT_BITS))
    return weights[:, 1:-1]


def _mel(hz: Any) -> Any:
    return np.float32(1127.0) * np.log1p(hz / np.float32(700.0))


def _denoised(signal: Ints) -> tuple[Ints, Ints]:
    """Signal less the running estimate of the noise, and that estimate with 10 fractional bits; each (frames, 40)."""
    one = 1 << _SUBTRACTION_BITS
    smoothing = np.resize([int(s * one) for s in _SMOOTHING], CHANNELS)
    noise, estimates = np.zeros(CHANNELS, dtype=np.int64), np.empty_like(signal)
    for i, scaled in enumerate(signal << _NOISE_BITS):
        noise = (scaled * smoothing + noise * (one - smoothing)) >> _SUBTRACTION_BITS
        estimates[i] = noise
    floor = (signal * int(_SIGNAL_LEFT * one)) >> _SUBTRACTION_BITS
    left = np.maximum((signal << _NOISE_BITS) - estimates, 0) >> _NOISE_BITS
    return np.maximum(left, floor), estimates


def _gained(signal: Ints, noise: Ints) -> Ints:
    """Automatic gain control: the signal over (noise + offset) ** strength, small values squared."""
    ratio = (signal * _gain(noise)) >> _SNR_SHIFT
    small = (ratio * ratio) >> (2 + 2 * _SNR_BITS - _GAINED_BITS)
    large = (ratio >> (_SNR_BITS - _GAINED_BITS)) - (1 << _GAINED_BITS)
    return np.where(ratio < (2 << _SNR_BITS), small, large)


def _gain(noise: Ints) -> Ints:
    """(noise + offset) ** -strength by a parabola for each power of two, as the front end's table has it."""
    start, slope, bend = _gain_table()
    interval = _bit_length(noise)
    rest = np.where(interval < 11, noise << np.maximum(11 - interval, 0), noise >> np.maximum(interval - 11, 0)) & 0x3FF
    curve = (((bend[interval] * rest) >> 5) + (slope[interval] << 5)) * rest
    return np.where(noise <= 2, _gain_at(noise), start[interval] + ((curve + (1 << 14)) >> 15))


@cache
def _gain_table() -> tuple[Ints, Ints, Ints]:
    low = np.int64(1) << np.maximum(np.arange(33) - 1, 0)
    high = np.minimum(2 * low, (1 << 32) - 1)
    start = _gain_at(low)
    half, whole = _gain_at(low + (low >> 1)) - start, _gain_at(high) - start
    slope = 4 * half - whole
    return start, slope, whole - slope


def _gain_at(noise: Ints) -> Ints:
    level = noise.astype(np.float32) / np.float32(1 << (_NOISE_BITS - _CORRECTION_BITS)) + np.float32(_GAIN_OFFSET)
    gain = np.float32(1 << _GAIN_BITS) * level ** np.float32(-_GAIN_STRENGTH)
    return np.minimum((gain + np.float32(0.5)).astype(np.int64), _INT16_MAX)


def _logarithm(values: Ints) -> NDArray[np.int32]:
    scaled = values << _CORRECTION_BITS
    whole = np.maximum(_bit_length(scaled) - 1, 0)
    # 16 fractional bits of the logarithm to base 2; the front end's table of 128 straight pieces is this curve.
    rest = np.where(whole < 16, scaled << np.maximum(16 - whole, 0), scaled >> np.maximum(whole - 16, 0)) - (1 << 16)
    piece, table = rest >> 9, _log_table()
    piece = np.clip(piece, 0, 127)
    fraction = rest + table[piece] + (((table[piece + 1] - table[piece]) * (rest - (piece << 9))) >> 16)
    natural = (((whole << 16) + fraction) * _LN2 + (1 << 15)) >> 16
    logarithm = ((natural << _LOG_BITS) + (1 << 15)) >> 16
    return np.where(scaled > 1, np.minimum(logarithm, _INT16_MAX), 0).astype(np.int32)


@cache
def _log_table() -> Ints:
    """What log2(1 + x) is above x, at 129 points, 16 fractional bits."""
    at = np.arange(129) / 128
    return np.rint((np.log2(1 + at) - at) * (1 << 16)).astype(np.int64)


def _bit_length(values: Ints) -> Ints:
    # frexp is exact here: no value needs more than the 53 bits of a float64.
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def _root(values: Ints) -> Ints:
    """Square roots, rounded to the nearest integer."""
    root = np.sqrt(values.astype(np.float64)).astype(np.int64)
    root -= root * root > values
    root += values - root * root > root
    return root


def _real_fft(samples: Ints) -> tuple[Ints, Ints]:
    """Real and imaginary part of the lower half of a 512-point FFT of 16-bit integers, divided by 512.

    Samples in pairs are taken as complex numbers, as in KISS FFT, whose rounding the models were trained with.
    """
    real, imaginary = _fft(samples[:, 0::2], samples[:, 1::2])
    half = _FFT // 2
    mirrored = -np.arange(half + 1) % half
    ends = np.arange(half + 1) % half
    a, b = _over(real[:, ends], 2), _over(imaginary[:, ends], 2)
    c, d = _over(real[:, mirrored], 2), -_over(imaginary[:, mirrored], 2)
    cos, sin = _twiddles(_FFT, np.arange(half + 1) + half // 2)
    even_real, even_imaginary, odd_real, odd_imaginary = a + c, b + d, a - c, b - d
    turned_real, turned_imaginary = _times(odd_real, odd_imaginary, cos, sin)
    return (even_real + turned_real) >> 1, (even_imaginary + turned_imaginary) >> 1


def _fft(real: Ints, imaginary: Ints) -> tuple[Ints, Ints]:
    """An FFT along the last axis, radix 4, divided by 4 at every stage."""
    count = real.shape[-1]
    if count == 1:
        return real, imaginary
    shape = (*real.shape[:-1], count // 4, 4)
    real, imaginary = _fft(real.reshape(shape).swapaxes(-1, -2), imaginary.reshape(shape).swapaxes(-1, -2))
    real, imaginary = _over(real, 4), _over(imaginary, 4)
    cos, sin = _twiddles(count, np.outer(np.arange(1, 4), np.arange(count // 4)))
    real[..., 1:, :], imaginary[..., 1:, :] = _times(real[..., 1:, :], imaginary[..., 1:, :], cos, sin)
    (r0, r1, r2, r3), (i0, i1, i2, i3) = np.moveaxis(real, -2, 0), np.moveaxis(imaginary, -2, 0)
    sum_real, sum_imaginary, odd_real, odd_imaginary = r1 + r3, i1 + i3, r1 - r3, i1 - i3
    parts_real = (r0 + r2 + sum_real, r0 - r2 + odd_imaginary, r0 + r2 - sum_real, r0 - r2 - odd_imaginary)
    parts_imaginary = (i0 + i2 + sum_imaginary, i0 - i2 - odd_real, i0 + i2 - sum_imaginary, i0 - i2 + odd_real)
    return np.concatenate(parts_real, axis=-1), np.concatenate(parts_imaginary, axis=-1)


def _twiddles(count: int, index: NDArray[Any]) -> tuple[Ints, Ints]:
    phase = -2 * np.pi * index / count
    return tuple(np.floor(0.5 + _INT16_MAX * wave(phase)).astype(np.int64) for wave in (np.cos, np.sin))  # type: ignore[return-value]


def _times(real: Ints, imaginary: Ints, cos: Ints, sin: Ints) -> tuple[Ints, Ints]:
    return _rounded(real * cos - imaginary * sin), _rounded(real * sin + imaginary * cos)


def _over(values: Ints, divisor: int) -> Ints:
    return _rounded(values * (_INT16_MAX // divisor))


def _rounded(values: Ints) -> Ints:
    return (values + (1 << 14)) >> 15
