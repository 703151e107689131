"""From output tensors to answers."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.contract.manifest import OutputDeclaration, Task
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference.description import Description, is_detection
from edge_runtime.inference.postprocess import read_answer

SCORES = TensorSpec("scores", "UINT8", (1, 3), 1 / 256, 0)
BOXES = (
    TensorSpec("boxes", "FP32", (1, 2, 4)),
    TensorSpec("classes", "FP32", (1, 2)),
    TensorSpec("scores", "FP32", (1, 2)),
    TensorSpec("count", "FP32", (1,)),
)


def describe(task: Task, *outputs: TensorSpec, labels: tuple[str, ...] = ()) -> Description:
    """A description with these outputs."""
    return Description("e", "1", "fast", task, (TensorSpec("x", "FP32", (1, 1)),), outputs, labels=labels)


def answer(
    task: Task, values: list[NDArray[Any]], *specs: TensorSpec, labels: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    """The answer for these outputs."""
    outputs = {spec.name: value for spec, value in zip(specs, values, strict=True)}
    return read_answer(outputs, describe(task, *specs, labels=labels), OutputDeclaration(**more))


def test_classification_names_the_best_and_lists_the_top() -> None:
    """Stored integers become real scores; labels replace numbers."""
    found = answer("classification", [np.array([[0, 192, 64]], np.uint8)], SCORES, labels=("a", "b", "c"), top_k=2)
    assert (found["label"], found["score"], found["index"]) == ("b", 0.75, 1)
    assert [c["label"] for c in found["classes"]] == ["b", "c"]


def test_equal_scores_are_ordered_by_index() -> None:
    """The answer must not depend on the sort."""
    found = answer("classification", [np.array([[7, 7, 7]], np.uint8)], SCORES)
    assert [c["index"] for c in found["classes"]] == [0, 1, 2]


def test_below_the_threshold_there_is_no_label() -> None:
    """Nothing is better than something wrong."""
    found = answer("classification", [np.array([[1, 2, 3]], np.uint8)], SCORES, threshold=0.5)
    assert found["label"] is None
    assert found["classes"] == []


def test_a_batch_gives_one_answer_for_each_sample() -> None:
    """In the order of the samples."""
    found = answer("classification", [np.array([[9, 0, 0], [0, 0, 9]], np.uint8)], SCORES)
    assert [a["index"] for a in found["answers"]] == [0, 2]


def test_detection_reads_boxes_up_to_the_count() -> None:
    """TFLite_Detection_PostProcess: boxes, classes, scores, count."""
    boxes = np.array([[[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]]], np.float32)
    values: list[NDArray[Any]] = [boxes, np.float32([[1, 0]]), np.float32([[0.9, 0.8]]), np.float32([1])]
    found = answer("detection", values, *BOXES, labels=("cat", "dog"))
    assert len(found["objects"]) == 1
    assert found["objects"][0]["label"] == "dog"
    assert found["objects"][0]["box"] == {"ymin": 0.1, "xmin": 0.2, "ymax": 0.3, "xmax": 0.4}
    assert is_detection(BOXES)


@pytest.mark.parametrize(("shape", "key"), [((1, 1), "value"), ((1, 3), "values")])
def test_regression_has_a_value_and_a_unit(shape: tuple[int, ...], key: str) -> None:
    """One number, or several."""
    found = answer("regression", [np.ones(shape, np.float32)], TensorSpec("y", "FP32", shape), unit="C")
    assert found[key] in (1.0, [1.0, 1.0, 1.0])
    assert found["unit"] == "C"


def test_numbers_that_json_cannot_carry_become_null() -> None:
    """NaN and infinity are no JSON."""
    found = answer("regression", [np.float32([[np.nan]])], TensorSpec("y", "FP32", (1, 1)))
    assert found["value"] is None


def test_large_raw_outputs_are_not_dumped() -> None:
    """A mask of a million values belongs into /v2, not into an MQTT message."""
    found = answer("raw", [np.zeros((1, 100, 100), np.float32)], TensorSpec("y", "FP32", (1, 100, 100)))
    assert "values" not in found["outputs"]["y"]
    assert found["outputs"]["y"]["shape"] == [1, 100, 100]
