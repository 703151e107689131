"""JSON, and the Open Inference Protocol v2 in it: one codec for every transport."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.tensors import NUMPY_NAMES, Datatype, TensorSpec
from edge_runtime.errors import CallerError
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.service import Inference
from edge_runtime.transports.classification import class_count, classified
from edge_runtime.transports.raw import from_raw, objects, to_buffer

# What the server is called in its metadata.
SERVER_NAME = "edge-runtime"
# In the words of Triton's documents; each is served over HTTP and gRPC (where raw contents are the protocol's own).
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "sequence",
    "statistics",
)

msgspec: Any
try:
    import msgspec
except ImportError:  # 32-bit ARM has no wheel
    msgspec = None


_MAX_DIMENSION = 2**31 - 1  # of a TFLite tensor
_SHOWN = 100  # characters of what the caller sent that go into a message
_NO_PARAMETERS: Mapping[str, Any] = {}


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
        binary: for outputs that say so, whether they are wanted as raw bytes.
        binary_by_default: whether the others are.
    """

    tensors: Mapping[str, NDArray[Any]]
    id: str = ""
    outputs: tuple[str, ...] = field(default=())
    classes: Mapping[str, int] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    binary: Mapping[str, bool] = field(default_factory=dict)
    binary_by_default: bool = False


class InferAnswer(NamedTuple):
    """The answer to a tensor request.

    Attributes:
        body: JSON, and after it the raw bytes of the outputs that were wanted so.
        json_bytes: how long the JSON is; None where there is nothing else.
    """

    body: bytes
    json_bytes: int | None = None


def parse_infer(body: bytes, inputs: Sequence[TensorSpec], json_bytes: int | None = None) -> InferRequest:
    """Read the body of an inference request (Open Inference Protocol v2, "Inference"; "Binary Tensor Data Extension").

    `json_bytes` is how much of the body is JSON: None is all of it; after it the tensors follow that are sent as raw
    bytes; 0 means that the body is the raw bytes of the model's only input. Arrays share the memory of `body`.

    Raises:
        CallerError: anything that is not as the protocol or the model's specs say.
    """
    if json_bytes is None:
        return parse_document(decode_json(body), inputs)
    if json_bytes == 0:
        return _raw_request(body, inputs)
    if json_bytes > len(body):
        raise CallerError(
            f"{json_bytes} bytes of JSON are announced (Inference-Header-Content-Length), the body has only {len(body)}"
        )
    return parse_document(decode_json(body[:json_bytes]), inputs, memoryview(body)[json_bytes:])


def parse_document(document: Any, inputs: Sequence[TensorSpec], binary: bytes | memoryview = b"") -> InferRequest:
    """Read an inference request (Open Inference Protocol v2, "Inference Request JSON Object").

    Raises:
        CallerError: anything that is not as the protocol or the model's specs say.
    """
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise CallerError('the request must be {"inputs": [{"name", "shape", "datatype", "data"}, ...]}')
    specs = {spec.name: spec for spec in inputs}
    tensors: dict[str, NDArray[Any]] = {}
    for entry in document["inputs"]:
        spec, shape = _declared(entry, specs)
        if spec.name in tensors:
            raise CallerError(f"input {spec.name!r} is given twice")
        size = _binary_size(entry, spec.name, len(binary))
        if size is None:
            tensors[spec.name] = _shaped(_listed(entry, spec), shape, spec)
        else:
            tensors[spec.name] = _shaped(from_raw(binary[:size], spec), shape, spec)
            binary = binary[size:]
    if binary:
        raise CallerError(f"after the last input's raw bytes {len(binary)} more are in the body")
    parameters = _parameters(document, "the request")
    wanted = _Wanted(document.get("outputs", []))
    by_default = _flag(parameters, "binary_data_output", "the request") or False
    return InferRequest(
        tensors, _request_id(document), wanted.names, wanted.classes, parameters, wanted.binary, by_default
    )


