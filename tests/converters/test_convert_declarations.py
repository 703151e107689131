"""What is declared must fit the model and the samples, before anything is written."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digits_example import DIGITS, Convert
from peers import require_shared

from converters import cli, declarations, parity
from converters.declarations import Declared
from converters.errors import ConvertError
from edge_runtime.contract.bundle import BundleReader
from edge_runtime.contract.inputs import picture_shape
from edge_runtime.contract.manifest import InputDeclaration, OutputDeclaration, Task, parse
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference.description import is_detection

PICTURE = ("--input", "image", "--mean", "0", "--std", "255")
BOXES = ((1, 10, 4), (1, 10), (1, 10), (1,))
MINUS_ONE_TO_ONE = InputDeclaration("image", mean=(127.5,), std=(127.5,))
COLOURS = InputDeclaration("image", mean=(0.0, 100.0, 200.0), std=(1.0, 2.0, -4.0))


def by_name(shapes: tuple[tuple[int, ...], ...]) -> dict[str, tuple[int, ...]]:
    """Output shapes under names."""
    return {f"output_{i}": shape for i, shape in enumerate(shapes)}


@pytest.mark.parametrize(
    ("task", "shapes", "fits"),
    [
        ("classification", ((1, 2),), True),
        ("classification", ((10,),), True),
        ("classification", ((1, 1, 1, 1001),), True),
        ("classification", ((1, 1),), False),
        ("classification", ((),), False),
        ("classification", ((1, 7, 7, 10),), False),
        ("classification", ((1, 10), (1, 10)), False),
        ("detection", BOXES, True),
        ("detection", ((1, 1, 4), (1, 1), (1, 1), (1, 1)), True),
        ("detection", BOXES[:3], False),
        ("detection", (BOXES[1], BOXES[0], BOXES[3], BOXES[1]), False),
        ("detection", (*BOXES[:3], (1, 10)), False),
        ("detection", ((1, 9, 4), *BOXES[1:]), False),
        ("detection", ((1, 10),), False),
        ("regression", ((1, 3),), True),
        ("regression", ((1, 1), (1, 1)), False),
        ("raw", BOXES[:3], True),
    ],
)
def test_which_outputs_fit_a_task(task: Task, shapes: tuple[tuple[int, ...], ...], fits: bool) -> None:  # noqa: FBT001
    """Each task needs its own outputs; what passes for boxes here does so on a box."""
    assert declarations.fits(task, by_name(shapes)) is fits
    if task == "detection" and fits:
        assert is_detection([TensorSpec(name, "FP32", shape) for name, shape in by_name(shapes).items()])


@pytest.mark.parametrize(
    ("shapes", "fits"),
    [
        (((1, 4420, 2), (1, 4420, 4)), True),
        (((1, 84, 8400),), True),
        (((1, 8400, 4), (1, 8400, 4)), False),
        (((1, 10),), False),
        (((10,),), False),
    ],
)
def test_plain_boxes_fit_where_they_are_declared(shapes: tuple[tuple[int, ...], ...], fits: bool) -> None:  # noqa: FBT001
    """By the shapes alone, as on a box; they are never guessed."""
    assert declarations.fits("detection", by_name(shapes), OutputDeclaration()) is fits
    assert declarations.fits("detection", by_name(shapes)) is False


@pytest.mark.parametrize(
    ("shapes", "labelled", "task"),
    [
        (BOXES, False, "detection"),
        (BOXES[:2], False, "raw"),
        (((1, 1),), False, "regression"),
        (((1, 4),), False, "raw"),
        (((1, 4),), True, "classification"),
        (((1, 7, 7, 4),), True, "raw"),
    ],
)
def test_a_task_that_is_not_declared_is_guessed(
    shapes: tuple[tuple[int, ...], ...],
    labelled: bool,  # noqa: FBT001
    task: Task,
) -> None:
    """Boxes are known by their shapes; scores that are no probabilities by their labels."""
    answers = {name: np.full((3, *shape), 7.0, np.float32) for name, shape in by_name(shapes).items()}
    assert parity.guess_task(answers, labelled=labelled) == task


def test_a_task_that_does_not_fit_is_refused(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A classifier finds no boxes: the message has the shapes, and nothing is written."""
    assert convert("--task", "detection") == 1
    line = capsys.readouterr().err
    assert "--task detection needs the four outputs of TFLite_Detection_PostProcess" in line
    assert "the model's outputs are scores (1, 10)" in line
    assert list(tmp_path.iterdir()) == []


