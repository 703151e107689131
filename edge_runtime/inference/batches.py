"""Samples along the first dimension: which models have one for them, and tensors cut up and put together along it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError

Rows = Mapping[str, NDArray[Any]]


def holds_one_sample(specs: Sequence[TensorSpec]) -> bool:
    """Whether the first dimension of every tensor is fixed at 1: a batch of it is that many runs."""
    return bool(specs) and all(spec.shape[:1] == (1,) for spec in specs)


def without_samples(specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Names of the tensors whose first dimension cannot be that of the samples; of rank 0 may be what is not known."""
    return tuple(spec.name for spec in specs if spec.shape[:1] not in ((), (1,), (-1,)))


def stackable(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Whether samples of different callers could share a run: nothing but the first dimension may differ."""
    specs = (*inputs, *outputs)
    fixed = all(spec.datatype != "BYTES" and spec.shape and all(n > 0 for n in spec.shape[1:]) for spec in specs)
    return fixed and not without_samples(specs)


def count(tensors: Rows) -> int:
    """How many samples there are."""
    return len(next(iter(tensors.values())))


def in_one_run(inputs: Sequence[TensorSpec], tensors: Rows) -> int:
    """How many samples of a caller's the engine takes at once: as many as come where the model leaves that open."""
    return count(tensors) if inputs and inputs[0].shape[:1] == (-1,) else 1


def rows(tensors: Rows, start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Samples `start` up to `stop` of every tensor: (n, ...) becomes (stop - start, ...)."""
    return {name: value[start:stop] for name, value in tensors.items()}


def join(parts: Sequence[Rows]) -> dict[str, NDArray[Any]]:
    """The samples of all parts, in order: tensors (n1, ...), (n2, ...) become (n1 + n2, ...)."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check_rows(outputs: Rows, samples: int) -> None:
    """Raise CallerError unless every output has as many rows as there were samples."""
    for name, value in outputs.items():
        if value.shape[:1] != (samples,):
            raise CallerError(
                f"output {name!r} has the shape {list(value.shape)} for {samples} samples, so that nobody can tell "
                "whose rows they are; send the samples one by one"
            )
