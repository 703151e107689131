"""Tensors themselves: a summary for everyone, their values for who asks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference.answers.scores import number

# A caller that asks for more has the binary tensors of /v2.
MAX_VALUES = 65_536


def summary(real: NDArray[Any], spec: TensorSpec) -> dict[str, Any]:
    """Datatype and shape of an output, and the least, largest and mean of its real values."""
    told: dict[str, Any] = {"datatype": spec.datatype, "shape": list(real.shape)}
    if spec.datatype != "BYTES" and real.size:
        with np.errstate(over="ignore", invalid="ignore"):
            told |= {"min": number(real.min()), "max": number(real.max()), "mean": number(real.mean(dtype=np.float64))}
    return told


def values(real: NDArray[Any], spec: TensorSpec) -> dict[str, Any]:
    """Datatype, shape and the real values of an output, in row-major order; of a very large one a note instead."""
    told: dict[str, Any] = {"datatype": spec.datatype, "shape": list(real.shape)}
    if real.size > MAX_VALUES:
        return told | {"note": f"{real.size} values are more than {MAX_VALUES}; ask /v2 for the whole tensor"}
    flat = real.reshape(-1).tolist()
    return told | {"values": [v.decode("utf-8", "replace") if isinstance(v, bytes) else number(v) for v in flat]}
