"""What edge-convert is told of an input other than pictures reaches the bundle, or is refused with the numbers."""

from pathlib import Path

import numpy as np
import pytest
from peers import require_shared
from test_convert_bundle import read

from converters import cli
from edge_runtime.contract.inputs import InputDeclaration, SeriesDeclaration


def convert(tmp_path: Path, *options: str) -> int:
    """Bundle the gestures' model as it is, with its two known samples."""
    samples = [np.load(require_shared(f"data/sensor/sensor_magic_wand_{name}.npy")) for name in ("ring", "slope")]
    np.savez(tmp_path / "x.npz", x=np.stack(samples)[..., None])
    source = str(require_shared("models/sensor/magic_wand_float.tflite"))
    target = str(tmp_path / "wand-1.0.0.edgemodel")
    arguments = ["--quantize", "none", "--evaluate", str(tmp_path / "x.npz"), "--task", "classification"]
    return cli.main([source, "-o", target, *arguments, *options])


def test_readings_are_declared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kind follows from what is said; columns in the model's order."""
    options = ["--set", "input.series.columns=x,y,z", "--set", "input.series.hop_samples=64"]
    assert convert(tmp_path, *options) == 0, capsys.readouterr().err
    found, _ = read(tmp_path / "wand-1.0.0.edgemodel")
    assert found.input == InputDeclaration("series", series=SeriesDeclaration(columns=("x", "y", "z"), hop_samples=64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input", "series", "--set", "input.series.channels=5"], "76 readings of 5 channels give 380 values"),
        (["--input", "audio", "--set", "input.audio.features.type=micro"], "40 values a frame"),
        (["--input", "series", "--mean", "1", "2"], "mean has 2 values, but the input has 3 channels"),
    ],
)
def test_what_does_not_fill_the_input_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    """Before anything long is done."""
    assert convert(tmp_path, *options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "wand-1.0.0.edgemodel").exists()
