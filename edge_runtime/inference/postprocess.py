"""From output tensors to what a person asked: labels, boxes, a value."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.manifest import OutputDeclaration
from edge_runtime.contract.quantization import dequantize
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference.description import Description

# An answer is read by people and sent over MQTT; whoever needs larger raw outputs asks /v2.
MAX_RAW_VALUES = 4096


def read_answer(
    outputs: Mapping[str, NDArray[Any]], description: Description, declaration: OutputDeclaration
) -> dict[str, Any]:
    """The answer as plain data; its "task" says which of the forms it has. Outputs are as the model stores them."""
    values = [_real(outputs[spec.name], spec) for spec in description.outputs]
    match description.task:
        case "classification":
            return _per_sample(values[0], lambda scores: _classification(scores, description.labels, declaration))
        case "detection":
            return _detection(values, description.labels, declaration)
        case "regression":
            return _per_sample(values[0], lambda value: _regression(value, declaration.unit))
        case _:
            return _raw(values, description.outputs)


def _real(stored: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    return stored if spec.datatype == "BYTES" else dequantize(stored, spec)


def _per_sample(values: NDArray[Any], read: Any) -> dict[str, Any]:
    """One answer for one sample; for a batch, a list of them."""
    samples = values.reshape(values.shape[0], -1) if values.ndim > 1 else values.reshape(1, -1)
    answers = [read(sample) for sample in samples]
    return answers[0] if len(answers) == 1 else {"task": answers[0]["task"], "answers": answers}


def _classification(scores: NDArray[Any], labels: Sequence[str], declaration: OutputDeclaration) -> dict[str, Any]:
    # A stable sort: of equal scores, the class with the smaller index comes first.
    order = np.argsort(-scores, kind="stable")[: max(1, declaration.top_k)]
    kept = [
        {"label": _label(labels, int(i)), "score": _number(scores[i]), "index": int(i)}
        for i in order
        if declaration.threshold is None or scores[i] >= declaration.threshold
    ]
    best: dict[str, Any] = kept[0] if kept else {"label": None, "score": None, "index": None}
    return {"task": "classification", **best, "classes": kept}


def _detection(values: Sequence[NDArray[Any]], labels: Sequence[str], declaration: OutputDeclaration) -> dict[str, Any]:
    boxes, classes, scores, count = (v.reshape(-1, 4) if i == 0 else v.reshape(-1) for i, v in enumerate(values))
    found = min(int(count[0]), len(scores), len(boxes))
    keys = ("ymin", "xmin", "ymax", "xmax")  # fractions of the picture's height and width
    objects = [
        {
            "label": _label(labels, int(classes[i])),
            "score": _number(scores[i]),
            "index": int(classes[i]),
            "box": dict(zip(keys, map(_number, boxes[i]), strict=True)),
        }
        for i in range(found)
        if declaration.threshold is None or scores[i] >= declaration.threshold
    ]
    return {"task": "detection", "objects": objects}


def _regression(value: NDArray[Any], unit: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"task": "regression"}
    answer |= {"value": _number(value[0])} if value.size == 1 else {"values": [_number(v) for v in value]}
    return answer | ({"unit": unit} if unit else {})


def _raw(values: Sequence[NDArray[Any]], specs: Sequence[TensorSpec]) -> dict[str, Any]:
    return {"task": "raw", "outputs": {spec.name: _raw_output(v) for spec, v in zip(specs, values, strict=True)}}


def _raw_output(values: NDArray[Any]) -> dict[str, Any]:
    flat = values.reshape(-1)
    if flat.size > MAX_RAW_VALUES:
        return {"shape": list(values.shape), "note": f"{flat.size} values; ask /v2 for the whole tensor"}
    listed = [v.decode("utf-8", "replace") if isinstance(v, bytes) else _number(v) for v in flat.tolist()]
    return {"shape": list(values.shape), "values": listed}


def _label(labels: Sequence[str], index: int) -> str:
    return labels[index] if 0 <= index < len(labels) else str(index)


def _number(value: Any) -> float | None:
    """A float that JSON can carry, short enough to read; None for NaN and infinities."""
    number = float(value)
    return float(f"{number:.6g}") if np.isfinite(number) else None
