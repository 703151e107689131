"""Non-maximum suppression: of boxes that overlap, the best one stays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def suppress(
    boxes: NDArray[Any], scores: NDArray[Any], groups: NDArray[Any] | None, iou_threshold: float, most: int
) -> NDArray[np.intp]:
    """Indices of the boxes that stay, best first, `most` of them at the most.

    `boxes` (N, 4) are corners (ymin, xmin, ymax, xmax) in any unit, `scores` (N,), `groups` (N,) the classes among
    which boxes compete, None for all. Greedy, as in Felzenszwalb et al. 2010 (IEEE PAMI 32(9), section 6.2), with the
    overlap of PASCAL VOC: intersection over union. At most `most` rounds of O(N).
    """
    left = np.argsort(-scores, kind="stable")
    areas = _areas(boxes)
    kept: list[int] = []
    while left.size and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(int(best))
        overlaps = _overlaps(boxes, areas, best, left) > iou_threshold
        left = left[~(overlaps if groups is None else overlaps & (groups[left] == groups[best]))]
    return np.array(kept, np.intp)


def _areas(boxes: NDArray[Any]) -> NDArray[Any]:
    areas: NDArray[Any] = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    return areas


def _overlaps(boxes: NDArray[Any], areas: NDArray[Any], one: np.intp, others: NDArray[np.intp]) -> NDArray[Any]:
    """Intersection over union of box `one` with each of `others`; 0 where neither has an area."""
    starts = np.maximum(boxes[one, :2], boxes[others, :2])
    ends = np.minimum(boxes[one, 2:], boxes[others, 2:])
    shared = np.prod(np.maximum(ends - starts, 0), axis=1)
    union = areas[one] + areas[others] - shared
    ratio: NDArray[Any] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio
