"""Scores as classes: Triton's classification extension, the same over every transport."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CallerError
from edge_runtime.transports.raw import objects


def class_count(name: str, value: Any) -> int:
    """How many classes the parameter `classification` of output `name` asks for; 0 is none.

    Raises:
        CallerError: it is no whole number from 0 on.
    """
    if type(value) is not int or value < 0:
        raise CallerError(f"classification of output {name!r} must be a whole number from 0 on, but is {value!r:.100}")
    return value


def classified(values: NDArray[Any], k: int, labels: Sequence[str]) -> NDArray[Any]:
    """The `k` (at most all) highest values as BYTES "value:index:label" (Triton, "Classification Extension").

    Of an array with several dimensions the first is the batch, and each sample of it is one list of scores: the result
    has the shape (batch, k). A flat array is one sample: (k,). The labels are left out where they are not as many as
    the scores: a wrong name is worse than none. Of equal scores, the one with the smaller index comes first.

    Raises:
        CallerError: the values are no numbers.
    """
    if values.dtype.kind not in "iuf":
        raise CallerError(f"only numbers can be classified, but the output is {values.dtype.name}")
    rows = values.shape[0] if values.ndim > 1 else 1
    samples = values.reshape(rows, values.size // max(1, rows))
    # Larger first: for integers the complement turns the order around without an overflow.
    turned = -samples if values.dtype.kind == "f" else ~samples
    order = np.argsort(turned, axis=1, kind="stable")[:, :k]
    written = "{:f}" if values.dtype.kind == "f" else "{}"
    named = len(labels) == samples.shape[1]
    items = [
        f"{written.format(sample[i])}:{i}{f':{labels[i]}' if named else ''}".encode()
        for sample, best in zip(samples, order, strict=True)
        for i in best.tolist()
    ]
    return objects(items).reshape(order.shape if values.ndim > 1 else order.shape[1:])
