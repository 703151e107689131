"""Scores as classes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edge_runtime.errors import CallerError
from edge_runtime.transports.classification import class_count, classified

NUMBERS = [np.int8, np.uint8, np.int32, np.uint64, np.int64, np.float16, np.float32, np.float64]


def test_the_best_classes_are_value_index_and_label() -> None:
    """One list for each sample of the batch; floats with six decimals, as Triton writes them."""
    scores = np.array([[0.25, 0.5, 0.125], [1.0, 0.0, 2.0]], np.float32)
    assert classified(scores, 2, ["a", "b", "c"]).tolist() == [
        [b"0.500000:1:b", b"0.250000:0:a"],
        [b"2.000000:2:c", b"1.000000:0:a"],
    ]
    assert classified(np.array([-128, 127, 0], np.int8), 9, ()).tolist() == [b"127:1", b"0:2", b"-128:0"]


def test_labels_that_are_not_those_of_the_scores_are_left_out() -> None:
    """1000 names for 1001 scores would all be wrong by one."""
    assert classified(np.array([[1, 2]], np.uint8), 1, ["only one"]).tolist() == [[b"2:1"]]


@given(
    st.sampled_from(NUMBERS).flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=1, max_dims=3))),
    st.integers(1, 12),
)
def test_they_are_the_highest_in_falling_order(values: np.ndarray[Any, Any], k: int) -> None:
    """For every type of number, extremes and NaN (which comes last) included."""
    with np.errstate(all="ignore"):
        found = classified(values, k, ())
    rows = values.reshape(values.shape[0], -1) if values.ndim > 1 else values.reshape(1, -1)
    wanted = min(k, rows.shape[1])
    assert found.shape == ((values.shape[0], wanted) if values.ndim > 1 else (wanted,))
    for sample, items in zip(rows, found.reshape(len(rows), wanted), strict=True):
        chosen = [sample[int(item.split(b":")[1])] for item in items]
        real = [v for v in sample.tolist() if v == v]  # noqa: PLR0124 - not NaN
        assert [v for v in chosen if v == v] == sorted(real, reverse=True)[:wanted]  # noqa: PLR0124 - likewise


@pytest.mark.parametrize("value", [-1, 1.0, True, "3", None, []])
def test_a_count_is_a_whole_number(value: object) -> None:
    """Anything else is the caller's error, and says what it was."""
    with pytest.raises(CallerError, match="classification of output 'scores' must be"):
        class_count("scores", value)


@pytest.mark.parametrize("values", [np.array([True]), np.array([b"x"], object)])
def test_only_numbers_have_classes(values: np.ndarray[Any, Any]) -> None:
    """Strings cannot be ordered by score."""
    with pytest.raises(CallerError, match="only numbers"):
        classified(values, 1, ())
