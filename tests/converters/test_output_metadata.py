"""TFLite Metadata of outputs: boxes, thresholds and calibration reach the answer of a box, and the bundle."""

import struct
from typing import Any

import flatbuffers
import numpy as np
import pytest
from digits_example import DIGITS
from hypothesis import given
from hypothesis import strategies as st
from peers import require_shared
from tflite_files import _table, _vector, attached, with_archive

from edge_runtime.contract import outputs, tflite_metadata
from edge_runtime.contract.outputs import BoxDeclaration, OutputDeclaration, ScoreCalibration, Task
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference.description import Description
from edge_runtime.inference.postprocess import read_answer

CONTENT = (DIGITS / "digits_float.tflite").read_bytes()
CALIBRATION = "0.9,2.0,-1.0\n\n1.0,3.0,0.5,0.2\n"
BOXES: dict[str, Any] = {"name": "location", "box": (3, (1, 0, 3, 2), 1)}


def described(*tensors: dict[str, Any], files: dict[str, str] | None = None) -> bytes:
    """The digits model with metadata that describe these outputs.

    Keys: name, box (type, index, coordinates), threshold, calibration (transformation, default score, file name).
    """
    builder = flatbuffers.Builder()
    made = [_tensor(builder, tensor) for tensor in tensors]
    subgraph = _table(builder, 5, {3: _vector(builder, made)})
    builder.Finish(_table(builder, 8, {3: _vector(builder, [subgraph])}), b"M001")
    return with_archive(attached(CONTENT, bytes(builder.Output())), files or {})


def _tensor(builder: flatbuffers.Builder, told: dict[str, Any]) -> int:
    fields = {0: builder.CreateString(told.get("name", ""))}
    if "box" in told:
        kind, index, coordinates = told["box"]
        numbers = builder.CreateNumpyVector(np.array(index, np.uint32))
        box = _table(builder, 3, {0: numbers}, {1: kind, 2: coordinates})
        fields[3] = _table(builder, 3, {1: box}, {0: 3})
    units = []
    if "threshold" in told:
        units.append(_unit(builder, 3, 0, told["threshold"]))
    if "calibration" in told:
        transformation, default, name = told["calibration"]
        units.append(_unit(builder, 2, 1, default, {0: transformation}))
        text = builder.CreateString(name)
        fields[6] = _vector(builder, [_table(builder, 5, {0: text}, {2: 4})])
    if units:
        fields[4] = _vector(builder, units)
    return _table(builder, 7, fields)


def _unit(builder: flatbuffers.Builder, kind: int, slot: int, value: float, small: dict[int, int] | None = None) -> int:
    builder.StartObject(2)
    builder.PrependFloat32Slot(slot, value, 0.0)
    for field, number in (small or {}).items():
        builder.PrependInt8Slot(field, number, 0)
    return _table(builder, 2, {1: int(builder.EndObject())}, {0: kind})


@pytest.mark.parametrize(
    ("box", "order", "coordinates"),
    [
        ((1, (), 0), "xyxy", "fraction"),
        ((1, (1, 0, 3, 2), 0), "yxyx", "fraction"),
        ((2, (0, 1, 2, 3), 1), "xywh", "pixel"),
        ((2, (1, 0, 3, 2), 0), "yxhw", "fraction"),
        ((3, (), 1), "cxcywh", "pixel"),
        ((3, (1, 0, 3, 2), 0), "cycxhw", "fraction"),
        ((3, (3, 2, 1, 0), 0), None, "fraction"),
        ((0, (), 0), None, "fraction"),
    ],
)
def test_bounding_box_properties(box: Any, order: Any, coordinates: Any) -> None:
    """Type, index and coordinate type are a format; an order that there is no name for is left to the default."""
    found = tflite_metadata.read(described({"name": "location", "box": box})).output
    told = found.boxes if found else BoxDeclaration()
    assert (told.format, told.coordinates) == (order, coordinates)


def test_roles_are_the_names_of_the_outputs() -> None:
    """TensorFlow 2's detectors come in any order; a name that is not known says nothing."""
    names = ("score", "location", "number of detections", "category")
    found = tflite_metadata.read(described(*({"name": n} | (BOXES if n == "location" else {}) for n in names))).output
    assert found is not None
    assert found.boxes.roles == ("scores", "boxes", "count", "classes")
    found = tflite_metadata.read(described(BOXES, {"name": "magic"})).output
    assert found is not None
    assert found.boxes.roles == ()


