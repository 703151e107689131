"""Key points: where the nose is, and how sure the model is of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.outputs import OutputDeclaration, PointLayout
from edge_runtime.inference.answers.scores import activate, label, number
from edge_runtime.inference.answers.view import Frame

MAX_POINTS = 1000
_BY_WIDTH: dict[int, PointLayout] = {2: "yx", 3: "yxs"}


def keypoints(values: NDArray[Any], labels: Sequence[str], output: OutputDeclaration, frame: Frame) -> dict[str, Any]:
    """The points of one sample, in fractions of the caller's picture; those below the threshold are left out.

    `values` are coordinates (..., points, 2 or 3), all in one row, or heatmaps (1, H, W, points).

    Raises:
        ValueError: the output is not what is declared, or its layout cannot be told.
    """
    names = output.names or labels
    places, scores = _highest(values, output) if output.points.heatmaps else _listed(values, output, frame)
    if len(places) > MAX_POINTS:
        raise ValueError(f"{len(places)} points are more than {MAX_POINTS}")
    if output.names and len(output.names) != len(places):
        raise ValueError(f"output.names has {len(output.names)} names, but there are {len(places)} points")
    seen = frame.view.corners(places)
    return {"task": "keypoints", "points": _points(seen, scores, names, output.threshold)}


def _points(
    places: NDArray[Any], scores: NDArray[Any] | None, names: Sequence[str], threshold: float | None
) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    for i, (y, x) in enumerate(places):
        score = None if scores is None else scores[i]
        if score is not None and threshold is not None and not score >= threshold:
            continue
        point = {"label": label(names, i), "index": i, "y": number(y), "x": number(x)}
        points.append(point | ({} if score is None else {"score": number(score)}))
    return points


def _listed(values: NDArray[Any], output: OutputDeclaration, frame: Frame) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Places (N, 2), y before x, in fractions of the model's picture; and scores (N,) if there are any."""
    layout = output.points.layout or _BY_WIDTH.get(_width(values, len(output.names)))
    if layout is None or not values.size or values.size % len(layout):
        raise ValueError(
            f"an output {list(values.shape)} is no list of points: set output.points.layout, "
            "or output.points.heatmaps=true"
        )
    table = values.reshape(-1, len(layout))
    places = frame.fractions(table[:, [layout.index("y"), layout.index("x")]], output.points.coordinates)
    if "s" not in layout:
        return places, None
    return places, activate(table[:, layout.index("s"), None], output.activation)[:, 0]


def _width(values: NDArray[Any], names: int) -> int:
    """How many numbers each point has: by the number of names, else by the last dimension."""
    if names and values.size % names == 0:
        return values.size // names
    return values.shape[-1] if values.ndim > 1 else 0


def _highest(values: NDArray[Any], output: OutputDeclaration) -> tuple[NDArray[Any], NDArray[Any]]:
    """The middle of the highest pixel of each map, in fractions, and its score."""
    maps = values[0] if values.ndim == 4 else values
    if maps.ndim != 3 or not maps.size:
        raise ValueError(f"an output {list(values.shape)} is no heatmap (1, H, W, points)")
    height, width, count = maps.shape
    flat = maps.reshape(-1, count)
    places = np.stack(np.unravel_index(flat.argmax(axis=0), (height, width)), axis=1)
    scores = activate(flat.max(axis=0)[:, None], output.activation)[:, 0]
    return (places + 0.5) / (height, width), scores
