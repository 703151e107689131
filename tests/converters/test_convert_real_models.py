"""Real models from outside the project: old files, recurrent ones, a regression."""

import json
from pathlib import Path

import numpy as np
import pytest
from boxes import as_json, running_box
from peers import require_shared

from converters import cli
from converters.engine import Model
from edge_runtime.contract import manifest
from edge_runtime.contract.bundle import BundleReader

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


def digit_pictures() -> tuple[list[bytes], np.ndarray]:
    """Ten handwritten digits as PNG files, and as the LSTM takes them: (10, 28, 28) in 0..1."""
    image = pytest.importorskip("PIL.Image", reason="reads the pictures")
    paths = [require_shared(f"data/mnist/sample{i}.png") for i in range(10)]
    grey = [np.asarray(image.open(path).convert("L"), np.float32) / 255 for path in paths]
    return [path.read_bytes() for path in paths], np.stack(grey)


def shifted(digits: np.ndarray) -> np.ndarray:
    """Each digit and its eight neighbours a pixel away, (90, 28, 28)."""
    return np.concatenate([np.roll(digits, (y, x), (1, 2)) for y in (-1, 0, 1) for x in (-1, 0, 1)])


@pytest.mark.parametrize("scheme", ["none", "int8"])
def test_a_recurrent_model_commits_on_a_box_and_reads_digits(tmp_path: Path, scheme: str) -> None:
    """An LSTM that takes (1, 28, 28) is bundled, keeps to its golden vectors on a box, and forgets each picture."""
    source = require_shared("models/micro/mnist_lstm_float.tflite")
    pictures, digits = digit_pictures()
    np.savez(tmp_path / "x.npz", x=shifted(digits))
    target = tmp_path / "lstm-1.0.0.edgemodel"
    options = [
        "--quantize",
        scheme,
        "--calibrate",
        str(tmp_path / "x.npz"),
        "--input",
        "image",
        "--mean",
        "0",
        "--std",
        "255",
    ]
    assert cli.main([str(source), "-o", str(target), *options]) == 0
    with BundleReader(target) as reader:
        assert manifest.parse(reader.read_member("manifest.json")).provenance["gate"] == "passed"
        here = Model(reader.read_member("model.tflite"))
    expected = [int(here.predict({"fixed_input": x[None]})["sequential"].argmax()) for x in digits]
    with running_box(tmp_path / "state") as box:
        view = box.push(target.read_bytes())
        assert view["state"] == "COMMITTED", view
        for _ in range(2):
            answers = [box.post("/models/lstm/predict", png, "image/png")[1]["result"]["index"] for png in pictures]
            assert answers == expected
        assert box.post("/models/lstm/predict", as_json((digits[3] * 255).tolist()))[0] == 200
    assert sum(answer == digit for digit, answer in enumerate(expected)) >= 9