def _raw_request(body: bytes, inputs: Sequence[TensorSpec]) -> InferRequest:
    """Triton, "Raw Binary Request": one input, at most one open dimension; BYTES are one element without its length."""
    if len(inputs) != 1:
        raise CallerError(f"raw bytes alone are for models with one input; this one has {len(inputs)}")
    spec = inputs[0]
    values = objects([body]) if spec.datatype == "BYTES" else from_raw(body, spec)
    fixed = math.prod(n for n in spec.shape if n >= 0)
    if sum(n < 0 for n in spec.shape) > 1:
        raise CallerError(f"input {spec.name!r} has the shape {list(spec.shape)}: say in JSON which one is sent")
    shape = [n if n >= 0 else values.size // max(1, fixed) for n in spec.shape]
    return InferRequest({spec.name: _shaped(values, shape, spec)}, binary_by_default=True)


def _request_id(document: Mapping[str, Any]) -> str:
    identity = document.get("id", "")
    if not isinstance(identity, str):
        raise CallerError("id must be a string")
    return identity


def _parameters(holder: Mapping[str, Any], whose: str) -> Mapping[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return _NO_PARAMETERS
    if not isinstance(parameters, dict):
        raise CallerError(f"the parameters of {whose} must be an object, but are {_shown(parameters)}")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, whose: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise CallerError(f"the parameter {name} of {whose} must be true or false, but is {_shown(value)}")
    return value


class _Wanted:
    """The requested outputs (Open Inference Protocol v2, "Request Output")."""

    def __init__(self, outputs: Any) -> None:
        if not isinstance(outputs, list) or not all(
            isinstance(o, dict) and isinstance(o.get("name"), str) for o in outputs
        ):
            raise CallerError('outputs must be [{"name": ...}, ...]')
        self.names = tuple(output["name"] for output in outputs)
        if len(set(self.names)) < len(self.names):
            raise CallerError("each output can be asked for once")
        self.classes: dict[str, int] = {}
        self.binary: dict[str, bool] = {}
        for output in outputs:
            if "parameters" in output:
                self._note(output["name"], _parameters(output, f"output {output['name']!r}"))

    def _note(self, name: str, parameters: Mapping[str, Any]) -> None:
        _refuse_shared_memory(parameters)
        binary = _flag(parameters, "binary_data", f"output {name!r}")
        if binary is not None:
            self.binary[name] = binary
        classes = class_count(name, parameters.get("classification", 0))
        if classes:
            self.classes[name] = classes


def _refuse_shared_memory(parameters: Mapping[str, Any]) -> None:
    if "shared_memory_region" in parameters:
        raise CallerError("shared memory is not offered here: send and take the tensors in the body")


def _declared(entry: Any, specs: Mapping[str, TensorSpec]) -> tuple[TensorSpec, list[int]]:
    """The spec that an input is for, and the shape it has."""
    if not isinstance(entry, dict) or {"name", "shape", "datatype"} - entry.keys():
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
    return spec, shape


def _binary_size(entry: Mapping[str, Any], name: str, left: int) -> int | None:
    """How many raw bytes hold the input; None where it is in the JSON."""
    parameters = _parameters(entry, f"input {name!r}")
    _refuse_shared_memory(parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if "data" in entry:
        raise CallerError(f"input {name!r} has data, and binary_data_size, too: send one")
    if type(size) is not int or not 0 <= size <= left:
        raise CallerError(
            f"binary_data_size of input {name!r} must be at most the {left} bytes that follow the JSON "
            f"(Inference-Header-Content-Length says where it ends), but is {_shown(size)}"
        )
    return size


def _listed(entry: Mapping[str, Any], spec: TensorSpec) -> NDArray[Any]:
    if not isinstance(entry.get("data"), list):
        raise CallerError(f"the data of input {spec.name!r} must be a list")
    return _strings(spec.name, entry["data"]) if spec.datatype == "BYTES" else numbers(spec.name, entry["data"], spec)


def _shaped(values: NDArray[Any], shape: Sequence[int], spec: TensorSpec) -> NDArray[Any]:
    if values.size != math.prod(shape):
        raise CallerError(
            f"input {spec.name!r} has {values.size} values, but its shape {list(shape)} takes {math.prod(shape)}"
        )
    try:
        return values.reshape(shape)
    except ValueError as error:  # no values, and dimensions beside the zero that no array can have
        raise CallerError(f"input {spec.name!r} cannot have the shape {shape}: {error}") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _strings(name: str, data: list[Any]) -> NDArray[Any]:
    flat: list[Any] = data
    while flat and all(isinstance(item, list) for item in flat):
        flat = [inner for item in flat for inner in item]
    if not all(isinstance(item, str) for item in flat):
        raise CallerError(f"the data of input {name!r} must be strings")
    try:
        return objects([item.encode() for item in flat])
    except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can spell
        raise CallerError(f"the data of input {name!r} must be text: {error}") from error


def numbers(name: str, data: list[Any], spec: TensorSpec) -> NDArray[Any]:
    """The array that nested lists are, in the dtype of `spec` (not BYTES); raises CallerError where they do not fit."""
    dtype = np.dtype(NUMPY_NAMES[spec.datatype])
    try:
        values = np.asarray(data) if data else np.empty(0, dtype)
    except (ValueError, OverflowError) as error:
        raise CallerError(f"the data of input {name!r} is ragged or out of range: {error}") from error
    if dtype.kind in "iu" and values.dtype.kind in "fO":
        values = _whole_numbers(data, values)
    wanted = {"b": "b", "f": "iuf"}.get(dtype.kind, "iu")
    if values.dtype.kind not in wanted:
        raise CallerError(f"the data of input {name!r} does not fit {spec.datatype}")
    if dtype.kind in "iu" and values.size:
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise CallerError(f"the data of input {name!r} must be within {limits.min} to {limits.max}")
    try:
        with np.errstate(over="raise"):
            return values.astype(dtype)
    except FloatingPointError as error:
        raise CallerError(f"the data of input {name!r} has numbers that are too large for {spec.datatype}") from error


def _whole_numbers(data: list[Any], otherwise: NDArray[Any]) -> NDArray[Any]:
    """Numbers of which some are beyond 63 bits: numpy makes floats of them as soon as others are not."""
    exact = np.asarray(data, object)
    if not all(type(value) is int and 0 <= value < 2**64 for value in exact.flat):
        return otherwise
    return exact.astype(np.uint64)


def check_outputs(request: InferRequest, outputs: Sequence[TensorSpec]) -> None:
    """Raise CallerError where an output is asked for that the model does not have."""
    names = {spec.name for spec in outputs} if request.outputs else set()
    for name in request.outputs:
        if name not in names:
            raise CallerError(f"the model has no output {_shown(name)}; it has {', '.join(sorted(names))}")


def format_infer(inference: Inference, request: InferRequest) -> InferAnswer:
    """The answer to a tensor request, with raw bytes where they are wanted (the same sections).

    Raises:
        CallerError: an output was asked for that the model does not have, or that has no classes.
    """
    raw: list[bytes | memoryview] = []
    head = encode_json(_answer(inference, request, raw))
    return InferAnswer(b"".join([head, *raw]), len(head)) if raw else InferAnswer(head)


def format_document(inference: Inference, request: InferRequest) -> dict[str, Any]:
    """The answer as one JSON document (Open Inference Protocol v2, "Response JSON Object"); raises likewise."""
    return _answer(inference, request, None)


def _answer(inference: Inference, request: InferRequest, raw: list[bytes | memoryview] | None) -> dict[str, Any]:
    specs = {spec.name: spec for spec in inference.specs}
    check_outputs(request, inference.specs)
    outputs = []
    for name in request.outputs or specs:
        value, datatype = inference.outputs[name], specs[name].datatype
        if name in request.classes:
            value, datatype = classified(value, request.classes[name], inference.labels), "BYTES"
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(value.shape)}
        if raw is not None and request.binary.get(name, request.binary_by_default):
            raw.append(to_buffer(value, datatype))
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = _values(value, datatype)
        outputs.append(entry)
    answer: dict[str, Any] = {"model_name": inference.model, "model_version": inference.version}
    if request.id:
        answer["id"] = request.id
    return answer | {"outputs": outputs}


def _values(value: NDArray[Any], datatype: Datatype) -> list[Any]:
    flat: list[Any] = value.reshape(-1).tolist()
    if datatype == "BYTES":
        return [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in flat]
    return flat


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
