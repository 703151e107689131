"""Non-maximum suppression, against the rule written out for each pair of boxes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.inference.answers.suppression import suppress

# A coarse grid, so that boxes coincide, touch and contain each other often.
SIDE = st.integers(0, 8).map(lambda n: n / 8)
BOX = st.tuples(SIDE, SIDE, SIDE, SIDE)
SCORED = st.tuples(BOX, st.integers(0, 5).map(lambda n: n / 5), st.integers(0, 2))


def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Intersection over union, by its definition."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(height, 0) * max(width, 0)
    union = sum(max(c[2] - c[0], 0) * max(c[3] - c[1], 0) for c in (a, b)) - shared
    return shared / union if union > 0 else 0.0


def by_pairs(
    boxes: NDArray[np.float64], scores: NDArray[np.float64], groups: list[int] | None, limit: float, most: int
) -> list[int]:
    """A box stays if no better one that stays, of its group, overlaps it by more than `limit`."""
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        rivals = [k for k in kept if groups is None or groups[k] == groups[i]]
        if all(overlap(boxes[k], boxes[i]) <= limit for k in rivals):
            kept.append(i)
    return kept[:most]


@given(st.lists(SCORED, max_size=24), st.booleans(), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(1, 30))
def test_the_same_boxes_stay_as_by_pairs(
    scored: list[tuple[tuple[float, ...], float, int]],
    by_class: bool,  # noqa: FBT001
    limit: float,
    most: int,
) -> None:
    """In the same order: best first, of equal scores the first; degenerate boxes overlap nothing."""
    boxes = np.array([box for box, _, _ in scored], np.float64).reshape(-1, 4)
    scores = np.array([score for _, score, _ in scored], np.float64)
    classes = [group for _, _, group in scored]
    groups = np.array(classes, np.int64) if by_class else None
    kept = suppress(boxes, scores, groups, limit, most)
    assert kept.tolist() == by_pairs(boxes, scores, classes if by_class else None, limit, most)


def test_thousands_of_boxes_take_a_bounded_number_of_rounds() -> None:
    """What a YOLO gives for a picture, all of it above the threshold, none overlapping: the limit ends it."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 1, (25_200, 2))
    boxes = np.hstack([corner, corner + 1e-4])
    assert len(suppress(boxes, rng.uniform(0, 1, 25_200), None, 0.5, 100)) == 100
