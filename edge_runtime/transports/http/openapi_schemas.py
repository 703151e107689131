"""The schemas of the OpenAPI document (JSON Schema 2020-12)."""

from collections.abc import Mapping
from typing import Any

from edge_runtime.contract.tensors import NUMPY_NAMES

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_WHOLE: Schema = {"type": "integer"}
_FLAG: Schema = {"type": "boolean"}
_OBJECT: Schema = {"type": "object"}


def ref(name: str) -> Schema:
    """A schema of this document by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Mapping[str, Any]) -> Schema:
    """A list of these."""
    return {"type": "array", "items": items}


def _object(required: Mapping[str, Any], **optional: Any) -> Schema:
    schema: Schema = {"type": "object", "properties": {**required, **optional}}
    return schema | ({"required": list(required)} if required else {})


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_DATATYPE = {"type": "string", "enum": list(NUMPY_NAMES)}
_SHAPE = array({"type": "integer", "minimum": 0, "maximum": 2**31 - 1})
_PARAMETERS: Schema = {
    "type": "object",
    "description": "Those that are not known are ignored.",
    "properties": {
        "timeout": {"type": "integer", "minimum": 0, "description": "Microseconds; 0: none."},
        "sequence_id": {"type": ["integer", "string"]},
        "sequence_start": _FLAG,
        "sequence_end": _FLAG,
        "binary_data_output": _FLAG,
    },
}
_INPUT = _object(
    {"name": _TEXT, "shape": _SHAPE, "datatype": _DATATYPE},
    data=array({}),
    parameters=_object({}, binary_data_size={"type": "integer", "minimum": 0}),
)
_REQUESTED_OUTPUT = _object(
    {"name": _TEXT},
    parameters=_object({}, binary_data=_FLAG, classification={"type": "integer", "minimum": 0}),
)
_OUTPUT = _object(
    {"name": _TEXT, "shape": _SHAPE, "datatype": _DATATYPE},
    data=array({}),
    parameters=_object({}, binary_data_size=_WHOLE),
)
_TENSOR = _object({"name": _TEXT, "datatype": _DATATYPE, "shape": array(_WHOLE)})
_CONFIG_TENSOR = _object({"name": _TEXT, "data_type": _TEXT, "dims": array(_WHOLE)})
_TIME = _object({"count": _WHOLE, "ns": _WHOLE})
_MODEL_STATISTICS = _object(
    {
        "name": _TEXT,
        "version": _TEXT,
        "inference_count": _WHOLE,
        "execution_count": _WHOLE,
        "inference_stats": {"type": "object", "additionalProperties": _TIME},
    }
)
_SIGNATURE = _object({"inputs": _OBJECT, "outputs": _OBJECT, "method_name": _TEXT})
_MODEL = _object(
    {
        "name": _TEXT,
        "version": _TEXT,
        "state": _TEXT,
        "task": _TEXT,
        "digest": _TEXT,
        "signed_by": _nullable(_TEXT),
        "engine": _TEXT,
        "kernels": _TEXT,
        "instances": _WHOLE,
        "inputs": array(_TENSOR),
        "outputs": array(_TENSOR),
        "labels": _WHOLE,
        "requests": _WHOLE,
        "versions": array(_object({"version": _TEXT, "digest": _TEXT, "state": _TEXT, "active": _FLAG})),
        "failures": array(_object({"version": _TEXT, "digest": _TEXT, "state": _TEXT, "reason": _TEXT})),
    }
)

SCHEMAS: dict[str, Schema] = {
    "Error": _object({"error": _TEXT}),
    "Live": _object({"live": _FLAG}),
    "Ready": _object({"ready": _FLAG}),
    "ModelReady": _object({"name": _TEXT, "ready": _FLAG}),
    "ServerMetadata": _object({"name": _TEXT, "version": _TEXT, "extensions": array(_TEXT)}),
    "ModelMetadata": _object(
        {
            "name": _TEXT,
            "versions": array(_TEXT),
            "platform": _TEXT,
            "inputs": array(_TENSOR),
            "outputs": array(_TENSOR),
        }
    ),
    "ModelConfig": _object(
        {
            "name": _TEXT,
            "platform": _TEXT,
            "backend": _TEXT,
            "max_batch_size": _WHOLE,
            "input": array(_CONFIG_TENSOR),
            "output": array(_CONFIG_TENSOR),
        }
    ),
    "Statistics": _object({"model_stats": array(_MODEL_STATISTICS)}),
    "InferenceRequest": _object(
        {"inputs": array(_INPUT)}, id=_TEXT, parameters=_PARAMETERS, outputs=array(_REQUESTED_OUTPUT)
    ),
    "InferenceResponse": _object({"model_name": _TEXT, "model_version": _TEXT, "outputs": array(_OUTPUT)}, id=_TEXT),
    "IndexRequest": _object({}, ready=_FLAG),
    "IndexEntry": _object({"name": _TEXT, "version": _TEXT, "state": _TEXT, "reason": _TEXT}),
    "Command": _object({}, parameters=_OBJECT),
    "TensorFlowRequest": {
        "type": "object",
        "properties": {"signature_name": {"type": "string", "enum": ["", "serving_default"]}},
        "oneOf": [
            {"required": ["instances"], "properties": {"instances": {"type": "array", "minItems": 1}}},
            {"required": ["inputs"], "properties": {"inputs": {}}},
        ],
    },
    "TensorFlowAnswer": {
        "type": "object",
        "oneOf": [
            {"required": ["predictions"], "properties": {"predictions": array({})}},
            {"required": ["outputs"], "properties": {"outputs": {}}},
        ],
    },
    "TensorFlowStatus": _object(
        {
            "model_version_status": array(
                _object(
                    {
                        "version": _TEXT,
                        "state": {
                            "type": "string",
                            "enum": ["UNKNOWN", "START", "LOADING", "AVAILABLE", "UNLOADING", "END"],
                        },
                        "status": _object({"error_code": _TEXT, "error_message": _TEXT}),
                    }
                )
            ),
            "name": _TEXT,
            "ready": _FLAG,
        }
    ),
    "TensorFlowMetadata": _object(
        {
            "model_spec": _object({"name": _TEXT, "signature_name": _TEXT, "version": _TEXT}),
            "metadata": _object(
                {"signature_def": _object({"signature_def": {"type": "object", "additionalProperties": _SIGNATURE}})}
            ),
        }
    ),
    "Answer": _object({"model": _TEXT, "version": _TEXT, "result": _object({"task": _TEXT}), "latency_ms": _NUMBER}),
    "Models": _object({"models": array(_MODEL)}),
    "Removed": _object({"removed": _TEXT}),
    "Changed": _object({"model": _TEXT, "version": _TEXT, "previous": _TEXT}),
    "Tune": {**_object({}, objective={"enum": ["latency", "throughput"]}), "additionalProperties": False},
    "TuneRun": _object(
        {"model": _TEXT, "state": {"enum": ["RUNNING", "DONE", "FAILED"]}, "done": _NUMBER, "reason": _TEXT},
        setup=_TEXT,
        tuning=_nullable(_OBJECT),
    ),
    "Activate": _object({"version": _TEXT}),
    "Upload": _object(
        {
            "id": _TEXT,
            "state": _TEXT,
            "model": _TEXT,
            "version": _TEXT,
            "reason": _TEXT,
            "size": _WHOLE,
            "offset": _WHOLE,
        }
    ),
    "Health": _object(
        {
            "status": _TEXT,
            "device": _TEXT,
            "id": _TEXT,
            "version": _TEXT,
            "boot": _TEXT,
            "uptime_seconds": _NUMBER,
            "engine": _TEXT,
            "require_signature": _FLAG,
            "problems": _OBJECT,
            "pipelines": _OBJECT,
        }
    ),
    "Index": _object({"device": _TEXT, "version": _TEXT, "paths": array(_TEXT)}),
}
