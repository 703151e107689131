"""From a recording to windows of sound, and to what a model takes of each."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.inputs import AudioDeclaration, InputDeclaration
from edge_runtime.contract.quantization import quantize
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.inputs import microfrontend, spectrum
from edge_runtime.inference.inputs.arrays import normalize, one_sample, over_full_range
from edge_runtime.inference.inputs.limits import Limits, Windows, window_starts
from edge_runtime.inference.inputs.resample import resample
from edge_runtime.inference.inputs.wav import Recording

_INT16 = 32768.0
_SILENCE = 1e-9  # a window this quiet is not made loud
_UNHEARD = 20  # a rest shorter than this part of a window gets no window of its own

Floats = NDArray[np.float64]


def from_recording(recording: Recording, spec: TensorSpec, declaration: InputDeclaration, limits: Limits) -> Windows:
    """The windows of a recording.

    Raises:
        CallerError: other channels than declared, or more windows than `limits` allows.
    """
    declared = declaration.sound
    samples = recording.samples
    seconds = len(samples) / recording.sample_rate
    if seconds > limits.max_audio_seconds:
        raise CallerError(
            f"the recording has {seconds:.1f} s, more than {limits.max_audio_seconds:g} (engine.max_audio_seconds)",
            Code.TOO_LARGE,
        )
    _check_memory(math.ceil(seconds * declared.sample_rate) * declared.channels, limits)
    both = mixed(samples, declared.channels)
    channels = [resample(both[:, i], recording.sample_rate, declared.sample_rate) for i in range(declared.channels)]
    return _windows(np.stack(channels, axis=1), spec, declaration, limits)


def from_samples(samples: NDArray[Any], spec: TensorSpec, declaration: InputDeclaration, limits: Limits) -> Windows:
    """The windows of samples at the declared rate, shape (n,) or (n, channels), -1..1 or integers of 16 bits.

    Raises:
        CallerError: no whole samples, integers beyond 16 bits, or more than `limits` allow.
    """
    declared = declaration.sound
    if samples.size > limits.max_audio_seconds * declared.sample_rate * declared.channels:
        raise CallerError(
            f"{samples.size} samples are more than {limits.max_audio_seconds:g} s (engine.max_audio_seconds)",
            Code.TOO_LARGE,
        )
    _check_memory(samples.size, limits)
    if samples.size == 0 or samples.size % declared.channels:
        raise CallerError(f"{samples.size} values are no samples of {declared.channels} channels")
    whole = samples.astype(np.float64).reshape(-1, declared.channels)
    if samples.dtype.kind in "iu":
        if np.abs(whole).max() > _INT16:
            raise CallerError(f"integers are samples of 16 bits, but there is {np.abs(whole).max():.0f}")
        whole /= _INT16
    return _windows(whole, spec, declaration, limits)


def tensor(window: Floats, spec: TensorSpec, declaration: InputDeclaration) -> NDArray[Any]:
    """The input tensor of a window of samples, float64 (window, channels), -1..1, at the declared rate."""
    declared = declaration.sound
    samples = _leveled(window, declared)
    if declared.preemphasis:
        samples[1:] -= declared.preemphasis * samples[:-1]
    if declared.features is None:
        return one_sample(quantize(normalize(samples, declaration), spec), spec)
    if declared.features.type == "micro":
        return _micro(samples, spec, declaration)
    values = normalize(spectrum.features(samples[:, 0], declared.features, declared.sample_rate), declaration)
    ordered = values.T if declared.features.axes == "bins_first" else values
    return one_sample(quantize(ordered, spec), spec)


def _micro(samples: Floats, spec: TensorSpec, declaration: InputDeclaration) -> NDArray[Any]:
    unit = 1.0 if declaration.sound.unit == "int16" else _INT16
    values = microfrontend.features(samples[:, 0] * unit)
    if declaration.full_range:
        return one_sample(over_full_range(microfrontend.stored_as_byte(values), spec), spec)
    return one_sample(quantize(normalize(values / microfrontend.LOG_SCALE, declaration), spec), spec)


def _check_memory(samples: int, limits: Limits) -> None:
    size = samples * np.dtype(np.float64).itemsize
    if size > limits.max_bytes:
        raise CallerError(
            f"the recording takes {size} bytes at the model's rate, more than {limits.max_bytes}"
            " (engine.max_tensor_bytes); send it in parts",
            Code.TOO_LARGE,
        )


def mixed(samples: NDArray[Any], channels: int) -> Floats:
    """Samples (n, found) as (n, channels): one is the mean of all, one alone is repeated; raises CallerError else."""
    found = samples.shape[1]
    if channels == 1:
        return np.asarray(samples.mean(axis=1, dtype=np.float64, keepdims=True))
    if found not in (1, channels):
        raise CallerError(f"the recording has {found} channels, but the model takes {channels}, or 1 for all of them")
    return np.broadcast_to(samples, (len(samples), channels)).astype(np.float64)


def _leveled(window: Floats, declared: AudioDeclaration) -> Floats:
    level = 1.0
    if declared.normalize == "peak":
        level = float(np.abs(window).max())
    elif declared.normalize == "rms":
        level = math.sqrt(float(np.mean(window * window)))
    # The largest sample becomes 32767, not 32768: that is what int16 holds.
    full = (_INT16 - (declared.normalize == "peak")) if declared.unit == "int16" else 1.0
    return window * (full / (level if level > _SILENCE else 1.0))


def _windows(samples: Floats, spec: TensorSpec, declaration: InputDeclaration, limits: Limits) -> Windows:
    declared = declaration.sound
    size = declared.window(spec.shape)
    if declared.longer == "cut" or len(samples) <= size:
        return Windows(({spec.name: tensor(_aligned(samples, size, declared.align), spec, declaration)},))
    starts = window_starts(len(samples), size, declared.hop_samples, spec, limits)
    if len(samples) - (starts[-1] + size) > size // _UNHEARD:
        starts.append(len(samples) - size)
    runs = tuple({spec.name: tensor(samples[start : start + size], spec, declaration)} for start in starts)
    if len(runs) == 1:
        return Windows(runs)
    return Windows(runs, tuple(round(start / declared.sample_rate, 6) for start in starts))


def _aligned(samples: Floats, size: int, align: str) -> Floats:
    """The part of a longer recording, or a shorter one with silence around it."""
    spare = size - len(samples)
    before = {"start": 0, "center": spare // 2, "end": spare}[align]
    if spare <= 0:
        return samples[-before : -before + size]
    return np.pad(samples, ((before, spare - before), (0, 0)))
