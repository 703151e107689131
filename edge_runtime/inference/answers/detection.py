"""Boxes with classes: from models that choose among them, and from those that leave it to whoever reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.outputs import BoxDeclaration, BoxFormat, BoxRole, OutputDeclaration
from edge_runtime.inference.answers.scores import activate, class_scores, label, number, scores_of
from edge_runtime.inference.answers.suppression import suppress
from edge_runtime.inference.answers.view import Frame, corners_of

CORNERS = ("ymin", "xmin", "ymax", "xmax")  # fractions of the picture's height and width
_POSTPROCESSED: tuple[BoxRole, ...] = ("boxes", "classes", "scores", "count")
_PLAIN_THRESHOLD = 0.25
_MIN_YOLO_COLUMNS = 5

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes (N, 4) in the format `order`, their best classes' scores (N,) and indices (N,).

    `chosen`: the model has suppressed and counted them already.
    """

    boxes: NDArray[Any]
    scores: NDArray[Any]
    classes: NDArray[Any]
    order: BoxFormat
    chosen: bool = False


def detection(
    outputs: Sequence[NDArray[Any]], labels: Sequence[str], output: OutputDeclaration, frame: Frame
) -> dict[str, Any]:
    """The objects in one sample's outputs, best first, with boxes in fractions of the caller's picture.

    Raises:
        ValueError: the outputs are not what is declared, or what they are cannot be told from their shapes.
    """
    told = output.boxes
    found = _candidates(outputs, labels, output)
    threshold = output.threshold
    if threshold is None:
        threshold = 0.0 if found.chosen else _PLAIN_THRESHOLD
    # NaN is above nothing.
    usable = np.flatnonzero((found.scores >= threshold) & np.isfinite(found.boxes).all(axis=1))
    corners = frame.fractions(corners_of(found.boxes[usable], told.format or found.order), told.coordinates)
    scores, classes = found.scores[usable], found.classes[usable]
    kept = _chosen(corners, scores, classes, told, chosen=found.chosen)
    seen = np.clip(frame.view.corners(corners[kept]), 0.0, 1.0)
    objects = [
        {
            "label": label(labels, int(classes[i])),
            "score": number(scores[i]),
            "index": int(classes[i]),
            "box": dict(zip(CORNERS, map(number, box), strict=True)),
        }
        for i, box in zip(kept, seen, strict=True)
        if box[2] > box[0] and box[3] > box[1]  # the others lie outside of the picture, or are no boxes
    ]
    return {"task": "detection", "objects": objects}


def _chosen(
    corners: NDArray[Any], scores: NDArray[Any], classes: NDArray[Any], told: BoxDeclaration, *, chosen: bool
) -> NDArray[np.intp]:
    nms = told.nms or ("none" if chosen else "per_class")
    if nms == "none":
        return np.argsort(-scores, kind="stable")[: told.max_objects]
    groups = classes if nms == "per_class" else None
    return suppress(corners, scores, groups, told.iou_threshold, told.max_objects)


def _candidates(outputs: Sequence[NDArray[Any]], labels: Sequence[str], output: OutputDeclaration) -> Candidates:
    roles = output.boxes.roles or guess_roles([values.shape for values in outputs])
    if len(roles) != len(outputs):
        raise ValueError(f"output.boxes.roles has {len(roles)} roles, but the model has {len(outputs)} outputs")
    arrays: dict[str, NDArray[Any]] = dict(zip(roles, outputs, strict=True))
    if "yolo" in arrays:
        return _yolo(arrays["yolo"], len(labels), output)
    return _rows(arrays["rows"]) if "rows" in arrays else _separate(arrays, output)


def guess_roles(shapes: Sequence[tuple[int, ...]]) -> tuple[BoxRole, ...]:
    """What each output is, by the shapes: TFLite_Detection_PostProcess, boxes and scores, or all in one.

    Raises:
        ValueError: it cannot be told.
    """
    boxes = [shape[-1:] == (4,) for shape in shapes]
    if len(shapes) == 1 and not boxes[0]:
        return ("yolo",)
    if len(shapes) == 2 and sum(boxes) == 1:
        return ("boxes", "scores") if boxes[0] else ("scores", "boxes")
    if len(shapes) == 4 and boxes[0]:
        return _POSTPROCESSED
    shown = ", ".join(str(list(shape)) for shape in shapes)
    raise ValueError(f"which output holds boxes and which scores cannot be told from {shown}: set output.boxes.roles")


