"""From recordings to what models of sound take, against the libraries they were trained with."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from peers import require_library, require_shared
from test_wav import encoded, wav_file

from edge_runtime.contract.inputs import AudioDeclaration, FeatureDeclaration, InputDeclaration
from edge_runtime.contract.quantization import dequantize
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference import engine as engines
from edge_runtime.inference import preprocess
from edge_runtime.inference.inputs import resample, spectrum

WAVEFORM = TensorSpec("sound", "FP32", (1, 1600))
WORDS = TensorSpec("words", "INT8", (1, 1960), 0.10171568393707275, -128)
MICRO = InputDeclaration("audio", full_range=True, audio=AudioDeclaration(features=FeatureDeclaration("micro")))
# What MLPerf Tiny's keyword spotting is trained on: TensorFlow's tf.signal with these numbers.
KEYWORDS = FeatureDeclaration(
    "mfcc",
    frame_samples=480,
    hop_samples=320,
    power=1.0,
    mel_bins=40,
    low_hz=20.0,
    high_hz=4000.0,
    mel_triangles="mel",
    log_offset=1e-6,
    log_floor=0.0,
    coefficients=10,
    dct="htk",
)
RATES = [8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]


def chirp() -> NDArray[np.float64]:
    """One second at 16 kHz: a tone that rises from 100 to 3100 Hz, and a weaker one of 440 Hz."""
    t = np.arange(16_000) / 16_000
    return np.asarray(0.5 * np.sin(2 * np.pi * (100 * t + 1500 * t * t)) + 0.1 * np.sin(2 * np.pi * 440 * t))


def recording(samples: NDArray[np.float64], rate: int = 16_000, channels: int = 1) -> bytes:
    """A 16-bit WAV file."""
    return wav_file(encoded(samples, 1, 16), 1, 16, channels, rate)


def audio(**declared: object) -> InputDeclaration:
    """A declaration of sound."""
    return InputDeclaration("audio", audio=AudioDeclaration(**declared))  # type: ignore[arg-type]


def test_mfcc_are_those_of_tensorflow() -> None:
    """Numbers of tf.signal (stft, linear_to_mel_weight_matrix, mfccs_from_log_mel_spectrograms) in TensorFlow 2.21."""
    found = spectrum.features(chirp(), KEYWORDS, 16_000)
    assert found.shape == (49, 10)
    first = [-40.392, 25.538, 7.3337, 1.937, -1.8437, -1.2927, 0.068134, 1.7379, 1.5676, 0.15971]
    middle = [-32.125, 5.7718, -9.8312, 5.4475, -7.5477, -11.219, 2.2572, 4.7948, -1.0434, 2.8931]
    last = [-36.359, -0.35567, 10.576, -10.736, -7.7959, -2.0046, -4.7075, 6.6401, -1.6166, 5.9267]
    # In single precision, as there, where hardly any energy is, the logarithm makes 0.005 of its rounding.
    np.testing.assert_allclose(found[[0, 24, 48]], [first, middle, last], atol=1e-2)


def test_spectrogram_and_mel_are_those_of_tensorflow() -> None:
    """As above, before the logarithm."""
    plain = {"frame_samples": 480, "hop_samples": 320, "power": 1.0, "log": "none"}
    found = spectrum.features(chirp(), FeatureDeclaration("spectrogram", **plain), 16_000)  # type: ignore[arg-type]
    assert found.shape == (49, 257)
    np.testing.assert_allclose(found[24][46:52], [0.3923, 1.0404, 3.4984, 13.557, 43.714, 54.706], rtol=1e-3)
    mel = FeatureDeclaration("log_mel", low_hz=20.0, high_hz=4000.0, mel_triangles="mel", **plain)  # type: ignore[arg-type]
    expected = [0.0022795, 0.0033283, 0.0058093, 0.0082806, 0.01274, 0.025693, 0.041047, 0.098728]
    np.testing.assert_allclose(spectrum.features(chirp(), mel, 16_000)[24][:8], expected, rtol=2e-2)


def test_both_mel_scales_have_their_known_points() -> None:
    """HTK: 1000 Hz is 1000 mel. Slaney: 1000 Hz is 15, 6400 Hz is 42; both ways."""
    assert spectrum._to_mel(np.array(1000.0), "htk") == pytest.approx(1000, abs=0.02)
    np.testing.assert_allclose(spectrum._to_mel(np.array([200.0, 1000.0, 6400.0]), "slaney"), [3, 15, 42])
    hz = np.linspace(0, 8000, 100)
    for scale in ("htk", "slaney"):
        np.testing.assert_allclose(spectrum._to_hz(spectrum._to_mel(hz, scale), scale), hz, atol=1e-6)


def test_slaneys_filters_have_equal_area() -> None:
    """Each one's sum times the width of a bin is 1, as far as bins can tell."""
    declared = FeatureDeclaration(
        "log_mel", frame_samples=4096, mel_bins=20, mel_scale="slaney", mel_norm="slaney", high_hz=8000.0
    )
    filters = spectrum._mel_filters(declared, 16_000)
    np.testing.assert_allclose(filters.sum(axis=0) * 16_000 / 4096, 1.0, rtol=0.01)


