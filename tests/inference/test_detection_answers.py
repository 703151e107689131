"""Boxes from every layout that models have, in fractions of the caller's picture."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edge_runtime.contract.outputs import BoxDeclaration, BoxFormat, OutputDeclaration
from edge_runtime.inference.answers.detection import detection, guess_roles
from edge_runtime.inference.answers.view import Frame, View, corners_of, frame_of

FRAME = Frame(100, 200)
BOX = {"ymin": 0.1, "xmin": 0.2, "ymax": 0.5, "xmax": 0.4}
CORNERS = (0.1, 0.2, 0.5, 0.4)
FORMATS: dict[BoxFormat, tuple[float, ...]] = {
    "yxyx": CORNERS,
    "xyxy": (0.2, 0.1, 0.4, 0.5),
    "yxhw": (0.1, 0.2, 0.4, 0.2),
    "xywh": (0.2, 0.1, 0.2, 0.4),
    "cycxhw": (0.3, 0.3, 0.4, 0.2),
    "cxcywh": (0.3, 0.3, 0.2, 0.4),
}


def find(
    *outputs: Any,
    labels: tuple[str, ...] = (),
    frame: Frame = FRAME,
    threshold: float | None = None,
    activation: Any = "none",
    **boxes: Any,
) -> list[dict[str, Any]]:
    """The objects in these outputs."""
    told = OutputDeclaration(threshold=threshold, activation=activation, boxes=BoxDeclaration(**boxes))
    return list(detection([np.asarray(o, np.float32) for o in outputs], labels, told, frame)["objects"])


def near(box: dict[str, float], expected: dict[str, float]) -> bool:
    """Whether two boxes are the same but for rounding."""
    return box.keys() == expected.keys() and all(abs(box[key] - expected[key]) < 1e-5 for key in box)


@pytest.mark.parametrize("order", FORMATS)
@pytest.mark.parametrize("coordinates", ["fraction", "pixel"])
def test_every_format_of_a_box(order: BoxFormat, coordinates: Any) -> None:
    """Corners, corner and size, centre and size, either axis first; as fractions or as the input's pixels."""
    size = {"y": 100, "x": 200, "h": 100, "w": 200}
    axes = [c for c in order if c != "c"]
    factors = [size[axis] if coordinates == "pixel" else 1 for axis in axes]
    box = np.array([[FORMATS[order]]]) * factors
    (found,) = find(box, [[[0.9]]], format=order, coordinates=coordinates)
    assert near(found["box"], BOX)


def test_pixels_need_a_picture() -> None:
    """Without the input's size, a fraction cannot be made."""
    with pytest.raises(ValueError, match="input is no picture"):
        find([[CORNERS]], [[[0.9]]], coordinates="pixel", frame=Frame())


def test_scores_may_come_first_and_the_background_is_nothing() -> None:
    """Two outputs are told apart by their shapes; a background class wins nothing."""
    scores = [[[0.6, 0.4], [0.9, 0.1]]]
    boxes = [[CORNERS, (0.6, 0.6, 0.9, 0.9)]]
    found = find(scores, boxes, labels=("background", "face"), background=0)
    assert [(o["label"], o["index"], o["score"]) for o in found] == [("face", 1, 0.4)]


def test_suppression_is_per_class_unless_declared_otherwise() -> None:
    """The same box for two classes: both stay, or the better one, or everything."""
    boxes, scores = [[CORNERS, CORNERS, CORNERS]], [[[0.9, 0], [0, 0.8], [0.7, 0]]]
    assert [o["index"] for o in find(boxes, scores)] == [0, 1]
    assert [o["index"] for o in find(boxes, scores, nms="agnostic")] == [0]
    assert len(find(boxes, scores, nms="none")) == 3
    assert len(find(boxes, scores, nms="none", max_objects=2)) == 2
    assert [o["score"] for o in find(boxes, scores, threshold=0.85)] == pytest.approx([0.9])


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("objectness", [False, True])
def test_yolo_either_way_round_with_and_without_objectness(across: bool, objectness: bool) -> None:  # noqa: FBT001
    """The number of labels tells which axis is which, and whether there is an objectness column."""
    rows = np.zeros((1, 40, 4 + objectness + 3), np.float32)
    rows[0, 7, :4] = FORMATS["cxcywh"]
    rows[0, 7, -2] = 0.8
    if objectness:
        rows[0, 7, 4] = 0.5
    found = find(rows.swapaxes(1, 2) if across else rows, labels=("a", "b", "c"))
    assert [(o["label"], o["score"]) for o in found] == [("b", pytest.approx(0.4 if objectness else 0.8))]
    assert near(found[0]["box"], BOX)


def test_yolo_without_labels() -> None:
    """Columns are the newer models', without objectness; rows the older ones', with it; a declaration overrules."""
    new = np.zeros((1, 6, 50), np.float32)
    new[0, :, 3] = (*FORMATS["cxcywh"], 0.1, 0.9)
    assert [(o["index"], o["score"]) for o in find(new)] == [(1, pytest.approx(0.9))]
    old = np.zeros((1, 50, 6), np.float32)
    old[0, 3] = (*FORMATS["cxcywh"], 0.5, 0.8)
    assert [(o["index"], o["score"]) for o in find(old)] == [(0, pytest.approx(0.4))]
    assert [(o["index"], o["score"]) for o in find(old, objectness=False)] == [(1, pytest.approx(0.8))]


