"""Parity: how far the converted model is from the float model, the gate on it, and what a box may differ by."""

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from converters import declarations
from converters.engine import Model, Tensors
from converters.errors import ConvertError
from converters.progress import track
from converters.samples import Samples
from edge_runtime.contract.manifest import Parity, Task
from edge_runtime.contract.tensors import TensorSpec

Metric = Literal["accuracy", "agreement", "error"]
HEADROOM = 2.0
LATENCY_RUNS = 200
LATENCY_SECONDS = 1.0
_WARM_UPS = 5


@dataclass(frozen=True, slots=True)
class Comparison:
    """Converted against float on the evaluation samples.

    Attributes:
        metric: "accuracy" against true labels, "agreement" of the best class with the float model's, or "error":
            mean absolute difference as a share of the output's range.
        before: the float model's value of the metric.
        after: the converted model's, with built-in kernels.
        after_fast: the same with the kernels a box uses by default.
        drop: how much worse the worse of the two is; what the gate looks at.
        max_error: largest absolute difference of any real output value.
        mean_error: mean absolute difference of the real output values.
    """

    metric: Metric
    before: float
    after: float
    after_fast: float
    drop: float
    max_error: float
    mean_error: float


def answer(model: Model, samples: Samples, label: str) -> Tensors:
    """Real outputs of all samples by output name, float32 (n, *output shape)."""
    answers = [model.predict(row) for row in track(samples.rows(), label)]
    return {spec.name: np.stack([row[spec.name] for row in answers]) for spec in model.outputs}


def guess_task(answers: Tensors, *, labelled: bool) -> Task:
    """The task that real outputs (n, *shape) look like, by the rules of a box: boxes, a value, scores, or raw tensors.

    `labelled`: there are class names, so that scores need not look like probabilities.
    """
    shapes = {name: values.shape[1:] for name, values in answers.items()}
    if declarations.fits("detection", shapes):
        return "detection"
    if len(answers) != 1:
        return "raw"
    rows = next(iter(answers.values())).reshape(len(next(iter(answers.values()))), -1)
    if rows.shape[1] == 1:
        return "regression"
    if not declarations.fits("classification", shapes):
        return "raw"
    softmax = bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1.0, atol=0.02))
    return "classification" if softmax or labelled else "raw"


def best(answers: Tensors) -> NDArray[np.intp]:
    """Index of the largest value of the first output, (n,)."""
    first = next(iter(answers.values()))
    indices: NDArray[np.intp] = first.reshape(len(first), -1).argmax(axis=1)
    return indices


def compare(
    task: Task, reference: Tensors, builtin: Tensors, fast: Tensors, labels: NDArray[np.int64] | None
) -> Comparison:
    """Compare the converted model's real outputs, by either kind of kernels, with the float model's."""
    errors = {name: np.abs(builtin[name] - reference[name]) for name in reference}
    maximum = max(float(error.max()) for error in errors.values())
    mean = float(np.mean([error.mean() for error in errors.values()]))
    if task != "classification":
        after, after_fast = _relative_error(reference, builtin), _relative_error(reference, fast)
        return Comparison("error", 0.0, after, after_fast, max(after, after_fast), maximum, mean)
    metric: Metric = "agreement"
    truth: NDArray[Any] = best(reference)
    if labels is not None:
        metric, truth = "accuracy", _known(labels, reference)
    before, after, after_fast = (float(np.mean(best(answers) == truth)) for answers in (reference, builtin, fast))
    return Comparison(metric, before, after, after_fast, before - min(after, after_fast), maximum, mean)


def _known(labels: NDArray[np.int64], reference: Tensors) -> NDArray[np.int64]:
    classes = next(iter(reference.values()))[0].size
    if labels.min() < 0 or labels.max() >= classes:
        raise ConvertError(
            f"labels y go from {labels.min()} to {labels.max()}, but the model has classes 0 to {classes - 1}"
        )
    return labels


def _relative_error(reference: Tensors, other: Tensors) -> float:
    return max(float(np.abs(other[name] - values).mean()) / _spread(values) for name, values in reference.items())


def _spread(values: NDArray[Any]) -> float:
    return float(np.ptp(values)) or max(abs(float(values.flat[0])), 1.0)


def box_parity(task: Task, specs: tuple[TensorSpec, ...], builtin: Tensors, fast: Tensors) -> Parity:
    """What a box's kernels may differ by: twice what the fast kernels differ from the built-in ones here.

    At the least two steps of an integer output and a thousandth of the output's range: other processors have other
    kernels. Rounded up to 1, 2 or 5 times a power of ten.
    """
    measured = max(float(np.abs(builtin[name] - fast[name]).max()) for name in builtin)
    floor = max(max(2 * spec.scale, _spread(builtin[spec.name]) * 1e-3) for spec in specs)
    tolerance = _round_up(max(HEADROOM * measured, floor))
    if task != "classification":
        return Parity(0.0, tolerance)  # the largest value of another task's output says nothing
    misses = HEADROOM * float(np.mean(best(builtin) != best(fast)))
    return Parity(max(0.0, math.floor((1.0 - misses) * 100) / 100), tolerance)


def _round_up(value: float) -> float:
    exponent = math.floor(math.log10(value))
    step = next(step for step in (1, 2, 5, 10) if step * 10.0**exponent >= value * (1 - 1e-9))
    return float(f"{step * 10.0**exponent:.6g}")


def latency_ms(model: Model, samples: Samples) -> float:
    """Median time of one run on this host with one thread, in milliseconds."""
    model.predict(samples.rows()[0])
    times: list[float] = []
    end = time.perf_counter() + LATENCY_SECONDS
    for run in range(_WARM_UPS + LATENCY_RUNS):
        start = time.perf_counter()
        model.invoke()
        times.append(time.perf_counter() - start)
        if run >= _WARM_UPS and times[-1] + start > end:
            break
    return statistics.median(times[_WARM_UPS:]) * 1e3
