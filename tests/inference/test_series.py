"""From sensor readings to what models of time series take."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import require_shared

from edge_runtime.contract.inputs import InputDeclaration, SeriesDeclaration
from edge_runtime.contract.readings import FEATURES
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError
from edge_runtime.inference import engine as engines
from edge_runtime.inference import preprocess
from edge_runtime.inference.inputs import series_features

WINDOW = TensorSpec("x", "FP32", (1, 4, 2))
GAIT = (
    *("ankle_horiz_fwd", "ankle_vert", "ankle_horiz_lateral", "leg_horiz_fwd", "leg_vert", "leg_horiz_lateral"),
    *("trunk_horiz_fwd", "trunk_vert", "trunk_horiz_lateral"),
)


def series(**declared: object) -> InputDeclaration:
    """A declaration of readings."""
    return InputDeclaration("series", series=SeriesDeclaration(**declared))  # type: ignore[arg-type]


@pytest.mark.parametrize(("gesture", "index", "score"), [("ring", 1, 0.801), ("slope", 2, 0.954)])
def test_magic_wand_knows_its_gestures(gesture: str, index: int, score: float) -> None:
    """128 readings of three channels, from an .npy, a CSV with a header, and JSON: the published score."""
    session = engines.choose().open(require_shared("models/sensor/magic_wand_float.tflite"), "builtin", 1)
    (spec,), (output,) = session.inputs, session.outputs
    path = require_shared(f"data/sensor/sensor_magic_wand_{gesture}.npy")
    readings = np.load(path)
    table = "\n".join(["t;z;x;y", *(f"{i};{z};{x};{y}" for i, (x, y, z) in enumerate(readings))])
    declared = series(columns=("x", "y", "z"))
    for data, kind in (
        (path.read_bytes(), ""),
        (table.encode(), "text/csv"),
        (json.dumps(readings.tolist()).encode(), "application/json"),
    ):
        scores = session.run({spec.name: preprocess.to_tensor(data, kind, spec, declared)})[output.name][0]
        assert scores.argmax() == index
        assert scores[index] == pytest.approx(score, abs=0.002)


def test_a_real_recording_of_gait_is_cut_into_windows() -> None:
    """110 s of nine channels at 64 Hz, with times and a flag beside them: columns are chosen by name."""
    data = require_shared("data/sensor/S06R02E0.csv").read_bytes()
    spec = TensorSpec("x", "FP32", (1, 18))
    declared = series(columns=GAIT, window_samples=256, hop_samples=128, sample_rate=64, features=("mean", "std"))
    windows = preprocess.prepare(data, "text/csv", (spec,), declared)
    assert len(windows.runs) == 54
    assert windows.starts[:3] == (0.0, 2.0, 4.0)
    lines = [line.split(",")[1:10] for line in data.decode().splitlines()[1:]]
    second = np.array(lines[128:384], dtype=np.float64)
    expected = np.stack([second.mean(axis=0), second.std(axis=0)], axis=1).reshape(-1)
    np.testing.assert_allclose(windows.runs[1]["x"][0], expected, rtol=1e-6)
    with pytest.raises(CallerError, match="more than 8"):
        preprocess.prepare(data, "text/csv", (spec,), declared, preprocess.Limits(max_windows=8))


def test_windows_start_every_hop_and_none_is_made_up() -> None:
    """Readings at the end that fill no window are left out; without a rate, starts count readings."""
    readings = np.arange(22).reshape(11, 2)
    windows = preprocess.prepare(readings, "", (WINDOW,), series(hop_samples=3))
    assert (windows.starts, windows.unit) == ((0.0, 3.0, 6.0), "reading")
    np.testing.assert_array_equal(windows.runs[2]["x"][0], readings[6:10])
    assert preprocess.prepare(readings[:7], "", (WINDOW,), series()).starts == ()
    with pytest.raises(CallerError, match="3 readings of 2 channels, but a window has 4"):
        preprocess.prepare(readings[:3], "", (WINDOW,), series())
    with pytest.raises(CallerError, match="have 3 values, but the model takes 2"):
        preprocess.prepare(np.zeros((4, 3)), "", (WINDOW,), series())


def test_scales() -> None:
    """By declared ends, by the window's own, by mean and std of the training, and in this order."""
    readings = np.array([[0.0, 10.0], [1.0, 20.0], [2.0, 30.0], [3.0, 40.0]])
    tensor = preprocess.to_tensor(readings, "", WINDOW, series(minimum=(0.0, 10.0), maximum=(3.0, 40.0)))
    np.testing.assert_allclose(tensor[0, :, 0], tensor[0, :, 1])
    assert (tensor.min(), tensor.max()) == (0, 1)
    tensor = preprocess.to_tensor(readings, "", WINDOW, series(standardize="standard"))
    np.testing.assert_allclose([tensor[0].mean(axis=0), tensor[0].std(axis=0)], [[0, 0], [1, 1]], atol=1e-6)
    tensor = preprocess.to_tensor(readings, "", WINDOW, series(standardize="minmax"))
    np.testing.assert_allclose(tensor[0, :, 1], [0, 1 / 3, 2 / 3, 1], rtol=1e-6)
    assert not preprocess.to_tensor(np.ones((4, 2)), "", WINDOW, series(standardize="standard")).any()
    declared = InputDeclaration("series", mean=(1.5, 25.0), std=(1.0, 10.0), series=SeriesDeclaration())
    np.testing.assert_allclose(preprocess.to_tensor(readings, "", WINDOW, declared)[0, 0], [-1.5, -1.5])


