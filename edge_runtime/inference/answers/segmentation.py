"""A class for each pixel: how much of the picture each has, and where."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.outputs import MaskDeclaration, OutputDeclaration
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference.answers import run_lengths
from edge_runtime.inference.answers.detection import CORNERS
from edge_runtime.inference.answers.scores import activate, label, number
from edge_runtime.inference.answers.view import View

MAX_RUNS = 32_768  # of all classes of an answer: it is read by people and sent over MQTT
MAX_PNG_BYTES = 512 * 1024
MAX_CLASSES = 256
_FOREGROUND_THRESHOLD = 0.5


def segmentation(
    values: NDArray[Any], spec: TensorSpec, labels: Sequence[str], output: OutputDeclaration, view: View
) -> dict[str, Any]:
    """Each class's share of the picture (0..1), largest first, and its run lengths or a PNG of all.

    `values` are scores (1, H, W, C) or (1, C, H, W), those of one class (1, H, W), or, in an integer output, the
    classes themselves.

    Raises:
        ValueError: the output is no mask.
    """
    indices, names = _indices(values, spec, labels, output)
    indices, part = _seen(indices, view)
    present, pixels = np.unique(indices, return_counts=True)
    order = np.argsort(-pixels, kind="stable")[:MAX_CLASSES]
    classes = [
        {"label": label(names, int(present[i])), "index": int(present[i]), "share": number(pixels[i] / indices.size)}
        for i in order
    ]
    answer = {"task": "segmentation", "size": list(indices.shape), "classes": classes} | part
    if output.mask.encoding in ("rle", "both"):
        _add_run_lengths(answer, indices, output.mask)
    if output.mask.encoding in ("png", "both"):
        _add_png(answer, indices)
    return answer


def _indices(
    values: NDArray[Any], spec: TensorSpec, labels: Sequence[str], output: OutputDeclaration
) -> tuple[NDArray[np.int64], Sequence[str]]:
    """Class indices (H, W), and the names of the classes."""
    scores = values[0] if values.ndim > 2 and values.shape[0] == 1 else values
    if scores.ndim == 3 and output.mask.channels == "first":
        scores = np.moveaxis(scores, 0, -1)
    if scores.ndim == 3 and scores.shape[2] == 1:
        scores = scores[:, :, 0]
    if scores.ndim not in (2, 3) or not scores.size or min(scores.shape[:2]) < 2:
        raise ValueError(f"an output {list(values.shape)} is no mask of height, width and classes")
    if scores.ndim == 3:
        return _best(scores, output), labels
    if not spec.quantized and not spec.datatype.startswith("FP"):
        return scores.astype(np.int64), labels
    threshold = _FOREGROUND_THRESHOLD if output.threshold is None else output.threshold
    foreground = activate(scores[:, :, None], output.activation)[:, :, 0] >= threshold
    return foreground.astype(np.int64), ("background", *labels) if len(labels) == 1 else labels


def _best(scores: NDArray[Any], output: OutputDeclaration) -> NDArray[np.int64]:
    best: NDArray[np.int64] = scores.argmax(axis=2)
    if output.threshold is not None:
        background = output.mask.background
        if background is None:
            raise ValueError("a threshold for a mask of several classes needs output.mask.background, what is below it")
        # NaN is above nothing.
        sure = activate(scores, output.activation).max(axis=2) >= output.threshold
        best = np.where(sure, best, background)
    return best


def _seen(indices: NDArray[np.int64], view: View) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """What of the mask lies in the caller's picture (no letterbox's bars), and which part of the picture it is."""
    if view == View():
        return indices, {}
    height, width = indices.shape
    rows = view.top + (np.arange(height) + 0.5) / height * view.height
    columns = view.left + (np.arange(width) + 0.5) / width * view.width
    inside = np.ix_((rows > 0) & (rows < 1), (columns > 0) & (columns < 1))
    if not indices[inside].size:
        return indices, {}
    corners = np.clip(view.corners(np.array([[0.0, 0.0, 1.0, 1.0]])), 0.0, 1.0)[0]
    return indices[inside], {"part": dict(zip(CORNERS, map(number, corners), strict=True))}


def _add_run_lengths(answer: dict[str, Any], indices: NDArray[np.int64], told: MaskDeclaration) -> None:
    left = MAX_RUNS
    for entry in answer["classes"]:
        mask = indices == entry["index"]
        if entry["index"] == told.background:
            continue
        left -= run_lengths.runs(mask)
        if left < 0:
            answer["note"] = f"the mask has more than {MAX_RUNS} runs: set output.mask.encoding=png, or ask /v2"
            return
        entry["rle"] = run_lengths.encode(mask)


def _add_png(answer: dict[str, Any], indices: NDArray[np.int64]) -> None:
    picture = run_lengths.png(np.clip(indices, 0, 255).astype(np.uint8))
    if len(picture) > MAX_PNG_BYTES:
        answer["note"] = f"the mask has more than {MAX_PNG_BYTES} bytes as PNG: ask /v2"
    else:
        answer["png"] = picture
