"""Whether samples of different callers may share a run: each row must be what the sample gives on its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.tensors import NUMPY_NAMES, TensorSpec
from edge_runtime.inference import batches
from edge_runtime.inference.engine import Session
from edge_runtime.inference.runner import Tensors

PROOF_ROWS = 5
# Rows of a batch against single runs: float kernels add in another order (1e-7 seen), integers must be equal.
_ROW_NOISE = 1e-5


def rows_differ(session: Session, example: Tensors) -> str:
    """Run different samples one by one, together, and one by one again; the rows must be the same."""
    samples = _different_samples(session.inputs, example)
    singles = [batches.rows(samples, i, i + 1) for i in range(PROOF_ROWS)]
    before = batches.join([session.run(single) for single in singles])
    together = session.run(samples)
    batches.check_rows(together, PROOF_ROWS)
    after = batches.join([session.run(single) for single in singles])
    for name, expected in before.items():
        for found in (together[name], after[name]):
            worst = _difference(found, expected)
            if not worst <= _row_noise(expected):
                return f"no batches: rows of {name!r} differ from those of single runs by up to {worst:.3g}"
    return ""


def _different_samples(specs: Sequence[TensorSpec], example: Tensors) -> dict[str, NDArray[Any]]:
    """Rows that differ from each other: a batch of equal rows would prove nothing. Floats have the example's spread."""
    random = np.random.default_rng(0)
    samples: dict[str, NDArray[Any]] = {}
    for spec in specs:
        shape, dtype = (PROOF_ROWS, *spec.shape[1:]), np.dtype(NUMPY_NAMES[spec.datatype])
        if dtype.kind == "f":
            spread = float(np.std(example[spec.name])) or 1.0
            samples[spec.name] = (random.normal(size=shape) * spread).astype(dtype)
        elif dtype.kind == "b":
            samples[spec.name] = random.integers(0, 2, shape).astype(dtype)
        else:
            low, high = int(np.min(example[spec.name])), int(np.max(example[spec.name]))
            low, high = (low, high) if low < high else _range(dtype)
            samples[spec.name] = random.integers(low, high, shape, dtype=dtype, endpoint=True)
    return samples


def _range(dtype: "np.dtype[Any]") -> tuple[int, int]:
    """All of 8 bits; of wider integers, which may be indices, only 0 and 1."""
    return (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) if dtype.itemsize == 1 else (0, 1)


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float(np.max(np.abs(found.astype(np.float64) - expected.astype(np.float64)), initial=0.0))


def _row_noise(expected: NDArray[Any]) -> float:
    if expected.dtype.kind != "f":
        return 0.0
    return _ROW_NOISE * max(1.0, float(np.max(np.abs(expected), initial=0.0)))
