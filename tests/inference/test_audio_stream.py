"""A stream of samples gives the windows that the whole recording gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.contract.inputs import AudioDeclaration, FeatureDeclaration, InputDeclaration
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError
from edge_runtime.inference.inputs.audio import from_recording
from edge_runtime.inference.inputs.limits import Limits
from edge_runtime.inference.inputs.stream import AudioStream
from edge_runtime.inference.inputs.wav import Recording

SPEC = TensorSpec("sound", "FP32", (1, 400))


@given(st.sampled_from([8000, 16_000, 44_100]), st.sampled_from([0, 100, 900]), st.lists(st.integers(0, 9000)))
@settings(deadline=None, max_examples=50)
def test_any_cutting_gives_the_windows_of_the_whole(rate: int, hop: int, cuts: list[int]) -> None:
    """As far as they have come out: the resampler waits for samples after the last one."""
    samples = np.random.default_rng(0).uniform(-1, 1, 9000).astype(np.float32)
    declared = InputDeclaration("audio", audio=AudioDeclaration(hop_samples=hop))
    whole = from_recording(Recording(samples[:, None], rate), SPEC, declared, Limits(max_windows=1000))
    stream = AudioStream(SPEC, declared, rate)
    heard = [window for piece in np.split(samples, sorted(cuts)) for window in stream.feed(piece)]
    assert 0 <= len(whole.runs) - len(heard) <= 2 + (50 // hop if hop else 0)
    for window, start, run in zip(heard, whole.starts, whole.runs, strict=False):
        assert window.start_seconds == start
        np.testing.assert_allclose(window.tensor, run["sound"], atol=1e-6)


def test_features_and_channels_as_of_a_recording() -> None:
    """Stereo is mixed; nothing grows, however long it goes on."""
    spec = TensorSpec("words", "INT8", (1, 1960), 0.1, -128)
    declared = InputDeclaration("audio", audio=AudioDeclaration(features=FeatureDeclaration("micro")))
    stream = AudioStream(spec, declared, 16_000)
    heard = [window for _ in range(40) for window in stream.feed(np.zeros((1600, 2)))]
    assert [window.start_seconds for window in heard] == [0.0, 0.99, 1.98, 2.97]
    assert heard[0].tensor.shape == (1, 1960)
    assert len(stream._held) < 15_840 + 1600
    with pytest.raises(CallerError, match="3 channels"):
        AudioStream(
            TensorSpec("s", "FP32", (1, 8, 2)), InputDeclaration("audio", audio=AudioDeclaration(channels=2)), 8000
        ).feed(np.zeros((4, 3)))