def test_how_the_answer_is_read_goes_into_the_manifest(convert: Convert, tmp_path: Path) -> None:
    """--set names a manifest's key; a model of one output may be declared as any task of one."""
    assert convert("--task", "embedding", "--set", "output.normalize=true") == 0
    with BundleReader(tmp_path / "digits-1.0.0.edgemodel") as reader:
        found = parse(reader.read_member("manifest.json"))
    assert (found.task, found.output) == ("embedding", OutputDeclaration(normalize=True))


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--task", "embedding", "--set", "output.boxes.background=0"), 2, "output.boxes is for task detection"),
        (("--set", "output.treshold=1"), 2, "unknown key 'output.treshold'"),
        (("--set", "output.tensor=nope"), 1, "there is no output 'nope', but scores"),
        (("--set", "output.boxes.roles=boxes,scores"), 1, "has 2 roles, but the model has 1 outputs"),
        (("--set", "output.boxes.background=0"), 1, "--task detection needs the four outputs"),
    ],
)
def test_answers_that_cannot_be_read_are_refused_before_the_work(
    convert: Convert,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    """A key that is none or does not fit the task is a usage error; one that does not fit the model fails."""
    try:
        ended = convert(*options)
    except SystemExit as error:
        ended = int(str(error.code))
    assert ended == status
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", ["detection", "classification", "regression"])
def test_a_real_detector(tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str) -> None:
    """A detector is bundled as one (with the labels of its metadata), and as nothing else."""
    source = require_shared("models/vision/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).uniform(-1, 1, (2, 300, 300, 3)).astype(np.float32))
    target = tmp_path / "d-1.0.0.edgemodel"
    options = ["--quantize", "none", "--calibrate", str(tmp_path / "x.npz"), "--task", task]
    options.append("--force")  # noise: kernels need not agree on what is found in it
    status = cli.main([str(source), "-o", str(target), *options])
    if task == "detection":
        assert status == 0
        with BundleReader(target) as reader:
            assert reader.read_member("labels.txt").decode().splitlines()[:2] == ["person", "bicycle"]
    else:
        assert status == 1
        assert "TFLite_Detection_PostProcess (1, 10, 4)" in capsys.readouterr().err


def save(path: Path, values: Any) -> str:
    """Samples as a data file; returns its name."""
    np.savez(path, x=np.asarray(values, np.float32))
    return str(path)


@pytest.mark.parametrize("option", ["--calibrate", "--evaluate"])
def test_raw_pixels_as_samples_are_refused(
    tmp_path: Path, digits_data: tuple[Path, Path], capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """Samples of 0..255 where a box will feed 0..1: both ranges and the likely cause are told, nothing is written."""
    with np.load(digits_data[0]) as good:
        raw = save(tmp_path / "raw.npz", good["x"] * 255)
    target = tmp_path / "m-1.0.0.edgemodel"
    data = {"--calibrate": str(digits_data[0]), "--evaluate": str(digits_data[1])} | {option: raw}
    arguments = [word for pair in data.items() for word in pair]
    assert cli.main([str(DIGITS / "digits_float.tflite"), "-o", str(target), *PICTURE, *arguments]) == 1
    line = capsys.readouterr().err
    for words in ("raw.npz", "go from 0 to 255", "pixels become 0 to 1", "after normalization", "raw pixels"):
        assert words in line
    assert not target.exists()


def test_samples_of_little_range_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], digits_data: tuple[Path, Path]
) -> None:
    """Samples normalized twice use a 255th of the range: that is possible, but told on stderr and in the report."""
    with np.load(digits_data[0]) as good:
        twice = save(tmp_path / "twice.npz", good["x"] / 255)
    target = tmp_path / "m-1.0.0.edgemodel"
    options = ("--calibrate", twice, "--json", "--force")
    assert cli.main([str(DIGITS / "digits_float.tflite"), "-o", str(target), *PICTURE, *options]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("warning: the samples of --calibrate go from 0 to 0.003922 only")
    assert '"warnings": [\n    "the samples of --calibrate' in captured.out
    assert str(tmp_path) not in captured.err  # it is in the bundle, too, whose bytes do not depend on paths


@pytest.mark.parametrize(
    ("declared", "low", "high", "outcome"),
    [
        (MINUS_ONE_TO_ONE, -1.0, 1.0, "good"),
        (MINUS_ONE_TO_ONE, -1.019, 1.019, "good"),  # 1 % of the range is 0.02
        (MINUS_ONE_TO_ONE, -1.0, 1.03, "mean and std are not those"),
        (MINUS_ONE_TO_ONE, -1.03, 1.0, "mean and std are not those"),
        (MINUS_ONE_TO_ONE, 0.0, 255.0, "raw pixels"),
        (MINUS_ONE_TO_ONE, 0.0, 0.09, "normalized twice"),
        (InputDeclaration("tensor", std=(255.0,)), 0.0, 255.0, "good"),
        (None, 0.0, 255.0, "good"),
    ],
)
def test_samples_are_compared_with_what_pixels_become(
    declared: InputDeclaration | None, low: float, high: float, outcome: str
) -> None:
    """The range is that of pixels 0..255 after normalization; only pictures have one."""
    values = np.linspace(low, high, 2 * 4 * 4).reshape(2, 1, 4, 4, 1)
    assert outcome in judged(declared, values)


def test_each_channel_has_its_range() -> None:
    """One value a channel, a negative std included: 0..255, -50..77.5 and -13.75..50."""
    values = np.array([[0.0, -50.0, 50.0], [255.0, 77.5, -13.75]]).reshape(2, 1, 1, 1, 3)
    assert judged(COLOURS, values) == "good"
    assert "in channel 1" in judged(COLOURS, values + np.array([0, 10, 0]))
    assert "pixels become -13.75 to 50" in judged(COLOURS, values + np.array([0, 0, 10]))


def judged(declared: InputDeclaration | None, values: Any) -> str:
    """What is said of samples: the error, the warning, or "good"."""
    try:
        warnings = declarations.check_pixels(Declared(input=declared), values, Path("d.npz"), "--calibrate")
    except ConvertError as error:
        return str(error)
    return warnings[0] if warnings else "good"


@pytest.mark.parametrize(
    "shape", [(1, 28, 28), (-1, 28, 28), (1, 8, 8, 1), (1, 8, 8, 3), (1, 8, 8, 2), (2, 8, 8), (1, 8), (1, 1, 8, 8, 3)]
)
def test_pictures_are_what_a_box_takes_for_pictures(shape: tuple[int, ...]) -> None:
    """(1, H, W) is a grey picture; the host accepts what the box accepts, and nothing else."""
    spec = TensorSpec("x", "FP32", shape)
    if picture_shape(shape) is not None:
        declarations._check_input(Declared(input=MINUS_ONE_TO_ONE), spec)
        return
    with pytest.raises(ConvertError, match=re.escape(str(shape))):
        declarations._check_input(Declared(input=MINUS_ONE_TO_ONE), spec)
