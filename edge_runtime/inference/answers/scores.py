"""What all answers have in common: finite numbers, names for indices, and scores out of logits."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.outputs import Activation, OutputDeclaration, ScoreCalibration


def number(value: Any) -> float | None:
    """A float that JSON can carry, short enough to read; None for NaN and infinities."""
    real = float(value)
    return float(f"{real:.6g}") if math.isfinite(real) else None


def label(labels: Sequence[str], index: int) -> str:
    """The name of a class, or its number where it has none."""
    return labels[index] if 0 <= index < len(labels) else str(index)


def class_scores(logits: NDArray[Any], output: OutputDeclaration) -> NDArray[Any]:
    """Scores (..., classes) of an output's last axis, activated and calibrated as declared."""
    scores, told = activate(logits, output.activation), output.calibration
    if told is None:
        return scores
    count = scores.shape[-1]
    if len(told.classes) != count:
        raise ValueError(f"output.calibration has {len(told.classes)} classes, but the output has {count}")
    return _calibrated(scores, told, np.arange(count))


def scores_of(logits: NDArray[Any], classes: NDArray[Any], output: OutputDeclaration) -> NDArray[Any]:
    """Scores (N,) of objects that are of the given classes (N,), likewise."""
    scores = activate(logits[:, None], output.activation)[:, 0]
    return scores if output.calibration is None else _calibrated(scores, output.calibration, classes)


def _calibrated(scores: NDArray[Any], told: ScoreCalibration, classes: NDArray[Any]) -> NDArray[Any]:
    """The calibrated scores of these classes, (..., N) and (N,); a class without numbers has the default score."""
    numbers = np.full((len(told.classes) + 1, 4), np.nan)
    numbers[:, 3] = -np.inf
    for index, line in enumerate(told.classes):
        numbers[index, : len(line)] = line
    known = (classes >= 0) & (classes < len(told.classes))
    scale, slope, offset, least = numbers[np.where(known, classes, -1).astype(np.int64)].T
    with np.errstate(all="ignore"):
        odds = scores if told.transformation == "identity" else np.log(scores)
        if told.transformation == "inverse_logistic":
            odds = odds - np.log(1 - scores)
        calibrated = scale / (1 + np.exp(-(slope * odds + offset)))
    return np.where((scores > least) & np.isfinite(calibrated), calibrated, told.default)


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
