"""What can be declared of an input, and what is refused when the manifest is parsed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract import inputs, strict
from edge_runtime.contract import manifest as manifests
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.inputs import AudioDeclaration, FeatureDeclaration, InputDeclaration, SeriesDeclaration
from edge_runtime.contract.manifest import Manifest

AUDIO = InputDeclaration(
    "audio",
    mean=(1.0, 2.0),
    audio=AudioDeclaration(
        sample_rate=22_050, hop_samples=100, features=FeatureDeclaration("mfcc", coefficients=2, high_hz=8000.0)
    ),
)
SERIES = InputDeclaration(
    "series",
    series=SeriesDeclaration(
        window_samples=64,
        sample_rate=64.0,
        columns=("x", "y"),
        features=("rms", "band:0.5-3"),
        minimum=(0,),
        maximum=(9,),
    ),
)
IMAGE = InputDeclaration("image", "fit", "GRAY", interpolation="area", background=(1, 2, 3), layout="NCHW", exif=False)


@pytest.mark.parametrize("declared", [AUDIO, SERIES, IMAGE, InputDeclaration("audio"), InputDeclaration("series")])
def test_declarations_survive_the_manifest(declared: InputDeclaration) -> None:
    """Through canonical bytes and back; what is the default is not in them."""
    manifest = Manifest("m", "1.0.0", {}, input=declared)
    assert manifests.parse(manifest.canonical()).input == declared
    assert strict.decode(InputDeclaration, strict.encode(declared)) == declared
    assert json.loads(Manifest("m", "1.0.0", {}, input=InputDeclaration("audio")).canonical())["input"] == {
        "kind": "audio"
    }


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"kind": "video"}, "input.kind must be one of"),
        ({"kind": "image", "resize": "zoom"}, "input.resize must be one of"),
        ({"kind": "image", "crop_fraction": 0}, "input: crop_fraction must be 0.01 to 1"),
        ({"kind": "image", "crop_fraction": 0.5, "resize": "fit"}, "crop_fraction has no meaning"),
        ({"kind": "image", "interpolation": "area", "antialias": False}, 'interpolation "area" is only known'),
        ({"kind": "image", "background": [1, 2]}, "background must be one or three"),
        ({"kind": "image", "background": [256]}, "background must be one or three"),
        ({"kind": "image", "audio": {}}, 'audio is given, but kind is "image"'),
        ({"series": {}}, 'series is given, but kind is "tensor"'),
        ({"kind": "audio", "full_range": True}, "full_range has no meaning"),
        ({"kind": "audio", "audio": {"sample_rate": 10}}, "input.audio: sample_rate must be 100 to 384000"),
        ({"kind": "audio", "audio": {"sample_rate": 16000.0}}, "input.audio.sample_rate must be a whole number"),
        ({"kind": "audio", "audio": {"window_samples": 10**9}}, "window_samples must be 0 to"),
        ({"kind": "audio", "audio": {"preemphasis": 2}}, "preemphasis must be 0 to 1"),
        ({"kind": "audio", "audio": {"features": {}}}, "'input.audio.features.type' is missing"),
        (
            {"kind": "audio", "audio": {"features": {"type": "mfcc", "bins": 1}}},
            "unknown key 'input.audio.features.bins'",
        ),
        ({"kind": "audio", "audio": {"features": {"type": "mfcc", "frame_samples": 1}}}, "frame_samples must be 2 to"),
        (
            {"kind": "audio", "audio": {"features": {"type": "mfcc", "coefficients": 41}}},
            "coefficients must be 1 to 40",
        ),
        ({"kind": "audio", "audio": {"features": {"type": "mfcc", "fft_samples": 256}}}, "less than a frame"),
        ({"kind": "audio", "audio": {"features": {"type": "mfcc", "power": 3}}}, "power must be 1 or 2"),
        ({"kind": "audio", "audio": {"features": {"type": "mfcc", "log_floor": 0}}}, "silence has no log"),
        ({"kind": "audio", "audio": {"features": {"type": "mfcc", "low_hz": 9, "high_hz": 8}}}, "above low_hz"),
        ({"kind": "audio", "audio": {"features": {"type": "log_mel", "high_hz": 9000}}}, "half the sample_rate"),
        ({"kind": "audio", "audio": {"sample_rate": 8000, "features": {"type": "micro"}}}, "sample_rate of 16000"),
        ({"kind": "audio", "audio": {"channels": 2, "features": {"type": "micro"}}}, "of one channel"),
        ({"kind": "series", "series": {"features": ["mode"]}}, "no feature 'mode'"),
        ({"kind": "series", "series": {"features": ["mean"]}}, "features need window_samples"),
        ({"kind": "series", "series": {"features": ["band:1-2"]}}, "needs sample_rate"),
        ({"kind": "series", "series": {"features": ["dominant_hz"]}}, "needs sample_rate"),
        ({"kind": "series", "series": {"features": ["band:2-1"], "sample_rate": 9}}, "above the first"),
        ({"kind": "series", "series": {"minimum": [0]}}, "given together"),
        ({"kind": "series", "series": {"minimum": [0, 1], "maximum": [1, 1]}}, "must be above minimum"),
        ({"kind": "series", "series": {"minimum": [0, 1], "maximum": [1, 2, 3]}}, "different numbers"),
        ({"kind": "series", "series": {"columns": ["x", "x"]}}, "same name twice"),
        ({"kind": "series", "series": {"columns": ["x"], "channels": 2}}, "channels is 2, but there are 1 columns"),
        ({"kind": "series", "series": {"channels": 65}}, "channels must be 0 to 64"),
    ],
)
def test_each_rule_is_told_with_its_key(said: dict[str, Any], message: str) -> None:
    """When a bundle is parsed, long before a model is run."""
    with pytest.raises(ContractError, match=message):
        strict.decode(Manifest, {"name": "m", "version": "1.0.0", "files": {}, "input": said})


@pytest.mark.parametrize(
    ("declared", "shape", "message"),
    [
        (InputDeclaration("image"), (1, 10), "model takes"),
        (InputDeclaration("image", mean=(1.0, 2.0)), (1, 3, 8, 8), "mean has 2 values, but the input has 3"),
        (InputDeclaration("image", layout="NCHW"), (1, 8, 8, 3), "model takes"),
        (AUDIO, (1, 99, 3), "2 values a frame"),
        (InputDeclaration("audio", audio=AudioDeclaration(window_samples=9)), (1, 10), "9 samples gives 9 values"),
        (InputDeclaration("audio", std=(1.0, 2.0)), (1, 10), "std has 2 values, but the input has 1"),
        (SERIES, (1, 5), "2 features of 2 channels give 4 values"),
        (InputDeclaration("series", series=SeriesDeclaration(channels=3)), (1, 10), "3 readings of 3 channels"),
        (
            InputDeclaration("series", series=SeriesDeclaration(channels=2, minimum=(0, 0, 0), maximum=(1, 1, 1))),
            (1, 8),
            "minimum has 3 values for 2 channels",
        ),
    ],
)
def test_what_does_not_fill_the_input_is_refused(
    declared: InputDeclaration, shape: tuple[int, ...], message: str
) -> None:
    """With the numbers of both sides."""
    with pytest.raises(ContractError, match=message):
        inputs.check_fits(declared, shape)


@pytest.mark.parametrize(
    ("declared", "shape"),
    [
        (InputDeclaration("image", mean=(1.0, 2.0, 3.0)), (-1, 3, 8, 8)),
        (InputDeclaration("image"), (1, 28, 28)),
        (AUDIO, (1, 98, 2)),
        (InputDeclaration("audio"), (1, 16_000)),
        (InputDeclaration("audio", audio=AudioDeclaration(window_samples=15_600)), (-1,)),
        (InputDeclaration("audio", audio=AudioDeclaration(features=FeatureDeclaration("micro"))), (1, 1960)),
        (SERIES, (1, 4)),
        (InputDeclaration("series"), (1, 128, 9)),
        (InputDeclaration("series", series=SeriesDeclaration(channels=3)), (1, 128, 3, 1)),
        (InputDeclaration("series"), (-1, 10)),
    ],
)
def test_what_fills_the_input_is_taken(declared: InputDeclaration, shape: tuple[int, ...]) -> None:
    """An open batch counts as one sample."""
    inputs.check_fits(declared, shape)


@given(st.integers(1, 200), st.integers(0, 3))
def test_the_shortest_window_that_fills_an_input_is_found(frames: int, more: int) -> None:
    """A tensor of so many frames, and the samples that make them."""
    features = FeatureDeclaration("log_mel", mel_bins=7, frame_samples=50 + more, hop_samples=20)
    window = AudioDeclaration(features=features).window((1, frames, 7, 1))
    assert features.frames(window) == frames
    assert features.frames(window - 1) == frames - 1
