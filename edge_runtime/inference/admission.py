"""What tensors may come to an engine: every input once, in the dtype and shape that the model stores."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.config import EngineConfig
from edge_runtime.contract.tensors import NUMPY_NAMES, TensorSpec
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference import batches
from edge_runtime.inference.description import Description


class Admission:
    """Checks the input tensors of one version; made once, for it is asked for every request."""

    def __init__(self, description: Description, config: EngineConfig) -> None:
        self.max_samples = description.max_samples(config.max_batch_bytes)
        self._max_tensor_bytes = config.max_tensor_bytes
        self._specs = description.inputs
        self._one_sample = batches.holds_one_sample(description.inputs)
        self._without_samples = batches.without_samples(description.outputs)
        # What most requests are: dtype and shape just as they are stored, and not too large.
        self._usual = {
            spec.name: (np.dtype(NUMPY_NAMES[spec.datatype]), spec.shape)
            for spec in description.inputs
            if 0 < _bytes(spec) <= config.max_tensor_bytes
        }
        self._count = len(description.inputs)

    def check(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Raise CallerError unless these are the model's inputs; `tensors` by name."""
        usual = self._usual
        if len(tensors) == self._count:
            for name, value in tensors.items():
                if usual.get(name) != (value.dtype, value.shape):
                    break
            else:
                return
        self._check_each(tensors)

    def _check_each(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        expected = [spec.name for spec in self._specs]
        if set(tensors) != set(expected):
            raise CallerError(f"inputs must be {expected}, but are {sorted(tensors)}")
        for spec in self._specs:
            value = tensors[spec.name]
            if value.dtype != np.dtype(NUMPY_NAMES[spec.datatype]):
                raise CallerError(f"input {spec.name!r} must be {spec.datatype}, but is {value.dtype}")
            if not _fits(value.shape, (-1, *spec.shape[1:]) if self._one_sample else spec.shape):
                raise CallerError(
                    f"input {spec.name!r} must have the shape {list(spec.shape)}, but has {list(value.shape)}"
                )
            if (self._one_sample or spec.shape[:1] == (-1,)) and value.shape[0] > self.max_samples:
                raise CallerError(
                    f"input {spec.name!r} has {value.shape[0]} samples, more than {self.max_samples}; "
                    "send them in parts",
                    Code.TOO_LARGE,
                )
            if value.nbytes > self._max_tensor_bytes:
                raise CallerError(
                    f"input {spec.name!r} has {value.nbytes} bytes, more than {self._max_tensor_bytes}",
                    Code.TOO_LARGE,
                )
        if self._one_sample:
            self._check_batch(tensors)

    def _check_batch(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """A model of one sample is run for each of a batch, if it can be told whose answers are whose."""
        samples = {name: len(value) for name, value in tensors.items()}
        if len(set(samples.values())) > 1:
            raise CallerError(f"inputs must have the same number of samples, but have {samples}")
        if self._without_samples and set(samples.values()) != {1}:
            raise CallerError(
                f"output {self._without_samples[0]!r} of this model has no dimension for samples; send them one by one"
            )


def _bytes(spec: TensorSpec) -> int:
    return math.prod(abs(n) for n in spec.shape) * np.dtype(NUMPY_NAMES[spec.datatype]).itemsize


def _fits(shape: tuple[int, ...], spec: tuple[int, ...]) -> bool:
    return (
        len(shape) == len(spec)
        and all(n == s or (s < 0 < n) for n, s in zip(shape, spec, strict=True))
        and bool(math.prod(shape) or not shape)
    )
