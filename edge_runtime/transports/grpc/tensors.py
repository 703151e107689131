"""Tensors of the Open Inference Protocol over gRPC: typed contents or raw bytes to numpy arrays, and back."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.tensors import NUMPY_NAMES, Datatype, TensorSpec
from edge_runtime.errors import CallerError
from edge_runtime.inference.service import Inference
from edge_runtime.transports.classification import class_count, classified
from edge_runtime.transports.codec import InferRequest, check_outputs
from edge_runtime.transports.grpc.messages import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)
from edge_runtime.transports.raw import as_bytes, from_raw, objects, to_raw

# Open Inference Protocol v2, gRPC, "InferTensorContents". FP16 has no field of its own: it can only be sent raw.
CONTENT_FIELDS: dict[Datatype, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
# The numpy type in which a field's values fit before they are narrowed to the datatype.
_WIDE = {"int_contents": np.int32, "uint_contents": np.uint32}
_MAX_DIMENSIONS = 32  # numpy 1 has no more
# Other threads have their turn between two chunks; one call over all values would hold them up for seconds.
_CHUNK_VALUES = 16 * 1024


def parse_infer(request: ModelInferRequest, inputs: Sequence[TensorSpec]) -> InferRequest:
    """Read an inference request: arrays by input name, in stored dtypes and the shapes that were sent.

    Raises:
        CallerError: anything that is not as the protocol or the model's specs say.
    """
    specs = {spec.name: spec for spec in inputs}
    raw, entries = request.raw_input_contents, request.inputs
    if raw and len(raw) != len(entries):
        raise CallerError(f"raw_input_contents has {len(raw)} entries for {len(entries)} inputs: give one each")
    tensors: dict[str, NDArray[Any]] = {}
    for number, entry in enumerate(entries):
        spec = _spec_of(entry, specs)
        if spec.name in tensors:
            raise CallerError(f"input {spec.name!r} is given twice")
        if raw and entry.HasField("contents"):
            raise CallerError(f"input {spec.name!r} has contents, and raw_input_contents are given too: send one")
        if entry.parameters:
            _check_memory(entry.parameters, spec.name)
        values = from_raw(raw[number], spec) if raw else from_contents(entry.contents, spec)
        tensors[spec.name] = _shaped(values, tuple(entry.shape), spec)
    if not request.outputs and not request.parameters:  # the common case
        return InferRequest(tensors, request.id)
    names, classes = _requested(request)
    return InferRequest(tensors, request.id, names, classes, plain(request.parameters))


def _requested(request: ModelInferRequest) -> tuple[tuple[str, ...], dict[str, int]]:
    """The outputs that are wanted, and of which of them so many classes instead of values."""
    names, classes = [], {}
    for output in request.outputs:
        names.append(output.name)
        if output.parameters:
            _check_memory(output.parameters, output.name)
            count = class_count(output.name, plain(output.parameters).get("classification", 0))
            if count:
                classes[output.name] = count
    return tuple(names), classes


def _check_memory(parameters: Mapping[str, "InferParameter"], tensor: str) -> None:
    if "shared_memory_region" in parameters:
        raise CallerError(f"{tensor!r} is in shared memory, which this box does not have: send the tensor itself")


def plain(parameters: Mapping[str, "InferParameter"]) -> dict[str, bool | int | str | float]:
    """Parameters as Python's own types; one that has no value is left out."""
    found = ((name, value, value.WhichOneof("parameter_choice")) for name, value in parameters.items())
    return {name: getattr(value, kind) for name, value, kind in found if kind}


def _spec_of(entry: "ModelInferRequest.InferInputTensor", specs: Mapping[str, TensorSpec]) -> TensorSpec:
    spec = specs.get(entry.name)
    if spec is None:
        raise CallerError(f"the model has no input {entry.name!r}; it has {', '.join(specs)}")
    if entry.datatype != spec.datatype:
        raise CallerError(f"input {spec.name!r} must have the datatype {spec.datatype}, but is {entry.datatype!r}")
    return spec