def test_rows_of_box_score_and_class() -> None:
    """A model that has suppressed on its own: nothing is suppressed again, and no threshold is assumed."""
    rows = [[(*FORMATS["xyxy"], 0.1, 2), (*FORMATS["xyxy"], 0.9, 1), (0, 0, 0, 0, 0, 0)]]
    found = find(rows, roles=("rows",))
    assert [(o["index"], o["score"]) for o in found] == [(1, pytest.approx(0.9)), (2, pytest.approx(0.1))]


def test_logits_become_scores() -> None:
    """Softmax over a box's classes, or a sigmoid of each."""
    boxes, logits = [[CORNERS]], [[[0.0, 2.0]]]
    assert find(boxes, logits, activation="sigmoid")[0]["score"] == pytest.approx(1 / (1 + np.exp(-2)), rel=1e-5)
    assert find(boxes, logits, activation="softmax")[0]["score"] == pytest.approx(np.exp(2) / (1 + np.exp(2)), rel=1e-5)


def test_roles_may_be_declared_in_any_order() -> None:
    """TensorFlow 2's exporters do not keep the order of TFLite_Detection_PostProcess; "none" is left alone."""
    found = find(
        [[0.9, 0.8]], [[CORNERS, CORNERS]], [1], [[5, 6]], [7], roles=("scores", "boxes", "count", "classes", "none")
    )
    assert [(o["index"], o["score"]) for o in found] == [(5, pytest.approx(0.9))]


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (View(0.0, 0.25, 1.0, 0.5), {"ymin": 0.1, "xmin": 0.35, "ymax": 0.5, "xmax": 0.45}),
        (View(-0.5, 0.0, 2.0, 1.0), {"ymin": 0.0, "xmin": 0.2, "ymax": 0.5, "xmax": 0.4}),
    ],
)
def test_boxes_are_those_of_the_callers_picture(view: View, expected: dict[str, float]) -> None:
    """A crop shows a part of it, a letterbox more than it: then boxes end where the picture does."""
    (found,) = find([[CORNERS]], [[[0.9]]], frame=Frame(100, 200, view))
    assert near(found["box"], expected)
    bar = [[(0.0, 0.0, 0.2, 0.2)]]
    assert find(bar, [[[0.9]]], frame=Frame(100, 200, View(-0.5, 0.0, 2.0, 1.0))) == []


@pytest.mark.parametrize(
    ("outputs", "more", "message"),
    [
        (((1, 10, 4), (1, 10, 4)), {}, "set output.boxes.roles"),
        (((1, 10, 4),), {}, "set output.boxes.roles"),
        (((1, 10), (1, 10), (1, 10, 4), (1,)), {}, "set output.boxes.roles"),
        (((1, 10, 4), (1, 7)), {}, "scores \\[1, 7\\] are not so many for each of 10 boxes"),
        (((1, 10, 4), (1, 10, 3)), {"roles": ("boxes", "scores", "count")}, "has 3 roles, but the model has 2 outputs"),
        (((1, 10, 4), (1, 10, 3)), {"background": 3}, "background is 3, but there are 3 classes"),
        (((1, 3),), {}, "holds no boxes"),
        (((1, 10, 7),), {"labels": ("a", "b", "c", "d")}, "set output.boxes.objectness"),
        (((1, 10, 7),), {"roles": ("rows",)}, "rows must have 6 numbers"),
    ],
)
def test_outputs_that_cannot_be_read(outputs: tuple[tuple[int, ...], ...], more: dict[str, Any], message: str) -> None:
    """The message has the shapes and names the key that would help."""
    with pytest.raises(ValueError, match=message):
        find(*(np.zeros(shape) for shape in outputs), **more)


def test_guessed_roles() -> None:
    """By shapes alone."""
    assert guess_roles([(1, 10, 4), (1, 10), (1, 10), (1,)]) == ("boxes", "classes", "scores", "count")
    assert guess_roles([(1, 84, 8400)]) == ("yolo",)


def test_the_frame_of_an_input() -> None:
    """Height and width, whichever way round the channels are."""
    assert (frame_of((1, 240, 320, 3), None).height, frame_of((1, 240, 320, 3), None).width) == (240, 320)
    assert (frame_of((1, 3, 240, 320), None).height, frame_of((1, 3, 240, 320), None).width) == (240, 320)
    assert frame_of((1, 10), None) == Frame()


ANY = arrays.arrays(np.float32, (1, 6, 4), elements=st.floats(width=32))
SCORES = arrays.arrays(np.float32, (1, 6, 2), elements=st.floats(width=32))


@given(ANY, SCORES, st.sampled_from(list(FORMATS)), st.sampled_from(["none", "softmax", "sigmoid"]))
def test_whatever_the_numbers_boxes_are_in_the_picture(
    boxes: NDArray[Any], scores: NDArray[Any], order: BoxFormat, activation: str
) -> None:
    """NaN, infinities and huge values give finite boxes within 0..1 with corners in order, or none."""
    with np.errstate(all="ignore"):
        found = find(boxes, scores, format=order, activation=activation, threshold=0.0)
    for entry in found:
        box = entry["box"]
        assert 0 <= box["ymin"] < box["ymax"] <= 1
        assert 0 <= box["xmin"] < box["xmax"] <= 1
        assert entry["index"] in (0, 1)


@pytest.mark.parametrize("order", FORMATS)
def test_corners(order: BoxFormat) -> None:
    """The table of formats is true."""
    assert corners_of(np.array([FORMATS[order]]), order)[0] == pytest.approx(CORNERS)
