"""Real models from outside the project: old files, recurrent ones, a regression."""

import json
from pathlib import Path

import numpy as np
import pytest
from peers import require_shared

from converters import cli

GENERATOR = np.random.default_rng(0)
WAND = GENERATOR.normal(0, 500, (40, 128, 3, 1))
SINE = GENERATOR.uniform(0, 2 * np.pi, (200, 1))
IMAGE = GENERATOR.uniform(0, 255, (20, 32, 32, 3))
DIGIT = GENERATOR.uniform(0, 1, (20, 28, 28))


@pytest.mark.parametrize(
    ("model", "x", "task", "limit"),
    [
        ("micro/hello_world_float.tflite", SINE, "regression", 0.02),
        ("micro/mnist_lstm_float.tflite", DIGIT, "classification", 0.02),
        ("sensor/magic_wand_float.tflite", WAND, "classification", 0.1),
        ("mlperf_tiny/ic_resnet8_float.tflite", IMAGE, "classification", 0.1),
    ],
)
def test_a_real_float_model_becomes_int8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, x: np.ndarray, task: str, limit: float
) -> None:
    """Old and new kinds of float .tflite files are quantized, and stay close to what they were."""
    source = require_shared(f"models/{model}")
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32))
    target = tmp_path / "m-1.0.0.edgemodel"
    options = ["--calibrate", str(tmp_path / "x.npz"), "--json", "--force"]
    assert cli.main([str(source), "-o", str(target), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == task
    assert found["comparison"]["drop"] <= limit