def test_threshold_and_calibration() -> None:
    """Of any output; a class without numbers has an empty line."""
    told = {"threshold": 0.25, "calibration": (1, 0.125, "c.txt")}
    found = tflite_metadata.read(described(told, files={"c.txt": CALIBRATION})).output
    classes = ((0.9, 2.0, -1.0), (), (1.0, 3.0, 0.5, 0.2))
    assert found == OutputDeclaration(threshold=0.25, calibration=ScoreCalibration("log", 0.125, classes))


@pytest.mark.parametrize("text", ["1,2\n", "a,b,c\n", "-1,2,3\n"])
def test_a_calibration_that_cannot_be_counts_as_absent(text: str) -> None:
    """The rest of the metadata is read all the same."""
    assert tflite_metadata.read(described({"calibration": (0, 0.0, "c.txt")}, files={"c.txt": text})).output is None


def test_calibrated_scores() -> None:
    """By the schema's formula; the default below min_score and without numbers."""
    told = ScoreCalibration("identity", 0.01, ((0.9, 2.0, -1.0), (), (1.0, 3.0, 0.5, 0.2)))
    description = Description(
        "e", "1", "fast", "classification", (TensorSpec("x", "FP32", (1, 1)),), (TensorSpec("y", "FP32", (1, 3)),)
    )
    found = read_answer({"y": np.float32([[0.5, 0.9, 0.1]])}, description, OutputDeclaration(calibration=told))
    scores = {entry["index"]: entry["score"] for entry in found["classes"]}
    assert scores == {0: pytest.approx(0.9 / (1 + np.exp(0))), 1: 0.01, 2: 0.01}
    found = read_answer({"y": np.float32([[0, 0, 0.5]])}, description, OutputDeclaration(calibration=told))
    assert found["score"] == pytest.approx(1 / (1 + np.exp(-2)), rel=1e-5)
    with pytest.raises(ValueError, match="calibration has 1 classes, but the output has 3"):
        read_answer(
            {"y": np.float32([[0, 0, 0]])}, description, OutputDeclaration(calibration=ScoreCalibration(classes=((),)))
        )


@pytest.mark.parametrize(
    ("task", "said", "expected"),
    [
        ("detection", OutputDeclaration(), OutputDeclaration(threshold=0.3, boxes=BoxDeclaration(format="xyxy"))),
        (
            "detection",
            OutputDeclaration(threshold=0.5, top_k=2),
            OutputDeclaration(threshold=0.5, top_k=2, boxes=BoxDeclaration(format="xyxy")),
        ),
        ("classification", OutputDeclaration(), OutputDeclaration(threshold=0.3)),
        ("raw", OutputDeclaration(), OutputDeclaration()),
    ],
)
def test_what_is_said_wins_and_metadata_complete_it(
    task: Task, said: OutputDeclaration, expected: OutputDeclaration
) -> None:
    """As far as the task uses it."""
    metadata = OutputDeclaration(threshold=0.3, boxes=BoxDeclaration(format="xyxy"))
    assert outputs.completed(task, said, metadata) == expected
    assert outputs.completed(task, said, None) == said


def test_a_real_detector_says_what_its_boxes_are() -> None:
    """SSD MobileNet's metadata: top, left, bottom, right, as fractions, and all four roles."""
    content = require_shared("models/vision/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite").read_bytes()
    found = tflite_metadata.read(content)
    roles = ("boxes", "classes", "scores", "count")
    assert found.output == OutputDeclaration(boxes=BoxDeclaration(roles, "yxyx", "fraction"))
    assert found.labels[0] == "person"


WHOLE = described(BOXES | {"threshold": 0.5, "calibration": (2, 0.5, "c.txt")}, files={"c.txt": CALIBRATION})


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_metadata_count_as_absent(changes: list[tuple[int, int]]) -> None:
    """Whatever bytes are changed where the metadata are, reading them raises nothing."""
    damaged = bytearray(WHOLE)
    first = WHOLE.find(b"M001") - 4
    for offset, value in changes:
        damaged[first + offset % (len(WHOLE) - first)] = value
    tflite_metadata.read(bytes(damaged))


def test_a_box_index_longer_than_the_file() -> None:
    """A length that lies is an error inside, and nothing outside."""
    damaged = WHOLE.replace(struct.pack("<5I", 4, 1, 0, 3, 2), struct.pack("<5I", 2**31, 1, 0, 3, 2))
    assert damaged != WHOLE
    assert tflite_metadata.read(damaged).labels == ()
