"""The JSON of TensorFlow Serving's REST API, to tensors and back (tensorflow.org/tfx/serving/api_rest).

Values are as the model stores them: a quantized model takes and gives its integers, as its metadata say.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.tensors import Datatype, TensorSpec
from edge_runtime.errors import CallerError
from edge_runtime.inference.service import Inference
from edge_runtime.transports.codec import numbers
from edge_runtime.transports.raw import objects

SIGNATURE = "serving_default"

Form = Literal["rows", "columns"]

# tensorflow/core/framework/types.proto
_TYPES: dict[Datatype, str] = {
    "BOOL": "DT_BOOL",
    "UINT8": "DT_UINT8",
    "UINT16": "DT_UINT16",
    "UINT32": "DT_UINT32",
    "UINT64": "DT_UINT64",
    "INT8": "DT_INT8",
    "INT16": "DT_INT16",
    "INT32": "DT_INT32",
    "INT64": "DT_INT64",
    "FP16": "DT_HALF",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BYTES": "DT_STRING",
}


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """Input tensors by name, and the form that the answer has, too."""

    tensors: Mapping[str, NDArray[Any]]
    form: Form


def parse_predict(document: Any, inputs: Sequence[TensorSpec]) -> PredictRequest:
    """Read a predict request in row ("instances") or column ("inputs") format.

    Raises:
        CallerError: anything that is not as the API or the model's specs say.
    """
    if not isinstance(document, dict) or ("instances" in document) == ("inputs" in document):
        raise CallerError('the request must be {"instances": [...]} or {"inputs": ...}')
    signature = document.get("signature_name", SIGNATURE)
    if signature not in ("", SIGNATURE):
        raise CallerError(f"the model has no signature {signature!r:.100}; it has {SIGNATURE!r}")
    if "instances" in document:
        columns = _columns(document["instances"], inputs)
        form: Form = "rows"
    else:
        columns, form = _named(document["inputs"], inputs, "inputs"), "columns"
    return PredictRequest({spec.name: _tensor(columns[spec.name], spec) for spec in inputs}, form)


def _columns(instances: Any, inputs: Sequence[TensorSpec]) -> dict[str, list[Any]]:
    """From one entry for each sample to one list for each input."""
    if not isinstance(instances, list) or not instances:
        raise CallerError("instances must be a list with one entry for each sample")
    if not isinstance(instances[0], dict) or _is_encoded(instances[0]):
        return _named(instances, inputs, "instances")
    columns: dict[str, list[Any]] = {spec.name: [] for spec in inputs}
    for instance in instances:
        if not isinstance(instance, dict) or instance.keys() != columns.keys():
            raise CallerError(f"each of the instances must have the inputs {', '.join(columns)}, and no others")
        for name, value in instance.items():
            columns[name].append(value)
    return columns


def _named(value: Any, inputs: Sequence[TensorSpec], where: str) -> dict[str, Any]:
    """The tensors by name; a model with one input needs not be told its name."""
    names = {spec.name for spec in inputs}
    if isinstance(value, dict) and not _is_encoded(value):
        if value.keys() != names:
            raise CallerError(f"{where} must be {sorted(names)}, but are {sorted(value)}"[:300])
        return value
    if len(inputs) > 1:
        raise CallerError(f"the model has {len(inputs)} inputs: {where} must name them: {', '.join(sorted(names))}")
    return {inputs[0].name: value}


def _is_encoded(value: Mapping[str, Any]) -> bool:
    return value.keys() == {"b64"}


def _tensor(value: Any, spec: TensorSpec) -> NDArray[Any]:
    if spec.datatype == "BYTES":
        values = _strings(value, spec)
    else:
        values = numbers(spec.name, value if isinstance(value, list) else [value], spec)
        values = values if isinstance(value, list) else values.reshape(())
    if values.ndim != len(spec.shape):
        raise CallerError(
            f"input {spec.name!r} must have the shape {list(spec.shape)} (the first number is the batch), "
            f"but has {list(values.shape)}"
        )
    return values


def _strings(value: Any, spec: TensorSpec) -> NDArray[Any]:
    level, shape = [value], []
    for _ in spec.shape:
        if not all(isinstance(item, list) and len(item) == len(level[0]) for item in level):
            raise CallerError(f"input {spec.name!r} must have the shape {list(spec.shape)}")
        shape.append(len(level[0]) if level else 0)
        level = [inner for item in level for inner in item]
    return objects([_text(item, spec.name) for item in level]).reshape(shape)


def _text(item: Any, name: str) -> bytes:
    encoded = item["b64"] if isinstance(item, dict) and _is_encoded(item) else None
    try:
        if isinstance(encoded, str):
            return base64.b64decode(encoded, validate=True)
        if isinstance(item, str):
            return item.encode()
    except (binascii.Error, ValueError) as error:
        raise CallerError(f"input {name!r} has a text that cannot be read: {error}") from error
    raise CallerError(f'input {name!r} must be strings, or {{"b64": "..."}}, in the shape of the model')


def format_predict(inference: Inference, request: PredictRequest) -> dict[str, Any]:
    """The answer in the request's form; one output alone comes without its name.

    Raises:
        CallerError: rows are asked for, and an output does not have one for each instance.
    """
    columns = {spec.name: inference.outputs[spec.name] for spec in inference.specs}
    if request.form == "columns":
        plain = {name: _plain(value, name) for name, value in columns.items()}
        return {"outputs": plain if len(plain) > 1 else next(iter(plain.values()))}
    rows = len(next(iter(request.tensors.values())))
    for name, value in columns.items():
        if value.shape[:1] != (rows,):
            raise CallerError(
                f"output {name!r} has the shape {list(value.shape)}, not one entry for each of {rows} instances: "
                'send "inputs" instead of "instances"'
            )
    lists = {name: _plain(value, name) for name, value in columns.items()}
    if len(lists) == 1:
        return {"predictions": next(iter(lists.values()))}
    return {"predictions": [{name: values[row] for name, values in lists.items()} for row in range(rows)]}


def _plain(value: NDArray[Any], name: str) -> Any:
    if value.dtype != object:
        return value.tolist()
    texts = np.empty(value.shape, object)
    texts.reshape(-1)[:] = [_written(item, name) for item in value.reshape(-1)]
    return texts.tolist()


def _written(item: Any, name: str) -> Any:
    """Text, or base64 for an output that is called so ("..._bytes"), and for what is no text."""
    data = item if isinstance(item, bytes) else str(item).encode()
    try:
        if not name.endswith("_bytes"):
            return data.decode()
    except UnicodeDecodeError:
        pass
    return {"b64": base64.b64encode(data).decode()}


def signature(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """A signature definition (tensorflow/core/protobuf/meta_graph.proto, SignatureDef) as proto3 JSON."""
    return {
        "inputs": {spec.name: _tensor_info(spec) for spec in inputs},
        "outputs": {spec.name: _tensor_info(spec) for spec in outputs},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    sizes = [{"size": str(n), "name": ""} for n in spec.shape]
    return {
        "dtype": _TYPES[spec.datatype],
        "tensor_shape": {"dim": sizes, "unknown_rank": False},
        "name": f"{SIGNATURE}_{spec.name}:0",
    }