def _shaped(values: NDArray[Any], shape: tuple[int, ...], spec: TensorSpec) -> NDArray[Any]:
    if shape == spec.shape and values.size == math.prod(shape) > 0:  # the common case
        return values.reshape(shape)
    if len(shape) > _MAX_DIMENSIONS or any(n < 1 for n in shape):
        shown = list(shape[:_MAX_DIMENSIONS])
        raise CallerError(
            f"the shape of input {spec.name!r} must be up to {_MAX_DIMENSIONS} numbers above 0, but is {shown}"
        )
    if values.size != math.prod(shape):
        raise CallerError(
            f"input {spec.name!r} has {values.size} values, but its shape {list(shape)} takes {math.prod(shape)}"
        )
    return values.reshape(shape)


def from_contents(contents: InferTensorContents, spec: TensorSpec) -> NDArray[Any]:
    """A flat array of the datatype in `spec` from typed contents; raises CallerError."""
    field = CONTENT_FIELDS.get(spec.datatype)
    if field is None:
        raise CallerError(f"input {spec.name!r} is {spec.datatype}, which has no contents: use raw_input_contents")
    for other, _ in contents.ListFields():
        if other.name != field:
            raise CallerError(f"input {spec.name!r} is {spec.datatype}: use {field}, not {other.name}")
    values = getattr(contents, field)
    if spec.datatype == "BYTES":
        return objects(list(values))
    dtype = np.dtype(NUMPY_NAMES[spec.datatype])
    wide = np.empty(len(values), _WIDE.get(field, dtype))
    for start in range(0, len(values), _CHUNK_VALUES):
        chunk = values[start : start + _CHUNK_VALUES]
        wide[start : start + len(chunk)] = np.fromiter(chunk, wide.dtype, len(chunk))
    if wide.dtype != dtype and wide.size:
        limits = np.iinfo(dtype)
        if wide.min() < limits.min or wide.max() > limits.max:
            raise CallerError(f"the contents of input {spec.name!r} must be within {limits.min} to {limits.max}")
    return wide.astype(dtype, copy=False)


def to_contents(values: NDArray[Any], datatype: Datatype) -> InferTensorContents:
    """Typed contents of an array of any shape; raises KeyError for FP16, which has none."""
    flat = values.reshape(-1)
    contents = InferTensorContents()
    field = getattr(contents, CONTENT_FIELDS[datatype])
    for start in range(0, flat.size, _CHUNK_VALUES):
        items = flat[start : start + _CHUNK_VALUES].tolist()
        field.extend([as_bytes(item) for item in items] if datatype == "BYTES" else items)
    return contents


def format_infer(inference: Inference, request: InferRequest, *, raw: bool) -> ModelInferResponse:
    """The answer: raw where the request was, and where an output has no typed contents (it is all or none).

    Raises:
        CallerError: an output was asked for that the model does not have, or as classes where it is no numbers.
    """
    if request.outputs:
        check_outputs(request, inference.specs)
    chosen = _chosen(inference, request.outputs)
    classes = request.classes
    raw = raw or any(spec.datatype not in CONTENT_FIELDS for spec in chosen if spec.name not in classes)
    answer = ModelInferResponse(model_name=inference.model, model_version=inference.version, id=request.id)
    for spec in chosen:
        values, datatype = inference.outputs[spec.name], spec.datatype
        if spec.name in classes:
            values, datatype = classified(values, classes[spec.name], inference.labels), "BYTES"
        output = answer.outputs.add(name=spec.name, datatype=datatype, shape=values.shape)
        if raw:
            answer.raw_output_contents.append(to_raw(values, datatype))
        else:
            output.contents.CopyFrom(to_contents(values, datatype))
    return answer


def _chosen(inference: Inference, names: Sequence[str]) -> Sequence[TensorSpec]:
    if not names:
        return inference.specs
    specs = {spec.name: spec for spec in inference.specs}
    return [specs[name] for name in names]
