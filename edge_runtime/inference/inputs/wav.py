"""A strict, bounded reader of WAV files.

Source: Microsoft/IBM "Multimedia Programming Interface and Data Specifications 1.0" (RIFF, WAVE), and Microsoft's
WAVEFORMATEXTENSIBLE. Chunks have a name of 4 bytes, a size of 4 bytes (little endian), and end on an even byte.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.bounds import MAX_CHANNELS, MAX_SAMPLE_RATE
from edge_runtime.errors import CallerError, Code

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
_NAMES = {2: "ADPCM", 6: "A-law", 7: "mu-law", 0x11: "IMA ADPCM", 0x55: "MP3", 0xFF: "AAC"}
# A format's number, then this, is its GUID.
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_BITS = {PCM: (8, 16, 24, 32), FLOAT: (32, 64)}
_MAX_CHUNKS = 256
_UNKNOWN_SIZE = 0xFFFFFFFF  # written by programs that cannot go back to the start of a pipe


@dataclass(frozen=True, slots=True)
class Recording:
    """Samples of float32 shape (n, channels), -1..1 where the file holds integers, and their rate in Hz."""

    samples: NDArray[np.float32]
    sample_rate: int


@dataclass(frozen=True, slots=True)
class _Format:
    code: int
    channels: int
    sample_rate: int
    bits: int


def is_wav(data: bytes) -> bool:
    """Whether the bytes begin as a WAV file does (RIFF alone may also be WebP or AVI)."""
    return data[:4] in (b"RIFF", b"RIFX", b"RF64") and data[8:12] == b"WAVE"


def read(data: bytes, max_seconds: float) -> Recording:
    """The recording in a WAV file: PCM of 8, 16, 24 or 32 bits, or float of 32 or 64.

    Raises:
        CallerError: broken, of another coding, without samples, not finite, or longer than `max_seconds`.
    """
    if not is_wav(data) or data[:4] != b"RIFF":
        raise CallerError(f"the WAV file begins with {data[:4]!r}, only RIFF is read here", Code.UNSUPPORTED_MEDIA)
    form: _Format | None = None
    for name, start, size in _chunks(data):
        if name == b"fmt ":
            form = _format(data[start : start + size])
        elif name == b"data":
            if form is None:
                raise CallerError("the WAV file has its data before its format")
            return _recording(data, start, size, form, max_seconds)
    raise CallerError(f"the WAV file has no {'samples (no data chunk)' if form else 'format (no fmt chunk)'}")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and size of each chunk."""
    at = 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if name == b"data" and size == _UNKNOWN_SIZE:
            size = len(data) - at
        if at + size > len(data):
            raise CallerError(f"the WAV file is cut off: its {name!r} has {size} bytes, {len(data) - at} are there")
        yield name, at, size
        at += size + size % 2
    raise CallerError(f"the WAV file has more than {_MAX_CHUNKS} chunks")


def _format(chunk: bytes) -> _Format:
    if len(chunk) < 16:
        raise CallerError(f"the WAV file's format has {len(chunk)} bytes, fewer than 16")
    code, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", chunk)
    if code == EXTENSIBLE:
        if len(chunk) < 40 or chunk[26:40] != _GUID_TAIL:
            raise CallerError("the WAV file's extensible format is none that is known", Code.UNSUPPORTED_MEDIA)
        (code,) = struct.unpack_from("<H", chunk, 24)
    if bits not in _BITS.get(code, ()):
        coding = _NAMES.get(code, "PCM" if code == PCM else "float" if code == FLOAT else f"coding {code}")
        raise CallerError(
            f"the WAV file has {bits}-bit {coding}; known are PCM of 8, 16, 24, 32 bits and float of 32 and 64",
            Code.UNSUPPORTED_MEDIA,
        )
    if not 1 <= channels <= MAX_CHANNELS or not 1 <= rate <= MAX_SAMPLE_RATE:
        raise CallerError(
            f"the WAV file has {channels} channels at {rate} Hz; up to {MAX_CHANNELS} at {MAX_SAMPLE_RATE} Hz are taken"
        )
    if block != channels * bits // 8:
        raise CallerError(f"the WAV file says {block} bytes for {channels} samples of {bits} bits")
    return _Format(code, channels, rate, bits)


def _recording(data: bytes, start: int, size: int, form: _Format, max_seconds: float) -> Recording:
    width = form.bits // 8
    count = size // (width * form.channels)  # a last sample that is not whole does not count
    if not count:
        raise CallerError("the WAV file has no samples")
    if count > max_seconds * form.sample_rate:
        raise CallerError(
            f"the recording has {count / form.sample_rate:.1f} s, more than {max_seconds:g} (engine.max_audio_seconds)",
            Code.TOO_LARGE,
        )
    raw = np.frombuffer(data, np.uint8, count * form.channels * width, start)
    samples = _samples(raw, form).reshape(count, form.channels)
    if form.code == FLOAT and not np.isfinite(samples).all():
        raise CallerError("the WAV file has samples that are not finite (NaN or infinity)")
    return Recording(samples, form.sample_rate)


def _samples(raw: NDArray[np.uint8], form: _Format) -> NDArray[np.float32]:
    if form.code == FLOAT:
        with np.errstate(over="ignore"):  # what is too large for float32 is refused as not finite
            return raw.view(f"<f{form.bits // 8}").astype(np.float32)
    if form.bits == 8:  # the only one without a sign
        return (raw.astype(np.float32) - np.float32(128)) / np.float32(128)
    if form.bits == 24:
        wide = np.zeros((raw.size // 3, 4), dtype=np.uint8)
        wide[:, 1:] = raw.reshape(-1, 3)
        return wide.view("<i4").reshape(-1).astype(np.float32) / np.float32(2**31)
    return raw.view(f"<i{form.bits // 8}").astype(np.float32) / np.float32(2 ** (form.bits - 1))