def test_features_are_what_their_names_say() -> None:
    """A sine of 5 Hz and amplitude 2 around 1, 100 readings at 100 Hz: known without computing."""
    t = np.arange(100) / 100
    window = (1 + 2 * np.sin(2 * np.pi * 5 * t + 0.1))[:, None]
    known = {
        "mean": 1.0,
        "std": np.sqrt(2),
        "rms": np.sqrt(3),
        "energy": 300.0,
        "skewness": 0.0,
        "kurtosis": 1.5,
        "dominant_hz": 5.0,
        "spectral_centroid": 5.0,
        "mean_crossings": 9.0,
        "zero_crossings": 10.0,
        "band:0-1": 1.0,
        "band:4-6": 2.0,
        "band:6-50": 0.0,
    }
    found = series_features.compute(window, tuple(known), 100.0)[0]
    np.testing.assert_allclose(found, list(known.values()), atol=1e-9)
    rough = dict(zip(FEATURES, series_features.compute(window, FEATURES, 100.0)[0], strict=True))
    assert rough["peak_to_peak"] == rough["max"] - rough["min"] == pytest.approx(4, abs=0.02)
    assert rough["crest"] == pytest.approx(3 / np.sqrt(3), abs=0.01)
    assert rough["median"] == pytest.approx(1, abs=0.1)
    assert rough["mean_abs_change"] == pytest.approx(8 * 5 / 100, rel=0.02)


@given(st.integers(2, 50), st.integers(1, 4), st.sampled_from([0.0, 1.0, -1e9, 1e-9]))
def test_features_of_anything_are_finite(count: int, channels: int, level: float) -> None:
    """A sensor that stands still has no shape: its features are numbers all the same."""
    names = (*FEATURES, "band:0-10")
    found = series_features.compute(np.full((count, channels), level), names, 50.0)
    assert found.shape == (channels, len(names))
    assert np.isfinite(found).all()


def test_order_of_features() -> None:
    """By channel or by feature, as the training had them in a row."""
    readings = np.array([[1.0, 10.0], [3.0, 30.0]])
    spec = TensorSpec("x", "FP32", (1, 4))
    by_channel = series(window_samples=2, features=("min", "max"))
    assert preprocess.to_tensor(readings, "", spec, by_channel)[0].tolist() == [1, 3, 10, 30]
    by_feature = series(window_samples=2, features=("min", "max"), order="feature")
    assert preprocess.to_tensor(readings, "", spec, by_feature)[0].tolist() == [1, 10, 3, 30]
