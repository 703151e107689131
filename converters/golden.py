"""Golden vectors: a few inputs and the built-in kernels' outputs, which every box must reproduce before it serves."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.engine import Model, Tensors
from converters.parity import best
from converters.samples import Samples
from edge_runtime.contract.manifest import Task

MAX_VECTORS = 16
MIN_VECTORS = 4
MAX_BYTES = 4 << 20


def choose(task: Task, samples: Samples, builtin: Tensors, fast: Tensors) -> list[int]:
    """Indices of samples that cover the predicted classes and the extremes of the outputs.

    Samples whose best class depends on the kernels are left out: they would test the weather, not the model.
    """
    first = next(iter(builtin.values())).reshape(len(samples), -1)
    usable = np.arange(len(samples))
    order: list[int] = []
    if task == "classification":
        agreed = best(builtin) == best(fast)
        usable = usable[agreed] if agreed.any() else usable
        classes = best(builtin)[usable]
        order += [int(usable[np.flatnonzero(classes == c)[0]]) for c in np.unique(classes)]
    confidence = first[usable].max(axis=1)
    extremes = [int(usable[confidence.argmax()]), int(usable[confidence.argmin()])]
    spread = usable[np.linspace(0, len(usable) - 1, min(MAX_VECTORS, len(usable))).astype(int)].tolist()
    chosen = dict.fromkeys(extremes + order + spread)
    return list(chosen)[: _room(samples)]


def _room(samples: Samples) -> int:
    size = sum(int(values[0].nbytes) for values in samples.inputs.values())
    return max(MIN_VECTORS, min(MAX_VECTORS, MAX_BYTES // size))


def record(model: Model, samples: Samples, indices: list[int]) -> bytes:
    """golden.npz: `input/NAME` and `output/NAME` as stored, (n, *shape). `model` must have built-in kernels."""
    rows = samples.rows()
    arrays: dict[str, list[NDArray[Any]]] = {}
    for index in indices:
        stored = model.store(rows[index])
        for kind, tensors in (("input", stored), ("output", model.run(stored))):
            for name, values in tensors.items():
                arrays.setdefault(f"{kind}/{name}", []).append(values)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.stack(values) for name, values in arrays.items()})
    return buffer.getvalue()
