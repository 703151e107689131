"""reference.json: what inputs and outputs looked like in calibration, so that a box can tell when they drift."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.engine import Tensors

BINS = 32


def describe(values: NDArray[Any]) -> dict[str, Any]:
    """Minimum, maximum, mean, standard deviation and a histogram of `BINS` equal bins, of real values of any shape."""
    flat = values.astype(np.float64).ravel()
    counts, edges = np.histogram(flat, bins=BINS)
    return {
        "min": _short(flat.min()),
        "max": _short(flat.max()),
        "mean": _short(flat.mean()),
        "std": _short(flat.std()),
        "histogram": {"edges": [_short(edge) for edge in edges], "counts": counts.tolist()},
    }


def distributions(inputs: Tensors, outputs: Tensors) -> dict[str, Any]:
    """The content of reference.json for real inputs and outputs by name, (n, *shape)."""
    return {
        "samples": len(next(iter(inputs.values()))),
        "inputs": {name: describe(values) for name, values in inputs.items()},
        "outputs": {name: describe(values) for name, values in outputs.items()},
    }


def _short(value: float) -> float:
    return float(f"{value:.9g}")
