"""WAV files: whatever is legal is read, anything else is refused with its reason, nothing else happens."""

import io
import struct
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.inputs import wav

GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
BITS = st.sampled_from([(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)])
NOISE = st.builds(bytes, st.lists(st.integers(0, 255), min_size=0, max_size=400))


def chunk(name: bytes, body: bytes) -> bytes:
    """A RIFF chunk, padded to an even length."""
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def wav_file(
    body: bytes, code: int = 1, bits: int = 16, channels: int = 1, rate: int = 16_000, *, extensible: bool = False
) -> bytes:
    """A WAV file around raw sample bytes, with a chunk that nobody knows before and after the format."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", 0xFFFE if extensible else code, channels, rate, rate * block, block, bits)
    if extensible:
        form += struct.pack("<HHI", 22, bits, 0) + struct.pack("<H", code) + GUID_TAIL
    chunks = chunk(b"LIST", b"odd") + chunk(b"fmt ", form) + chunk(b"fact", b"1234") + chunk(b"data", body)
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks


def encoded(values: NDArray[np.float64], code: int, bits: int) -> bytes:
    """Values -1..1 as the format stores them."""
    if code == 3:
        return values.astype(f"<f{bits // 8}").tobytes()
    whole = np.clip(np.rint(values * 2 ** (bits - 1)), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int64)
    if bits == 8:
        return (whole + 128).astype(np.uint8).tobytes()
    return b"".join(int(v).to_bytes(bits // 8, "little", signed=True) for v in whole)


@given(BITS, st.integers(1, 8), st.integers(1, 50), st.integers(1, 384_000), st.booleans())
def test_every_format_comes_back(
    form: tuple[int, int], channels: int, count: int, rate: int, extensible: object
) -> None:
    """Samples of any width and number of channels are read as written, within half a step."""
    code, bits = form
    values = np.random.default_rng(count * 31 + rate).uniform(-1, 1, count * channels)
    data = wav_file(encoded(values, code, bits), code, bits, channels, rate, extensible=bool(extensible))
    found = wav.read(data, 1e6)
    assert found.sample_rate == rate
    assert found.samples.shape == (count, channels)
    assert found.samples.dtype == np.float32
    np.testing.assert_allclose(found.samples.reshape(-1), values, atol=1.0 / 2 ** (bits - 1) if code == 1 else 1e-7)


@given(st.sampled_from([1, 2, 3, 4]), st.integers(1, 4), st.integers(1, 100))
def test_the_standard_librarys_writer_agrees(width: int, channels: int, count: int) -> None:
    """A peer: what `wave` writes is what is read here, sample by sample."""
    values = np.random.default_rng(count).uniform(-1, 1, count * channels)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(44_100)
        writer.writeframes(encoded(values, 1, width * 8))
    found = wav.read(buffer.getvalue(), 10)
    np.testing.assert_allclose(found.samples.reshape(-1), values, atol=1 / 2 ** (width * 8 - 1))


@given(BITS, NOISE, st.integers(0, 500), st.integers(0, 2**32 - 1))
def test_no_bytes_do_anything_but_work_or_be_refused(
    form: tuple[int, int], noise: bytes, cut: int, overwritten: int
) -> None:
    """Cut anywhere, with any four bytes of the head overwritten: CallerError is the only exception."""
    data = bytearray(wav_file(noise, *form))
    at = 12 + cut % 60
    data[at : at + 4] = struct.pack("<I", overwritten)
    for broken in (bytes(data), bytes(data[:cut]), b"RIFF" + noise, b"RIFF\0\0\0\0WAVE" + noise):
        try:
            found = wav.read(broken, 60)
        except CallerError:
            continue
        assert np.isfinite(found.samples).all()
        assert found.samples.size <= len(broken)


@pytest.mark.parametrize(
    ("data", "message", "code"),
    [
        (wav_file(b"\0\0" * 16_001), "1.0 s, more than 1", Code.TOO_LARGE),
        (wav_file(b"\0" * 8, 7, 8), "8-bit mu-law", Code.UNSUPPORTED_MEDIA),
        (wav_file(b"\0" * 8, 0x55, 0), "MP3", Code.UNSUPPORTED_MEDIA),
        (wav_file(b"\0" * 8, 1, 12), "12-bit PCM", Code.UNSUPPORTED_MEDIA),
        (wav_file(b"\0\0", channels=65), "65 channels", Code.INVALID_INPUT),
        (wav_file(b"\0\0", rate=500_000), "500000 Hz", Code.INVALID_INPUT),
        (wav_file(b""), "no samples", Code.INVALID_INPUT),
        (wav_file(b"\0"), "no samples", Code.INVALID_INPUT),
        (wav_file(b"\0\0")[:24], "no format", Code.INVALID_INPUT),
        (wav_file(b"\0\0" * 9)[:-3], "cut off", Code.INVALID_INPUT),
        (wav_file(struct.pack("<f", float("nan")), 3, 32), "not finite", Code.INVALID_INPUT),
        (wav_file(struct.pack("<d", 1e300), 3, 64), "not finite", Code.INVALID_INPUT),
        (b"RIFX" + wav_file(b"\0\0")[4:], "only RIFF", Code.UNSUPPORTED_MEDIA),
        (b"RIFF\0\0\0\0WAVE" + chunk(b"data", b"12"), "data before its format", Code.INVALID_INPUT),
        (b"RIFF\0\0\0\0WAVE" + chunk(b"fmt ", b"1234"), "fewer than 16", Code.INVALID_INPUT),
        (b"RIFF\0\0\0\0WAVE" + chunk(b"x   ", b"") * 300, "more than 256 chunks", Code.INVALID_INPUT),
    ],
)
def test_what_is_refused_and_why(data: bytes, message: str, code: Code) -> None:
    """The message says what is wrong."""
    with pytest.raises(CallerError, match=message) as caught:
        wav.read(data, 1.0)
    assert caught.value.code is code


def test_a_pipe_that_never_knew_its_length_is_read_to_its_end() -> None:
    """Programs that write to a pipe leave 0xFFFFFFFF where the sizes belong."""
    data = bytearray(wav_file(b"\0\1" * 10))
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    assert len(wav.read(bytes(data), 1).samples) == 10


def test_riff_alone_is_no_wav() -> None:
    """WebP pictures and AVI films are RIFF, too."""
    assert wav.is_wav(wav_file(b"\0\0"))
    assert not wav.is_wav(b"RIFF\0\0\0\0WEBPVP8 ")
    assert not wav.is_wav(b"RIFF\0\0\0\0AVI LIST")
