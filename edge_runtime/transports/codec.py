"""JSON, and the Open Inference Protocol v2 in it: one codec for every transport."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.tensors import NUMPY_NAMES, TensorSpec
from edge_runtime.errors import CallerError
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.service import Inference

# What the server is called in its metadata.
SERVER_NAME = "edge-runtime"

msgspec: Any
try:
    import msgspec
except ImportError:  # 32-bit ARM has no wheel
    msgspec = None


_MAX_DIMENSION = 2**31 - 1  # of a TFLite tensor
_SHOWN = 100  # characters of what the caller sent that go into a message


def decode_json(data: bytes) -> Any:
    """Parse JSON; raises CallerError saying where it is wrong."""
    try:
        return json.loads(data) if msgspec is None else msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise CallerError(f"the body is not JSON: {error}") from error


def encode_json(document: Any) -> bytes:
    """JSON bytes; NaN and infinities become null, which is all that JSON has for them."""
    if msgspec is not None:
        return bytes(msgspec.json.encode(document))
    try:
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(document), separators=(",", ":")).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A tensor request: inputs by name in stored dtypes, and which outputs are wanted (empty: all).

    Attributes:
        classes: the outputs that are wanted as so many classes instead of values (see `classification.classified`).
        parameters: those of the request, as they came.
    """

    tensors: Mapping[str, NDArray[Any]]
    id: str = ""
    outputs: tuple[str, ...] = field(default=())
    classes: Mapping[str, int] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)


def parse_infer(document: Any, inputs: Sequence[TensorSpec]) -> InferRequest:
    """Read an inference request (Open Inference Protocol v2, "Inference Request JSON Object").

    Raises:
        CallerError: anything that is not as the protocol or the model's specs say.
    """
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise CallerError('the request must be {"inputs": [{"name", "shape", "datatype", "data"}, ...]}')
    specs = {spec.name: spec for spec in inputs}
    tensors: dict[str, NDArray[Any]] = {}
    for entry in document["inputs"]:
        name, array = _input_tensor(entry, specs)
        if name in tensors:
            raise CallerError(f"input {name!r} is given twice")
        tensors[name] = array
    return InferRequest(tensors, _request_id(document), _requested(document.get("outputs", [])))


def _request_id(document: Mapping[str, Any]) -> str:
    identity = document.get("id", "")
    if not isinstance(identity, str):
        raise CallerError("id must be a string")
    return identity


def _requested(outputs: Any) -> tuple[str, ...]:
    if not isinstance(outputs, list) or not all(
        isinstance(o, dict) and isinstance(o.get("name"), str) for o in outputs
    ):
        raise CallerError('outputs must be [{"name": ...}, ...]')
    return tuple(o["name"] for o in outputs)


def _input_tensor(entry: Any, specs: Mapping[str, TensorSpec]) -> tuple[str, NDArray[Any]]:
    if not isinstance(entry, dict) or {"name", "shape", "datatype", "data"} - entry.keys():
        raise CallerError("each input needs name, shape, datatype and data")
    name, shape, datatype = entry["name"], entry["shape"], entry["datatype"]
    spec = specs.get(name) if isinstance(name, str) else None
    if spec is None:
        raise CallerError(f"the model has no input {_shown(name)}; it has {', '.join(specs)}")
    if datatype != spec.datatype:
        raise CallerError(f"input {name!r} must have the datatype {spec.datatype}, but is {_shown(datatype)}")
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n <= _MAX_DIMENSION for n in shape):
        raise CallerError(f"the shape of input {name!r} must be a list of whole numbers, but is {_shown(shape)}")
    if len(shape) != len(spec.shape):
        raise CallerError(f"input {name!r} must have the shape {list(spec.shape)}, but has {_shown(shape)}")
    return name, _array(name, entry["data"], shape, spec)


def _array(name: str, data: Any, shape: list[int], spec: TensorSpec) -> NDArray[Any]:
    if not isinstance(data, list):
        raise CallerError(f"the data of input {name!r} must be a list")
    values = _strings(name, data) if spec.datatype == "BYTES" else _numbers(name, data, spec)
    if values.size != math.prod(shape):
        raise CallerError(f"input {name!r} has {values.size} values, but its shape {shape} takes {math.prod(shape)}")
    try:
        return values.reshape(shape)
    except ValueError as error:  # no values, and dimensions beside the zero that no array can have
        raise CallerError(f"input {name!r} cannot have the shape {shape}: {error}") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _strings(name: str, data: list[Any]) -> NDArray[Any]:
    flat: list[Any] = data
    while flat and all(isinstance(item, list) for item in flat):
        flat = [inner for item in flat for inner in item]
    if not all(isinstance(item, str) for item in flat):
        raise CallerError(f"the data of input {name!r} must be strings")
    array = np.empty(len(flat), dtype=object)
    array[:] = [item.encode() for item in flat]
    return array


def _numbers(name: str, data: list[Any], spec: TensorSpec) -> NDArray[Any]:
    dtype = np.dtype(NUMPY_NAMES[spec.datatype])
    try:
        values = np.asarray(data) if data else np.empty(0, dtype)
    except (ValueError, OverflowError) as error:
        raise CallerError(f"the data of input {name!r} is ragged or out of range: {error}") from error
    wanted = {"b": "b", "f": "iuf"}.get(dtype.kind, "iu")
    if values.dtype.kind not in wanted:
        raise CallerError(f"the data of input {name!r} does not fit {spec.datatype}")
    if dtype.kind in "iu" and values.size:
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise CallerError(f"the data of input {name!r} must be within {limits.min} to {limits.max}")
    return values.astype(dtype)


def format_infer(inference: Inference, request: InferRequest) -> dict[str, Any]:
    """The answer to a tensor request (Open Inference Protocol v2, "Inference Response JSON Object")."""
    specs = {spec.name: spec for spec in inference.specs}
    for name in request.outputs:
        if name not in specs:
            raise CallerError(f"the model has no output {name!r}; it has {', '.join(specs)}")
    names = request.outputs or tuple(specs)
    answer: dict[str, Any] = {"model_name": inference.model, "model_version": inference.version}
    if request.id:
        answer["id"] = request.id
    return answer | {"outputs": [_output(specs[name], inference.outputs[name]) for name in names]}


def _output(spec: TensorSpec, value: NDArray[Any]) -> dict[str, Any]:
    flat = value.reshape(-1).tolist()
    if spec.datatype == "BYTES":
        flat = [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in flat]
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(value.shape), "data": flat}


def tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    """One entry of a model's metadata (Open Inference Protocol v2, "Model Metadata Response JSON Object")."""
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def model_metadata(registry: Registry, model: str, version: str | None) -> dict[str, Any]:
    """A model's metadata (same section): every loaded version, and the specs of the one asked for, or the active one.

    Raises:
        CallerError: NOT_FOUND.
    """
    served, warm = registry.find(model, version), registry.warm(model)
    versions = [v.version for v in (registry.find(model), warm) if v is not None]
    return {
        "name": served.name,
        "versions": versions,
        "platform": f"tflite_{served.description.engine}",
        "inputs": [tensor_metadata(spec) for spec in served.description.inputs],
        "outputs": [tensor_metadata(spec) for spec in served.description.outputs],
    }