def test_dct_and_spectrogram_are_those_of_scipy() -> None:
    """A peer for the orthonormal DCT, the windows and the framing with zeros around."""
    require_library("scipy", "scipy")
    from scipy import fft, signal  # noqa: PLC0415

    values = np.random.default_rng(0).normal(size=(5, 26))
    np.testing.assert_allclose(values @ spectrum._dct(26, 26, "ortho"), fft.dct(values, norm="ortho"), atol=1e-12)
    for window in ("hann", "hamming"):
        for symmetric in (False, True):
            declared = FeatureDeclaration(
                "spectrogram",
                frame_samples=256,
                hop_samples=64,
                window=window,
                symmetric=symmetric,
                power=1.0,
                log="none",
            )  # type: ignore[arg-type]
            shape = signal.get_window(window, 256, fftbins=not symmetric)
            expected = signal.stft(
                chirp(), window=shape, nperseg=256, noverlap=192, boundary=None, padded=False, scaling="spectrum"
            )[2]
            found = spectrum.features(chirp(), declared, 16_000)
            np.testing.assert_allclose(found, np.abs(expected.T) * shape.sum(), atol=1e-9)


@given(st.integers(2, 600), st.integers(1, 300), st.sampled_from(["none", "zero", "reflect"]), st.integers(600, 3000))
def test_a_window_has_the_frames_that_were_promised(frame: int, hop: int, center: str, samples: int) -> None:
    """The contract counts frames without computing them; both must agree."""
    declared = FeatureDeclaration("spectrogram", frame_samples=frame, hop_samples=hop, center=center)  # type: ignore[arg-type]
    found = spectrum.features(np.random.default_rng(0).normal(size=samples), declared, 16_000)
    assert found.shape == (declared.frames(samples), declared.bins)
    assert declared.frames(declared.samples(found.shape[0])) == found.shape[0]
    assert declared.samples(found.shape[0]) <= samples


