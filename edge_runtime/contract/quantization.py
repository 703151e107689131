"""The affine quantization of TFLite: real = scale * (stored - zero_point).

Source: TensorFlow Lite 8-bit quantization specification.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.tensors import NUMPY_NAMES, TensorSpec


def quantize(real: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Real values of any shape to the dtype that `spec` stores: rounded half to even, clipped to the dtype's range.

    A tensor that is not quantized is only cast; a cast to an integer dtype rounds and clips too.
    """
    dtype = np.dtype(NUMPY_NAMES[spec.datatype])
    if spec.quantized:
        real = real / spec.scale + spec.zero_point
    if dtype.kind in "iu":
        limits, real = np.iinfo(dtype), np.rint(real)
        top = np.float64(limits.max)  # 2**63 and 2**64 where the dtype has 64 bits: one more than it holds
        with np.errstate(invalid="ignore"):
            clipped = np.clip(real, limits.min, top).astype(dtype)
        real = np.where(np.asarray(real) >= top, limits.max, clipped)
    stored: NDArray[Any] = np.asarray(real, dtype=dtype)
    return stored


def dequantize(stored: NDArray[Any], spec: TensorSpec) -> NDArray[np.float32]:
    """Stored values of any shape to real float32 values of the same shape."""
    if not spec.quantized:
        return np.asarray(stored, dtype=np.float32)
    return (np.asarray(stored, dtype=np.float32) - np.float32(spec.zero_point)) * np.float32(spec.scale)
