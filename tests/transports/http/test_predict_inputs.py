"""A real daemon is sent what people have: photographs, recordings, tables."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from boxes import RunningBox, running_box
from bundles import make
from peers import require_shared

from edge_runtime.contract.inputs import AudioDeclaration, FeatureDeclaration, InputDeclaration, SeriesDeclaration
from edge_runtime.contract.outputs import OutputDeclaration

WORDS = InputDeclaration(
    "audio", full_range=True, audio=AudioDeclaration(hop_samples=16_000, features=FeatureDeclaration("micro"))
)
GESTURES = InputDeclaration("series", series=SeriesDeclaration(columns=("x", "y", "z"), hop_samples=64))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBox]:
    """A daemon with a model of speech, one of gestures and one of photographs."""
    audio = require_shared("models/audio/micro_speech_quantized.tflite").read_bytes()
    wand = require_shared("models/sensor/magic_wand_float.tflite").read_bytes()
    cifar = require_shared("models/mlperf_tiny/ic_resnet8_int8.tflite").read_bytes()
    with running_box(
        tmp_path_factory.mktemp("inputs"), "engine.max_windows=8", "engine.max_audio_seconds=10"
    ) as running:
        for name, model, declared, labels in (
            ("words", audio, WORDS, b"silence\nunknown\nyes\nno\n"),
            ("gestures", wand, GESTURES, b"wing\nring\nslope\nnegative\n"),
            ("cifar", cifar, InputDeclaration("image", resize="crop", full_range=True), b""),
        ):
            content = {"model.tflite": model} | ({"labels.txt": labels} if labels else {})
            bundle = make(content, name=name, task="classification", input=declared, output=OutputDeclaration(top_k=2))
            assert running.push(bundle)["state"] == "COMMITTED"
        yield running


@pytest.mark.parametrize("word", ["yes", "no"])
@pytest.mark.parametrize("kind", ["audio/wav", "audio/x-wav", "application/octet-stream", ""])
def test_a_wav_gives_its_own_word(box: RunningBox, word: str, kind: str) -> None:
    """By its content, whatever the caller calls it; `?raw=1` adds the scores."""
    data = require_shared(f"data/speech/{word}_1000ms.wav").read_bytes()
    status, answer = box.post("/models/words/predict?raw=1", data, kind)
    assert status == 200
    assert answer["result"]["label"] == word
    assert list(answer["result"]["outputs"]) == ["labels_softmax"]


def test_a_longer_recording_gives_an_answer_for_each_hop(box: RunningBox) -> None:
    """4.3 s: a window every second, the last one ends with the recording."""
    data = require_shared("data/speech/speech.wav").read_bytes()
    status, answer = box.post("/models/words/predict?raw=1", data, "audio/wav")
    assert status == 200
    starts = [one["start_seconds"] for one in answer["result"]["answers"]]
    assert starts == [0.0, 1.0, 2.0, 3.0, 3.2825]
    assert all(len(one["classes"]) == 2 and "outputs" in one for one in answer["result"]["answers"])
    long = data[:40] + (11 * 32_000).to_bytes(4, "little") + bytes(11 * 32_000)
    status, answer = box.post("/models/words/predict", long, "audio/wav")
    assert (status, "11.0 s, more than 10" in answer["error"]) == (413, True)


def test_a_table_of_readings(box: RunningBox) -> None:
    """A CSV with a header, a window every 64 readings; more than allowed is refused."""
    readings = np.load(require_shared("data/sensor/sensor_magic_wand_ring.npy"))
    rows = [f"{i},{x},{y},{z}" for i, (x, y, z) in enumerate(np.tile(readings, (2, 1)))]
    status, answer = box.post("/models/gestures/predict", "\n".join(["n,x,y,z", *rows]).encode(), "text/csv")
    assert status == 200
    answers = answer["result"]["answers"]
    assert [one["start_reading"] for one in answers] == [0, 64, 128]
    assert (answers[0]["label"], answers[2]["label"]) == ("ring", "ring")
    status, answer = box.post("/models/gestures/predict", "\n".join(["n,x,y,z", *rows * 5]).encode(), "text/csv")
    assert (status, "engine.max_windows" in answer["error"]) == (413, True)


@pytest.mark.parametrize(
    ("model", "file", "kind", "status", "message"),
    [
        ("cifar", "speech/yes_1000ms.wav", "audio/wav", 415, "--input audio"),
        ("words", "images/cat.bmp", "image/bmp", 415, "takes no pictures but audio"),
        ("words", "images/cat.bmp", "audio/mpeg", 415, "takes no pictures but audio"),
        ("words", "sensor/S06R02E0.csv", "application/zip", 415, "neither a picture"),
        ("words", "sensor/S06R02E0.csv", "multipart/form-data; boundary=x", 415, "--data-binary @FILE, not -F"),
        ("words", "sensor/S06R02E0.csv", "audio/mpeg", 415, "taken as WAV"),
        ("gestures", "sensor/S06R02E0.csv", "text/csv", 413, "8 windows (engine.max_windows)"),
        ("gestures", "speech/yes_1000ms.wav", "", 415, "--input audio"),
    ],
)
def test_what_a_model_does_not_take_is_told(
    box: RunningBox, model: str, file: str, kind: str, status: int, message: str
) -> None:
    """415 for another kind of thing, with what to do."""
    found, answer = box.post(f"/models/{model}/predict", require_shared(f"data/{file}").read_bytes(), kind)
    assert found == status, answer
    assert message in answer["error"]


def test_edgectl_asks_about_a_recording(box: RunningBox) -> None:
    """A .wav file, whole and in windows, as a person reads it."""

    def asked(name: str) -> str:
        command = [sys.executable, "-m", "edge_runtime.cli.edgectl", "infer", "words"]
        path = str(require_shared(f"data/speech/{name}"))
        return subprocess.run([*command, path, "--to", box.url], capture_output=True, text=True, check=True).stdout

    assert "yes" in asked("yes_1000ms.wav").splitlines()[1]
    assert [line for line in asked("speech.wav").splitlines() if line.startswith("from")] == [
        f"from {start} s" for start in ("0", "1", "2", "3", "3.2825")
    ]


def test_edgectl_pushes_a_bare_model_with_what_is_declared_of_it(box: RunningBox, tmp_path: Path) -> None:
    """And a declaration that does not fill the input is refused with the numbers of both."""
    command = [sys.executable, "-m", "edge_runtime.cli.edgectl", "push"]
    model = str(require_shared("models/audio/micro_speech_quantized.tflite"))
    said = ["--set", "input.audio.features.type=micro", "--task", "classification", "--unsigned", "--to", box.url]
    done = subprocess.run([*command, model, "--name", "spoken", *said], capture_output=True, text=True, check=False)
    assert (done.returncode, "COMMITTED spoken" in done.stdout) == (0, True), done.stderr
    data = require_shared("data/speech/no_1000ms.wav").read_bytes()
    assert box.post("/models/spoken/predict", data, "audio/wav")[1]["result"]["index"] == 3
    wrong = ["--set", "input.audio.features.type=log_mel", "--set", "input.audio.window_samples=16000", *said[2:]]
    done = subprocess.run([*command, model, "--name", "wrong", *wrong], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "a window of 16000 samples gives 3920 values (40 values a frame), but the input [1, 1960]" in done.stderr
