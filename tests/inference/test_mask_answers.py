"""Segmentation: shares, run lengths and PNG of a mask."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edge_runtime.contract.outputs import MaskDeclaration, OutputDeclaration
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference.answers import run_lengths
from edge_runtime.inference.answers.segmentation import MAX_RUNS, segmentation
from edge_runtime.inference.answers.view import View

WHOLE = View()
FLOAT = TensorSpec("mask", "FP32", (1, 2, 3, 3))
INTEGER = TensorSpec("mask", "INT64", (1, 2, 3))
MAP = np.array([[0, 0, 2], [0, 1, 2]])


def answer(
    values: Any,
    spec: TensorSpec = FLOAT,
    labels: tuple[str, ...] = (),
    view: View = WHOLE,
    **more: Any,
) -> dict[str, Any]:
    """The answer for this output; `more` are keys of output and output.mask."""
    told = {key: more.pop(key) for key in ("channels", "encoding", "background") if key in more}
    return segmentation(np.asarray(values), spec, labels, OutputDeclaration(mask=MaskDeclaration(**told), **more), view)


def one_hot(indices: NDArray[Any]) -> NDArray[Any]:
    """Scores (1, H, W, 3) whose best class is `indices`."""
    return np.eye(3, dtype=np.float32)[indices][None]


@pytest.mark.parametrize(
    ("values", "spec", "more"),
    [
        (one_hot(MAP), FLOAT, {}),
        (np.moveaxis(one_hot(MAP), -1, 1), FLOAT, {"channels": "first"}),
        (one_hot(MAP)[0], FLOAT, {}),
        (MAP[None], INTEGER, {}),
        (MAP[None, :, :, None], INTEGER, {}),
        (MAP, INTEGER, {}),
    ],
)
def test_each_class_has_a_share_and_run_lengths(values: NDArray[Any], spec: TensorSpec, more: dict[str, Any]) -> None:
    """Scores of classes in either order, or the classes themselves; largest first; runs go down the columns."""
    found = answer(values, spec, ("sky", "cat", "dog"), **more)
    assert found["size"] == [2, 3]
    assert [(c["label"], c["index"], c["share"]) for c in found["classes"]] == [
        ("sky", 0, 0.5),
        ("dog", 2, 0.333333),
        ("cat", 1, 0.166667),
    ]
    assert [c["rle"]["counts"] for c in found["classes"]] == [[0, 3, 3], [4, 2], [3, 1, 2]]


def test_one_channel_is_foreground_from_the_threshold_on() -> None:
    """With a sigmoid where the model ends in logits; one label names the foreground."""
    scores = np.array([[0.2, 0.5], [0.9, 0.4]])[None, :, :, None]
    assert [c["share"] for c in answer(scores)["classes"]] == [0.5, 0.5]
    found = answer(scores, labels=("road",), activation="sigmoid", threshold=0.6)
    assert [(c["label"], c["share"]) for c in found["classes"]] == [("background", 0.5), ("road", 0.5)]


def test_below_the_threshold_is_background() -> None:
    """Pixels of several classes of which the best is not good enough; it must be said what they are then."""
    scores = one_hot(MAP) * 0.4
    found = answer(scores, threshold=0.5, background=0)
    assert [(c["index"], c["share"]) for c in found["classes"]] == [(0, 1.0)]
    assert "rle" not in found["classes"][0]
    with pytest.raises(ValueError, match=r"needs output\.mask\.background"):
        answer(scores, threshold=0.5)


def test_png_holds_the_indices() -> None:
    """Pillow reads what is written without it."""
    image = pytest.importorskip("PIL.Image")
    found = answer(MAP[None], INTEGER, encoding="png")
    assert "rle" not in found["classes"][0]
    with image.open(io.BytesIO(base64.b64decode(found["png"]))) as picture:
        assert picture.mode == "L"
        assert np.asarray(picture).tolist() == MAP.tolist()
    assert {"png", "classes"} <= answer(MAP[None], INTEGER, encoding="both").keys()
    assert "png" not in answer(MAP[None], INTEGER, encoding="none")


def test_a_letterbox_has_no_share() -> None:
    """The bars are no part of the picture; of a crop, the answer says which part it is."""
    mask = np.zeros((1, 4, 4), np.int64)
    mask[0, 1:3] = 1
    boxed = answer(mask, INTEGER, view=View(-0.5, 0.0, 2.0, 1.0))
    assert boxed["size"] == [2, 4]
    assert [(c["index"], c["share"]) for c in boxed["classes"]] == [(1, 1.0)]
    cropped = answer(mask, INTEGER, view=View(0.0, 0.25, 1.0, 0.5))
    assert cropped["size"] == [4, 4]
    assert cropped["part"] == {"ymin": 0.0, "xmin": 0.25, "ymax": 1.0, "xmax": 0.75}


def test_a_mask_of_noise_is_bounded() -> None:
    """Too many runs are not sent; the note says what to do."""
    noise = np.random.default_rng(0).integers(0, 2, (1, 512, 512))
    found = answer(noise, INTEGER)
    assert "png" in found["note"]
    assert sum(len(c.get("rle", {"counts": []})["counts"]) for c in found["classes"]) <= MAX_RUNS + 2
    assert (
        "ask /v2" in answer(np.random.default_rng(0).integers(0, 256, (1, 900, 900)), INTEGER, encoding="png")["note"]
    )


@pytest.mark.parametrize("shape", [(4,), (2, 3, 3, 3), (1, 0, 3, 3), (1, 1000), ()])
def test_no_mask(shape: tuple[int, ...]) -> None:
    """What has no height and width is no mask."""
    with pytest.raises(ValueError, match="is no mask"):
        answer(np.zeros(shape, np.float32))


MASK = arrays.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(MASK)
def test_run_lengths_come_back(mask: NDArray[np.bool_]) -> None:
    """And are counted right before they are made."""
    encoded = run_lengths.encode(mask)
    assert np.array_equal(run_lengths.decode(encoded), mask)
    assert sum(encoded["counts"]) == mask.size
    assert all(count > 0 for count in encoded["counts"][1:])
    assert run_lengths.runs(mask) + bool(mask[0, 0]) == len(encoded["counts"])


def test_run_lengths_that_do_not_fill_the_mask() -> None:
    """Counts of another size are refused."""
    with pytest.raises(ValueError, match="cover 3 pixels of 2 x 2"):
        run_lengths.decode({"size": [2, 2], "counts": [1, 2]})
