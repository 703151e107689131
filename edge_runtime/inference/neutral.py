"""Inputs that say nothing: zeros, in each tensor's own terms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.tensors import NUMPY_NAMES, TensorSpec


def neutral_inputs(specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    """An input by name for each spec: real 0 in the stored dtype (strings: empty), open dimensions 1."""
    return {spec.name: _neutral(spec) for spec in specs}


def _neutral(spec: TensorSpec) -> NDArray[Any]:
    shape = [max(1, n) for n in spec.shape]
    if spec.datatype == "BYTES":
        return np.full(shape, b"", dtype=object)
    return np.full(shape, spec.zero_point, dtype=NUMPY_NAMES[spec.datatype])
