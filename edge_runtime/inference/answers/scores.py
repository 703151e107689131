"""What all answers have in common: finite numbers, names for indices, and scores out of logits."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.outputs import Activation


def number(value: Any) -> float | None:
    """A float that JSON can carry, short enough to read; None for NaN and infinities."""
    real = float(value)
    return float(f"{real:.6g}") if math.isfinite(real) else None


def label(labels: Sequence[str], index: int) -> str:
    """The name of a class, or its number where it has none."""
    return labels[index] if 0 <= index < len(labels) else str(index)


def activate(logits: NDArray[Any], activation: Activation) -> NDArray[Any]:
    """Scores of the last axis' classes: softmax over them, a sigmoid of each, or the values as they are."""
    if activation == "none":
        return logits
    scores: NDArray[Any]
    with np.errstate(over="ignore", invalid="ignore"):
        if activation == "sigmoid":
            scores = 1 / (1 + np.exp(-logits))
        else:
            # The largest is subtracted, so that nothing overflows; it changes nothing in the quotient.
            powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
            scores = powers / powers.sum(axis=-1, keepdims=True)
    return scores
