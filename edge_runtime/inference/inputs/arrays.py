"""Real values into the stored values of a tensor: shape, normalization, quantization."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.inputs import InputDeclaration, picture_shape
from edge_runtime.contract.quantization import quantize
from edge_runtime.contract.tensors import NUMPY_NAMES, TensorSpec
from edge_runtime.errors import CallerError


def fill(raw: NDArray[Any], spec: TensorSpec, declaration: InputDeclaration | None) -> NDArray[Any]:
    """The tensor of `spec` for as many raw values as it takes, in its order; normalized along the last axis.

    Raises:
        CallerError: another number of values, or some are not finite.
    """
    if spec.datatype == "BYTES":
        raise CallerError("this model takes strings: send them as BYTES through /v2")
    values = finite(raw).reshape(filled_shape(spec, raw.size))
    if declaration is None:
        return quantize(values, spec)
    if declaration.kind == "image" and declaration.full_range:
        return over_full_range(values, spec)
    if declaration.invert:
        values = 255.0 - values
    picture = picture_shape(spec.shape, declaration.layout) if declaration.kind == "image" else None
    if picture is not None and picture.channels_first:
        channels_last = normalize(np.moveaxis(values, 1, -1), declaration)
        return quantize(np.moveaxis(channels_last, -1, 1), spec)
    return quantize(normalize(values, declaration), spec)


def finite(raw: NDArray[Any]) -> NDArray[np.float64]:
    """The values as float64; raises CallerError if some are not finite."""
    values = raw.astype(np.float64)
    if not np.isfinite(values).all():
        raise CallerError("the input has values that are not finite (NaN or infinity)")
    return values


def filled_shape(spec: TensorSpec, size: int) -> tuple[int, ...]:
    """The input's shape with one open dimension filled by `size` values; raises CallerError if they do not fit."""
    fixed = math.prod(n for n in spec.shape if n > 0)
    shape = list(spec.shape)
    for axis in [i for i, n in enumerate(shape) if n < 0]:
        # The first open dimension (the batch, as a rule) takes what there is, the others are 1.
        shape[axis] = max(1, size // fixed) if fixed and size % fixed == 0 else 1
        fixed *= shape[axis]
    if math.prod(shape) != size:
        raise CallerError(
            f"the input has {size} values, but {spec.name!r} takes {math.prod(shape)} (shape {list(spec.shape)})"
        )
    return tuple(shape)


def normalize(raw: NDArray[Any], declaration: InputDeclaration) -> NDArray[Any]:
    """(raw - mean) / std along the last axis."""
    mean, std = np.asarray(declaration.mean), np.asarray(declaration.std)
    channels = raw.shape[-1] if raw.ndim else 1
    if not {mean.size, std.size} <= {1, channels}:
        raise CallerError(
            f"the model was declared with {mean.size} means and {std.size} stds, but its input has {channels} channels"
        )
    normalized: NDArray[Any] = (raw - mean) / std
    return normalized


def over_full_range(values: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Values 0..255 onto the whole range of an 8-bit tensor."""
    dtype = np.dtype(NUMPY_NAMES[spec.datatype])
    limits = np.iinfo(dtype)
    stored: NDArray[Any] = np.clip(np.rint(values) + limits.min, limits.min, limits.max).astype(dtype)
    return stored


def one_sample(values: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Stored values in the full shape of one sample: an open batch is 1, another open dimension the rest."""
    shape = [1 if n < 0 else n for n in spec.shape]
    if math.prod(shape) != values.size:
        shape[max(i for i, n in enumerate(spec.shape) if n < 0)] = -1
    return values.reshape(shape)
