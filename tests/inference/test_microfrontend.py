"""The fixed-point front end of TensorFlow Lite Micro, against the features that its own code made."""

import io
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import require_shared

from edge_runtime.inference.inputs import microfrontend


@pytest.mark.parametrize("name", ["yes", "no", "noise", "silence"])
def test_every_feature_is_the_one_that_the_microcontrollers_code_makes(name: str) -> None:
    """All 49 x 40 bytes are equal, not only near: the arithmetic is the same."""
    with wave.open(io.BytesIO(require_shared(f"data/speech/{name}_1000ms.wav").read_bytes())) as recording:
        samples = np.frombuffer(recording.readframes(recording.getnframes()), "<i2")
    expected = np.load(require_shared(f"data/speech/micro_speech_{name}_1000ms.npy"))
    found = microfrontend.stored_as_byte(microfrontend.features(samples)) - 128
    np.testing.assert_array_equal(found, expected)


@given(st.integers(0, 4000), st.sampled_from([1.0, 100.0, 32767.0, 1e9]))
def test_any_sound_gives_features_in_their_range(count: int, loudness: float) -> None:
    """As many frames as fit; louder than 16 bits is clipped; nothing overflows."""
    samples = np.random.default_rng(count).uniform(-1, 1, count) * loudness
    found = microfrontend.features(samples)
    assert found.shape == (max(0, 1 + (count - 480) // 320), 40)
    assert not found.size or (found.min() >= 0 and found.max() <= 1000)


def test_a_tone_is_found_in_its_channel() -> None:
    """1 kHz lies in the 16th of 40 mel channels from 125 to 7500 Hz."""
    tone = 8000 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    mel = [1127 * np.log1p(hz / 700) for hz in (125, 1000, 7500)]
    expected = round((mel[1] - mel[0]) / (mel[2] - mel[0]) * 41) - 1
    assert microfrontend.features(tone)[0].argmax() == expected
