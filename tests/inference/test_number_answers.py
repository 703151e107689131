"""Values, anomalies, embeddings, key points and labels, for one sample and for batches."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edge_runtime.contract.outputs import BoxDeclaration, MaskDeclaration, OutputDeclaration, PointDeclaration, Task
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference.answers.view import View
from edge_runtime.inference.description import Description
from edge_runtime.inference.postprocess import Question, read_answer, read_tensors

INPUT = TensorSpec("x", "INT8", (-1, 4), 0.5, 2)


def answer(
    task: Task,
    *values: NDArray[Any],
    given: NDArray[Any] | None = None,
    view: View | None = None,
    labels: tuple[str, ...] = (),
    spec: TensorSpec = INPUT,
    **more: Any,
) -> dict[str, Any]:
    """The answer for these real outputs to the stored input `given`."""
    names = [f"y{i}" for i in range(len(values))]
    specs = tuple(TensorSpec(name, "FP32", value.shape) for name, value in zip(names, values, strict=True))
    description = Description("e", "1", "fast", task, (spec,), specs, labels=labels)
    question = None if given is None else Question({"x": given}, view)
    return read_answer(dict(zip(names, values, strict=True)), description, OutputDeclaration(**more), question)


def test_a_value_is_scaled_and_named() -> None:
    """A raw value times scale, plus offset, with one number for all or one for each."""
    assert answer("regression", np.float32([[2]]), scale=(10.0,), offset=(1.0,), unit="C") == {
        "task": "regression",
        "value": 21.0,
        "unit": "C",
    }
    found = answer("regression", np.float32([[1, 2]]), scale=(1.0, 2.0), names=("x", "y"))
    assert found["values"] == {"x": 1.0, "y": 4.0}
    for more in ({"names": ("a",)}, {"scale": (1.0, 2.0, 3.0)}, {"offset": (1.0,) * 3}):
        with pytest.raises(ValueError, match="entries, but there are 2 values"):
            answer("regression", np.float32([[1, 2]]), **more)
    with pytest.raises(ValueError, match="more than 4096"):
        answer("regression", np.zeros((1, 5000), np.float32))


def test_a_task_reads_the_declared_output() -> None:
    """Models with several outputs: the first, or the one that is named."""
    outputs = np.float32([[1]]), np.float32([[7]])
    assert answer("regression", *outputs)["value"] == 1
    assert answer("regression", *outputs, tensor="y1")["value"] == 7
    with pytest.raises(ValueError, match="no output 'z', but y0, y1"):
        answer("regression", *outputs, tensor="z")


@pytest.mark.parametrize(("measure", "score"), [("mse", 1.375), ("mae", 1.0)])
def test_an_anomaly_is_what_the_model_cannot_reproduce(measure: str, score: float) -> None:
    """Real input (dequantized) against real output; above the threshold is an anomaly."""
    stored = np.array([[2, 4, 6, 8]], np.int8)  # real 0, 1, 2, 3
    made = np.float32([[0.5, 1.5, 4, 2]])
    found = answer("anomaly", made, given=stored, threshold=1.1, measure=measure)
    assert found == {"task": "anomaly", "score": score, "anomaly": score > 1.1, "threshold": 1.1}


def test_an_anomaly_score_of_the_model_itself() -> None:
    """The output is the score; one that is no number is an anomaly, too."""
    assert answer("anomaly", np.float32([[0.7]]), measure="score", threshold=0.5)["anomaly"] is True
    assert answer("anomaly", np.float32([[0.0]]), measure="score", threshold=0.5, activation="sigmoid")["score"] == 0.5
    odd = answer("anomaly", np.float32([[np.nan]]), measure="score", threshold=0.5)
    assert (odd["score"], odd["anomaly"]) == (None, True)


@pytest.mark.parametrize(
    ("output", "more", "message"),
    [
        (np.zeros((1, 4), np.float32), {}, "needs output.threshold"),
        (np.zeros((1, 3), np.float32), {"threshold": 1.0}, "as many values as the input"),
        (np.zeros((1, 3), np.float32), {"threshold": 1.0, "measure": "score"}, "is not one number"),
    ],
)
def test_no_anomaly_score(output: NDArray[Any], more: dict[str, Any], message: str) -> None:
    """What is declared must fit."""
    with pytest.raises(ValueError, match=message):
        answer("anomaly", output, given=np.zeros((1, 4), np.int8), **more)


def test_labels_that_apply() -> None:
    """All that reach the threshold, best first; by default a half."""
    scores = np.float32([[0.4, 0.9, 0.5]])
    assert [c["label"] for c in answer("multilabel", scores, labels=("a", "b", "c"))["classes"]] == ["b", "c"]
    assert len(answer("multilabel", scores, threshold=0.1)["classes"]) == 3
    assert [c["index"] for c in answer("multilabel", np.float32([[-1, 1]]), activation="sigmoid")["classes"]] == [1]


def test_logits_of_classes_become_probabilities() -> None:
    """Softmax sums to one, however large the logits are; negative logits are left out by no default threshold."""
    found = answer("classification", np.float32([[1000, 1001, -1000]]), activation="softmax")
    assert [c["score"] for c in found["classes"]] == pytest.approx([0.731059, 0.268941, 0], abs=1e-6)
    assert len(answer("classification", np.float32([[-1, -2]]))["classes"]) == 2


def test_an_embedding_has_a_dimension_and_length_one_if_asked() -> None:
    """Zeros stay zeros."""
    assert answer("embedding", np.float32([[3, 4]])) == {"task": "embedding", "dimension": 2, "vector": [3.0, 4.0]}
    assert answer("embedding", np.float32([[3, 4]]), normalize=True)["vector"] == [0.6, 0.8]
    assert answer("embedding", np.float32([[0, 0]]), normalize=True)["vector"] == [0.0, 0.0]


PICTURE = TensorSpec("x", "UINT8", (1, 100, 200, 3))
SEEN = np.zeros((1, 100, 200, 3), np.uint8)


def points(values: NDArray[Any], view: View | None = None, **more: Any) -> list[dict[str, Any]]:
    """The key points in an output of a model of pictures."""
    told = {key: more.pop(key) for key in ("layout", "coordinates", "heatmaps") if key in more}
    return list(
        answer("keypoints", values, given=SEEN, view=view, spec=PICTURE, points=PointDeclaration(**told), **more)[
            "points"
        ]
    )


def test_key_points_as_movenet_has_them() -> None:
    """1x1x17x3 of y, x, score; names from the declaration; a threshold leaves out what is not seen."""
    values = np.zeros((1, 1, 17, 3), np.float32)
    values[0, 0, 0] = (0.25, 0.5, 0.9)
    names = tuple(f"p{i}" for i in range(17))
    assert len(points(values)) == 17
    assert points(values, threshold=0.3, names=names) == [
        {"label": "p0", "index": 0, "y": 0.25, "x": 0.5, "score": pytest.approx(0.9)}
    ]


def test_key_points_in_a_row_in_pixels_and_cropped() -> None:
    """Flat outputs need names or a layout; pixels are of the model's input; places are of the caller's picture."""
    (point,) = points(np.float32([[100, 50]]), layout="xy", coordinates="pixel")
    assert (point["y"], point["x"], "score" in point) == (0.5, 0.5, False)
    (point,) = points(np.float32([[20, 50, 9]]), layout="xyz", coordinates="pixel", view=View(0.0, 0.25, 1.0, 0.5))
    assert (point["y"], point["x"]) == (0.5, 0.3)
    assert len(points(np.zeros((1, 6), np.float32), names=("a", "b", "c"))) == 3
    for values, more in ((np.zeros((1, 7), np.float32), {}), (np.zeros((1, 7), np.float32), {"layout": "xys"})):
        with pytest.raises(ValueError, match=r"set output\.points\.layout"):
            points(values, **more)
    with pytest.raises(ValueError, match="has 2 names, but there are 3 points"):
        points(np.zeros((1, 3, 2), np.float32), layout="yx", names=("a", "b"))


def test_heatmaps() -> None:
    """The middle of the highest pixel."""
    maps = np.full((1, 4, 8, 2), -3, np.float32)
    maps[0, 1, 2, 0] = 2
    maps[0, 3, 7, 1] = 0
    found = points(maps, heatmaps=True, activation="sigmoid", threshold=0.4)
    assert [(p["y"], p["x"], p["score"]) for p in found] == [
        (0.375, 0.3125, pytest.approx(0.880797)),
        (0.875, 0.9375, 0.5),
    ]
    with pytest.raises(ValueError, match="no heatmap"):
        points(np.zeros((1, 5), np.float32), heatmaps=True)


TWO = np.zeros((2, 4), np.int8)


@pytest.mark.parametrize(
    ("task", "values", "more"),
    [
        ("classification", [(2, 3)], {}),
        ("multilabel", [(2, 3)], {}),
        ("regression", [(2, 1)], {}),
        ("embedding", [(2, 8)], {}),
        ("anomaly", [(2, 4)], {"threshold": 1.0}),
        ("segmentation", [(2, 5, 6, 3)], {}),
        ("keypoints", [(2, 1, 17, 3)], {}),
        ("detection", [(2, 6, 4), (2, 6, 3)], {}),
        ("detection", [(2, 6, 4), (2, 6), (2, 6), (2,)], {}),
        ("detection", [(2, 10, 7)], {"boxes": BoxDeclaration(objectness=False)}),
    ],
)
@pytest.mark.parametrize("asked", [True, False])
def test_a_batch_has_one_answer_for_each_sample(
    task: Task,
    values: list[tuple[int, ...]],
    more: dict[str, Any],
    asked: bool,  # noqa: FBT001
) -> None:
    """Of every task; each as if the sample had come alone."""
    rng = np.random.default_rng(0)
    outputs = [rng.uniform(0, 1, shape).astype(np.float32) for shape in values]
    given = TWO if asked or task == "anomaly" else None
    together = answer(task, *outputs, given=given, **more)
    assert (together["task"], len(together["answers"])) == (task, 2)
    for i, one in enumerate(together["answers"]):
        alone = answer(task, *(o[i : i + 1] for o in outputs), given=None if given is None else TWO[:1], **more)
        assert one == alone


def test_raw_tensors_are_told_only_if_asked() -> None:
    """The answer has a summary; the values come with `read_tensors`, up to a bound."""
    values = np.float32([[1, np.nan, 3]])
    assert answer("raw", np.float32([[1, 2, 3]]))["outputs"]["y0"] == {
        "datatype": "FP32",
        "shape": [1, 3],
        "min": 1.0,
        "max": 3.0,
        "mean": 2.0,
    }
    assert answer("raw", values)["outputs"]["y0"]["min"] is None
    spec = TensorSpec("y", "FP32", (1, 3)), TensorSpec("s", "BYTES", (1,))
    description = Description("e", "1", "fast", "raw", (INPUT,), spec)
    told = read_tensors({"y": values, "s": np.array([b"a\xff"], object)}, description)
    assert told["y"]["values"] == [1.0, None, 3.0]
    assert told["s"]["values"] == ["a\ufffd"]
    large = read_tensors({"y": np.zeros((300, 300), np.float32), "s": np.array([b""], object)}, description)
    assert "ask /v2" in large["y"]["note"]


FORMS: list[tuple[Task, tuple[int, ...], dict[str, Any]]] = [
    ("classification", (1, 4), {"activation": "softmax"}),
    ("multilabel", (1, 4), {"activation": "sigmoid"}),
    ("regression", (1, 4), {"scale": (3.0,)}),
    ("embedding", (1, 4), {"normalize": True}),
    ("anomaly", (1, 4), {"threshold": 0.5}),
    ("keypoints", (1, 2, 2), {}),
    ("segmentation", (1, 2, 2, 1), {"mask": MaskDeclaration(encoding="both")}),
    ("raw", (1, 4), {}),
]


@given(st.sampled_from(FORMS), st.data())
def test_whatever_the_numbers_an_answer_is_json(form: tuple[Task, tuple[int, ...], Any], data: st.DataObject) -> None:
    """NaN and infinities, too: RFC 8259 has no such numbers."""
    task, shape, more = form
    values = data.draw(arrays.arrays(np.float32, shape, elements=st.floats(width=32)))
    with np.errstate(all="ignore"):
        found = answer(task, values, given=np.zeros((1, 4), np.int8), **more)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["task"] == task