@given(st.sampled_from(RATES), st.sampled_from(RATES), st.lists(st.integers(0, 3000), max_size=8))
@settings(deadline=None)
def test_any_cutting_of_a_stream_gives_the_same_samples(source: int, target: int, cuts: list[int]) -> None:
    """Resampling piece by piece, pieces of no samples included."""
    samples = np.random.default_rng(1).normal(size=3000)
    resampler = resample.Resampler(source, target)
    pieces = [resampler.feed(piece) for piece in np.split(samples, sorted(cuts))]
    whole = resample.resample(samples, source, target)
    assert len(whole) == -(-3000 * target // source)
    np.testing.assert_allclose(np.concatenate([*pieces, resampler.flush()]), whole, atol=1e-12)


@pytest.mark.parametrize("source", [8000, 44_100, 48_000, 44_101])
def test_what_both_rates_can_hold_stays_and_the_rest_goes(source: int) -> None:
    """A tone of 1 kHz comes through to 1e-4, one above half the lower rate is gone (80 dB)."""
    t, after = np.arange(source) / source, np.arange(16_000) / 16_000
    middle = slice(2000, 14_000)
    kept = resample.resample(np.sin(2 * np.pi * 1000 * t), source, 16_000)
    np.testing.assert_allclose(kept[middle], np.sin(2 * np.pi * 1000 * after)[middle], atol=1e-4)
    if source > 16_000:
        gone = resample.resample(np.sin(2 * np.pi * 8600 * t), source, 16_000)
        assert np.abs(gone[middle]).max() < 1e-4


def test_resampling_agrees_with_a_peer() -> None:
    """Scipy's polyphase filter differs in its filter only: a few parts in a thousand of a signal within the band."""
    require_library("scipy", "scipy")
    from scipy import signal  # noqa: PLC0415

    found = resample.resample(chirp(), 16_000, 44_100)
    expected = signal.resample_poly(chirp(), 441, 160)
    assert np.abs(found - expected)[500:-500].max() < 5e-3


def test_speech_gives_its_own_word() -> None:
    """A WAV file through the front end and the model, as in tflite-micro's own test; stereo at 48 kHz, too."""
    session = engines.choose().open(require_shared("models/audio/micro_speech_quantized.tflite"), "builtin", 1)
    (spec,), (output,) = session.inputs, session.outputs
    for name, word, score in (("yes", 2, 0.996), ("no", 3, 0.945), ("noise", 0, 0.969)):
        data = require_shared(f"data/speech/{name}_1000ms.wav").read_bytes()
        tensor = preprocess.to_tensor(data, "audio/wav", spec, MICRO)
        scores = dequantize(session.run({spec.name: tensor})[output.name], output)[0]
        assert scores.argmax() == word
        assert scores[word] == pytest.approx(score, abs=0.002)
        if name != "noise":
            mono = np.frombuffer(data[44:], "<i2") / 32768
            wide = np.repeat(resample.resample(mono, 16_000, 48_000), 2)
            again = preprocess.to_tensor(recording(wide, 48_000, 2), "", spec, MICRO)
            scores = dequantize(session.run({spec.name: again})[output.name], output)[0]
            assert scores.argmax() == word


def test_features_that_are_there_already_are_taken_as_they_are() -> None:
    """An .npy of the stored dtype and size needs no front end."""
    features = np.arange(1960, dtype=np.int64).reshape(49, 40) % 256 - 128
    buffer = io.BytesIO()
    np.save(buffer, features.astype(np.int8))
    found = preprocess.to_tensor(buffer.getvalue(), "", WORDS, MICRO)
    np.testing.assert_array_equal(found.reshape(49, 40), features)


def test_a_longer_recording_gives_a_window_every_hop() -> None:
    """And one more that ends with the recording, unless hardly anything is left."""
    samples = np.arange(4000) / 8000
    windows = preprocess.prepare(recording(samples), "", (WAVEFORM,), audio(hop_samples=800))
    assert windows.starts == (0.0, 0.05, 0.1, 0.15)
    np.testing.assert_allclose(windows.runs[1]["sound"][0], samples[800:2400], atol=1e-4)
    rest = preprocess.prepare(recording(samples), "", (WAVEFORM,), audio())
    assert rest.starts == (0.0, 0.1, 0.15)
    assert preprocess.prepare(recording(samples[:1680]), "", (WAVEFORM,), audio()).starts == ()


@pytest.mark.parametrize(
    ("align", "short", "long"),
    [("start", (0, 1000), (0, 1600)), ("center", (300, 1300), (200, 1800)), ("end", (600, 1600), (400, 2000))],
)
def test_cut_and_filled_up_as_declared(align: str, short: tuple[int, int], long: tuple[int, int]) -> None:
    """Silence is put around a short recording, and parts of a long one are left out, on the declared side."""
    samples = (1 + np.arange(2000)) / 4000
    found = preprocess.to_tensor(recording(samples[:1000]), "", WAVEFORM, audio(align=align))[0]
    assert np.flatnonzero(found)[[0, -1]].tolist() == [short[0], short[1] - 1]
    found = preprocess.to_tensor(recording(samples), "", WAVEFORM, audio(align=align, longer="cut"))[0]
    np.testing.assert_allclose(found, samples[slice(*long)], atol=1e-4)


def test_levels() -> None:
    """Unit or int16, as it is or by its peak or its power; silence stays silent."""
    quiet = recording(0.25 * np.sin(np.arange(1600)))
    tensor = preprocess.to_tensor
    assert np.abs(tensor(quiet, "", WAVEFORM, audio())).max() == pytest.approx(0.25, abs=1e-4)
    assert np.abs(tensor(quiet, "", WAVEFORM, audio(unit="int16"))).max() == pytest.approx(8192, abs=1)
    assert np.abs(tensor(quiet, "", WAVEFORM, audio(normalize="peak"))).max() == pytest.approx(1)
    assert np.abs(tensor(quiet, "", WAVEFORM, audio(normalize="peak", unit="int16"))).max() == pytest.approx(32767)
    assert np.sqrt(np.mean(tensor(quiet, "", WAVEFORM, audio(normalize="rms")) ** 2)) == pytest.approx(1)
    assert not tensor(recording(np.zeros(1600)), "", WAVEFORM, audio(normalize="rms")).any()
    emphasized = tensor(recording(np.full(1600, 0.5)), "", WAVEFORM, audio(preemphasis=0.97))[0]
    np.testing.assert_allclose(emphasized[:3], [0.5, 0.015, 0.015], atol=1e-6)


def test_channels_are_mixed_or_kept() -> None:
    """Mono is the mean; a model of two channels gets two, from mono twice the same."""
    stereo = recording(np.tile([0.5, -0.25], 1600), channels=2)
    np.testing.assert_allclose(preprocess.to_tensor(stereo, "", WAVEFORM, audio()), 0.125, atol=1e-4)
    spec = TensorSpec("sound", "FP32", (1, 1600, 2))
    np.testing.assert_allclose(preprocess.to_tensor(stereo, "", spec, audio(channels=2))[0, 7], [0.5, -0.25], atol=1e-4)
    mono = preprocess.to_tensor(recording(np.full(1600, 0.5)), "", spec, audio(channels=2))
    np.testing.assert_allclose(mono[0, 7], [0.5, 0.5])
    with pytest.raises(CallerError, match="3 channels, but the model takes 2"):
        preprocess.to_tensor(recording(np.zeros(4800), channels=3), "", spec, audio(channels=2))


def test_an_input_of_open_length_takes_the_declared_window() -> None:
    """Models that take any number of samples say so with an open dimension."""
    for shape in ((-1,), (1, -1), (-1, -1)):
        spec = TensorSpec("sound", "FP32", shape)
        found = preprocess.to_tensor(recording(np.zeros(800)), "", spec, audio(window_samples=1000))
        assert found.shape == (1000,) if len(shape) == 1 else (1, 1000)


@pytest.mark.parametrize(
    ("data", "kind", "declared", "limits", "message", "code"),
    [
        (recording(np.zeros(10)), "", None, preprocess.Limits(), "--input audio", Code.UNSUPPORTED_MEDIA),
        (b"ID3 an mp3", "audio/mpeg", audio(), preprocess.Limits(), "taken as WAV", Code.UNSUPPORTED_MEDIA),
        (recording(np.zeros(9999)), "", audio(hop_samples=1), preprocess.Limits(), "more than 64", Code.TOO_LARGE),
        (
            recording(np.zeros(9999)),
            "",
            audio(),
            preprocess.Limits(max_audio_seconds=0.5),
            "0.6 s, more than 0.5",
            Code.TOO_LARGE,
        ),
        (
            recording(np.zeros(9999)),
            "",
            audio(hop_samples=400),
            preprocess.Limits(max_bytes=200_000),
            "more than 15",
            Code.TOO_LARGE,
        ),
        (
            recording(np.zeros(400), 100),
            "",
            audio(),
            preprocess.Limits(max_bytes=400_000),
            "512000 bytes at the model's rate",
            Code.TOO_LARGE,
        ),
    ],
)
def test_refusals(
    data: bytes,
    kind: str,
    declared: InputDeclaration | None,
    limits: preprocess.Limits,
    message: str,
    code: Code,
) -> None:
    """What a model does not take, and what would be too much work."""
    with pytest.raises(CallerError, match=message) as caught:
        preprocess.prepare(data, kind, (WAVEFORM,), declared, limits)
    assert caught.value.code is code


def test_arrays_are_samples_at_the_declared_rate() -> None:
    """Numbers with a point are -1..1, integers have 16 bits: JSON, .npy and what a pipeline reads."""
    expected = np.linspace(-0.5, 0.5, 1600)
    whole = np.rint(expected * 32768)
    for samples in (expected, whole.astype(np.int16), whole.astype(np.int64)):
        found = preprocess.to_tensor(samples, "", WAVEFORM, audio())
        np.testing.assert_allclose(found[0], expected, atol=1e-4)
    found = preprocess.to_tensor(json.dumps(whole.astype(int).tolist()).encode(), "", WAVEFORM, audio())
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    with pytest.raises(CallerError, match="16 bits, but there is 40000"):
        preprocess.to_tensor(np.array([40_000]), "", WAVEFORM, audio())
    with pytest.raises(CallerError, match="not finite"):
        preprocess.to_tensor(np.array([np.nan]), "", WAVEFORM, audio())