def _separate(arrays: Arrays, output: OutputDeclaration) -> Candidates:
    boxes = arrays["boxes"].reshape(-1, 4)
    scores = _each(arrays["scores"], len(boxes), "scores")
    if "classes" in arrays:
        classes = np.rint(_each(arrays["classes"], len(boxes), "classes")[:, 0])
        usable = np.isfinite(classes) & (classes != output.boxes.background)
        classes = np.where(usable, classes, 0)
        best = np.where(usable, scores_of(scores[:, 0], classes, output), np.nan)
    else:
        best, classes = _best(class_scores(scores, output), output.boxes.background)
    count = len(boxes)
    if "count" in arrays:
        told = arrays["count"].reshape(-1)[:1]
        count = int(np.clip(told[0], 0, count)) if told.size and np.isfinite(told[0]) else 0
    return Candidates(boxes[:count], best[:count], classes[:count].astype(np.int64), "yxyx", "count" in arrays)


def _each(values: NDArray[Any], count: int, role: str) -> NDArray[Any]:
    if not count or not values.size or values.size % count:
        raise ValueError(f"the {role} {list(values.shape)} are not so many for each of {count} boxes")
    return values.reshape(count, -1)


def _best(scores: NDArray[Any], background: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Score and index of the best class of each row (N, classes) that is not the background."""
    if background is not None:
        if background >= scores.shape[1] or scores.shape[1] < 2:
            raise ValueError(f"output.boxes.background is {background}, but there are {scores.shape[1]} classes")
        scores = scores.copy()
        scores[:, background] = -np.inf
    classes = scores.argmax(axis=1)
    return scores[np.arange(len(scores)), classes], classes


def _yolo(values: NDArray[Any], classes: int, output: OutputDeclaration) -> Candidates:
    """Rows (or columns) of box, objectness where there is one, and a score for each class."""
    rows, across = _yolo_rows(values, classes)
    objectness = output.boxes.objectness
    if objectness is None:
        objectness = rows.shape[1] == 5 + classes if classes else not across
    first = 5 if objectness else 4
    if rows.shape[1] <= first or (classes and rows.shape[1] != first + classes):
        raise ValueError(
            f"{rows.shape[1]} numbers for each box are not 4, {'objectness, ' if objectness else ''}and a score for "
            f"each of {classes or 'the'} classes: set output.boxes.objectness, or output.boxes.roles=rows for "
            "box, score, class"
        )
    best, indices = _best(class_scores(rows[:, first:], output), output.boxes.background)
    if objectness:
        best = best * activate(rows[:, 4:5], "sigmoid" if output.activation == "sigmoid" else "none")[:, 0]
    return Candidates(rows[:, :4], best, indices, "cxcywh")


def _yolo_rows(values: NDArray[Any], classes: int) -> tuple[NDArray[Any], bool]:
    """One row a box, (N, numbers of one); and whether the model has them the other way round, one column a box."""
    first, last = values.shape[-2:] if values.ndim > 1 else (0, 0)
    if first * last != values.size or min(first, last) < _MIN_YOLO_COLUMNS:
        raise ValueError(f"an output {list(values.shape)} holds no boxes with scores for each class")
    widths = {4 + classes, 5 + classes} if classes else set()
    across = last not in widths if widths & {first, last} else first < last
    table = values.reshape(first, last)
    return (table.T if across else table), across


def _rows(values: NDArray[Any]) -> Candidates:
    """One row a box: box, score, class."""
    if values.shape[-1:] != (6,):
        raise ValueError(f"rows must have 6 numbers (box, score, class), but the output is {list(values.shape)}")
    rows = values.reshape(-1, 6)
    classes = np.rint(rows[:, 5])
    usable = np.isfinite(classes)
    scores = np.where(usable, rows[:, 4], np.nan)
    return Candidates(rows[:, :4], scores, np.where(usable, classes, 0).astype(np.int64), "xyxy", chosen=True)
