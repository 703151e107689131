"""Where the model's picture lies in the caller's, and what boxes in the one are in the other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.outputs import BoxFormat, Coordinates

_SWAP = (1, 0, 3, 2)
_CORNERS: dict[BoxFormat, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "yxyx": lambda boxes: boxes,
    "xyxy": lambda boxes: boxes[:, _SWAP],
    "yxhw": lambda boxes: np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]),
    "xywh": lambda boxes: _CORNERS["yxhw"](boxes[:, _SWAP]),
    "cycxhw": lambda boxes: np.hstack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2]),
    "cxcywh": lambda boxes: _CORNERS["cycxhw"](boxes[:, _SWAP]),
}


@dataclass(frozen=True, slots=True)
class View:
    """The rectangle that the model saw, in fractions of the caller's picture (upright, as people see it).

    Part of the picture where it was cropped (top 0.1, height 0.8), more than it where it was letterboxed (top -0.2,
    height 1.4), the whole where it was stretched.
    """

    top: float = 0.0
    left: float = 0.0
    height: float = 1.0
    width: float = 1.0

    def corners(self, corners: NDArray[Any]) -> NDArray[Any]:
        """Corners or points (N, 2 or 4), y before x, in fractions of the model's picture: in those of the caller's."""
        times = corners.shape[1] // 2
        moved: NDArray[Any] = corners * ((self.height, self.width) * times) + ((self.top, self.left) * times)
        return moved


@dataclass(frozen=True, slots=True)
class Frame:
    """The model's picture: its size in pixels (0 where it is not known), and the view that it is of the caller's."""

    height: int = 0
    width: int = 0
    view: View = View()

    def fractions(self, values: NDArray[Any], coordinates: Coordinates) -> NDArray[Any]:
        """Corners or points (N, 2 or 4), y before x, as fractions of the model's picture.

        Raises:
            ValueError: they are pixels, and the input is no picture.
        """
        if coordinates == "fraction":
            return values
        if not (self.height and self.width):
            raise ValueError("coordinates are declared as pixels, but the input is no picture")
        scaled: NDArray[Any] = values / ((self.height, self.width) * (values.shape[1] // 2))
        return scaled


def frame_of(shape: tuple[int, ...], view: View | None) -> Frame:
    """The frame of an input of `shape`: (1, H, W, C), (1, C, H, W) with C 1 or 3, or (1, H, W)."""
    size = (0, 0)
    if len(shape) == 4:
        size = shape[2:] if shape[1] in (1, 3) and shape[3] not in (1, 3) else shape[1:3]
    elif len(shape) == 3:
        size = shape[1:]
    return Frame(max(0, size[0]), max(0, size[1]), view or View())


def corners_of(boxes: NDArray[Any], order: BoxFormat) -> NDArray[Any]:
    """Boxes (N, 4) in any format as corners (N, 4): ymin, xmin, ymax, xmax."""
    return _CORNERS[order](boxes)


def view_of(have: tuple[int, int], want: tuple[int, int], resize: str, crop_fraction: float = 1.0) -> View:
    """What a model that takes pictures of the size `want` sees of one of the size `have` (width, height, upright).

    `resize` and `crop_fraction` are the input declaration's.
    """
    match resize:
        case "crop":
            scale = min(have[0] / want[0], have[1] / want[1]) * crop_fraction
            width, height = want[0] * scale / have[0], want[1] * scale / have[1]
            return View((1 - height) / 2, (1 - width) / 2, height, width)
        case "fit":
            scale = min(want[0] / have[0], want[1] / have[1])
            inner = (max(1, round(have[0] * scale)), max(1, round(have[1] * scale)))
            left, top = ((outer - part) // 2 for outer, part in zip(want, inner, strict=True))
            return View(-top / inner[1], -left / inner[0], want[1] / inner[1], want[0] / inner[0])
        case "none":
            left, top = (_cut(whole, part) for whole, part in zip(have, want, strict=True))
            return View(top / have[1], left / have[0], want[1] / have[1], want[0] / have[0])
        case _:
            return View((1 - crop_fraction) / 2, (1 - crop_fraction) / 2, crop_fraction, crop_fraction)


def _cut(have: int, want: int) -> int:
    """Pixels cut off before the middle part, or, below 0, added."""
    return (have - want) // 2 if have >= want else -((want - have) // 2)
