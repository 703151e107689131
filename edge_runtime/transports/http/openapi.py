"""The OpenAPI document of everything that this box serves over HTTP; loaded when somebody asks for it."""

from collections.abc import Mapping, Sequence
from typing import Any

from edge_runtime import __version__
from edge_runtime.transports.http.openapi_schemas import SCHEMAS, array, ref

Operation = dict[str, Any]

_JSON = "application/json"
_BINARY = "application/octet-stream"
_WHY = {
    400: "The request is wrong",
    403: "Not trusted",
    404: "Not here",
    409: "Not possible now",
    410: "Gone",
    413: "Larger than this box takes",
    415: "The media type or content coding is not known",
    422: "The model, or its bundle, does not work",
    429: "Overloaded: try again later",
    500: "An error of this box, with details in its log",
    503: "Not available now",
    504: "No answer within the deadline",
    507: "No space",
}
# What any request with a body may be told: its size, its coding, and that others are being read.
_BODY = (400, 413, 415, 429)
# What any request to a model may be told beside that.
_CALL = (*_BODY, 404, 422, 500, 503, 504, 507)
_DEADLINE = {
    "name": "Request-Timeout",
    "in": "header",
    "description": "How many seconds the caller waits; then the request is dropped.",
    "schema": {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,9})?$"},
}
_TRACE = {
    "name": "traceparent",
    "in": "header",
    "description": "W3C Trace Context; one that is not valid is ignored.",
    "schema": {"type": "string"},
}
_CALL_HEADERS = [_DEADLINE, _TRACE]
_JSON_BYTES = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "How much of the body is JSON, where raw bytes follow; 0: the body is the only input's raw bytes.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
}
_TUS = {
    "name": "Tus-Resumable",
    "in": "header",
    "required": True,
    "schema": {"type": "string", "enum": ["1.0.0"]},
}
_WAIT = {
    "name": "wait",
    "in": "query",
    "description": "Seconds to wait until something has changed, 30 at most.",
    "schema": {"type": "number"},
}
_PATH_PATTERNS = {
    "model": r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,63}$",
    "version": r"^[0-9A-Za-z][0-9A-Za-z.+\-]{0,31}$",
    "id": "^[0-9a-f]{1,64}$",
}


def document() -> dict[str, Any]:
    """The document (OpenAPI 3.1)."""
    paths = {**_open_inference(), **_tensorflow_serving(), **_models(), **_uploads(), **_box()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edge-runtime",
            "version": __version__,
            "description": "Models on a box: the Open Inference Protocol v2, TensorFlow Serving's REST API, "
            "predictions for people, and management.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {path: _with_path_parameters(path, item) for path, item in paths.items()},
        "components": {"schemas": SCHEMAS},
    }


def _with_path_parameters(path: str, item: Mapping[str, Operation]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": pattern}}
        for name, pattern in _PATH_PATTERNS.items()
        if f"{{{name}}}" in path
    ]
    return {**item, **({"parameters": parameters} if parameters else {})}


def _operation(
    summary: str,
    answer: Mapping[str, Any] | None,
    *refusals: int,
    status: int = 200,
    media: str = _JSON,
    headers: Sequence[str] = (),
    **more: Any,
) -> Operation:
    """One operation: what it answers (a schema; None: nothing), and with which statuses it refuses."""
    good: dict[str, Any] = {"description": summary}
    if answer is not None:
        good["content"] = {media: {"schema": answer}}
    if headers:
        good["headers"] = {name: {"required": True, "schema": {"type": "string"}} for name in headers}
    return {
        "summary": summary,
        "responses": {str(status): good} | {str(n): _refusal(n) for n in sorted(refusals)},
    } | more


def _refusal(status: int) -> dict[str, Any]:
    refusal: dict[str, Any] = {"description": _WHY[status], "content": {_JSON: {"schema": ref("Error")}}}
    if status == 429:
        refusal["headers"] = {"Retry-After": {"required": True, "schema": {"type": "string"}}}
    return refusal


def _body(schema: Mapping[str, Any], *others: str, required: bool = True) -> dict[str, Any]:
    content: dict[str, Any] = {_JSON: {"schema": schema}}
    content |= {media: {"schema": {}} for media in others}
    return {"required": required, "content": content}


def _of_each(paths: Mapping[str, Mapping[str, Operation]]) -> dict[str, Mapping[str, Operation]]:
    """Each path of a model, and the same of one of its versions."""
    versions = {path.replace("/{model}", "/{model}/versions/{version}"): item for path, item in paths.items()}
    return {**paths, **versions}


def _open_inference() -> dict[str, Mapping[str, Operation]]:
    not_ready = {"503": {"description": "Not yet, or not any more", "content": {_JSON: {"schema": ref("Ready")}}}}
    server_ready = _operation("Whether the box is ready", ref("Ready"))
    server_ready["responses"] |= not_ready
    model_ready = _operation("Whether a model is ready", ref("ModelReady"), 404)
    model_ready["responses"]["503"] = {
        "description": "It is not",
        "content": {_JSON: {"schema": ref("ModelReady")}},
    }
    infer = _operation(
        "Infer",
        ref("InferenceResponse"),
        *_CALL,
        parameters=[*_CALL_HEADERS, _JSON_BYTES],
        requestBody=_body(ref("InferenceRequest")),
    )
    infer["requestBody"]["content"][_BINARY] = {"schema": {"type": "string", "format": "binary"}}
    infer["responses"]["200"]["content"][_BINARY] = {"schema": {"type": "string", "format": "binary"}}
    command = _body(ref("Command"), required=False)
    return {
        "/v2": {"get": _operation("About the server", ref("ServerMetadata"))},
        "/v2/health/live": {"get": _operation("Whether the box is alive", ref("Live"))},
        "/v2/health/ready": {"get": server_ready},
        "/v2/models/stats": {"get": _operation("Statistics of all models", ref("Statistics"))},
        **_of_each(
            {
                "/v2/models/{model}": {"get": _operation("About a model", ref("ModelMetadata"), 404)},
                "/v2/models/{model}/ready": {"get": model_ready},
                "/v2/models/{model}/config": {"get": _operation("A model's configuration", ref("ModelConfig"), 404)},
                "/v2/models/{model}/stats": {"get": _operation("Statistics of a model", ref("Statistics"), 404)},
                "/v2/models/{model}/infer": {"post": infer},
            }
        ),
        "/v2/repository/index": {
            "post": _operation(
                "What is installed",
                array(ref("IndexEntry")),
                *_BODY,
                requestBody=_body(ref("IndexRequest"), required=False),
            )
        },
        "/v2/repository/models/{model}/load": {
            "post": _operation("Have a model in memory", {"type": "object"}, *_CALL, 409, requestBody=command)
        },
        "/v2/repository/models/{model}/unload": {
            "post": _operation("Free a model's memory", {"type": "object"}, *_CALL, 409, requestBody=command)
        },
    }


def _tensorflow_serving() -> dict[str, Mapping[str, Operation]]:
    predict = _operation(
        "Predict (TensorFlow Serving)",
        ref("TensorFlowAnswer"),
        *_CALL,
        parameters=_CALL_HEADERS,
        requestBody=_body(ref("TensorFlowRequest")),
    )
    paths: dict[str, Mapping[str, Operation]] = {
        "/v1/models/{model}": {"get": _operation("A model's status", ref("TensorFlowStatus"), 404)},
        "/v1/models/{model}/metadata": {"get": _operation("A model's signature", ref("TensorFlowMetadata"), 404)},
    }
    return {
        **_of_each(paths),
        "/v1/models/{model}:predict": {"post": predict},
        "/v1/models/{model}/versions/{version}:predict": {"post": predict},
    }


def _models() -> dict[str, Mapping[str, Operation]]:
    yes = {"type": "string", "enum": ["0", "1", "true", "false"]}
    asked = {
        "raw": ("1: the output tensors beside the answer.", yes),
        "sequence_id": ("A sequence of a model that keeps state.", {"type": "string", "maxLength": 128}),
        "sequence_start": ("1: it begins anew with this.", yes),
        "sequence_end": ("1: it ends with this.", yes),
    }
    query = [
        {"name": name, "in": "query", "description": text, "schema": schema} for name, (text, schema) in asked.items()
    ]
    predict = _operation(
        "Predict: an image, a sound, a table or JSON as it is",
        ref("Answer"),
        *_CALL,
        parameters=[*query, *_CALL_HEADERS],
        requestBody={"required": True, "content": {"*/*": {"schema": {}}}},
    )
    changed = (404, 409, 422, 429, 500, 503, 507)
    return {
        "/models": {"get": _operation("The models of this box", ref("Models"))},
        "/models/{model}": {"delete": _operation("Take a model off the box", ref("Removed"), 404, 500, 503)},
        "/models/{model}/predict": {"post": predict},
        "/models/{model}/rollback": {"post": _operation("Serve the version before", ref("Changed"), *changed)},
        "/models/{model}/tune": {
            "post": _operation(
                "Measure how the model runs best on this box",
                ref("TuneRun"),
                *(400, 404, 409, 413),
                status=202,
                requestBody=_body(ref("Tune"), required=False),
            ),
            "get": _operation("How far that is", ref("TuneRun"), 400, 404, parameters=[_WAIT]),
        },
        "/models/{model}/activate": {
            "post": _operation(
                "Serve another version",
                ref("Changed"),
                *(400, 413, *changed),
                requestBody=_body(ref("Activate")),
            )
        },
    }


def _uploads() -> dict[str, Mapping[str, Operation]]:
    """The resumable upload protocol tus 1.0, core, creation and termination."""
    length = {
        "name": "Upload-Length",
        "in": "header",
        "required": True,
        "description": "Bytes of the bundle.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
    }
    metadata = {
        "name": "Upload-Metadata",
        "in": "header",
        "description": 'Comma-separated "key base64(value)": filename, force (1).',
        "schema": {"type": "string"},
    }
    offset = {**length, "name": "Upload-Offset", "description": "Where these bytes belong."}
    view = [
        _WAIT,
        {"name": "state", "in": "query", "description": "The state that is known.", "schema": {"type": "string"}},
    ]
    chunk = {"application/offset+octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    create = _operation(
        "Begin to upload a bundle",
        None,
        *(400, 413, 429, 503, 507),
        status=201,
        headers=["Location", "Tus-Resumable"],
        parameters=[_TUS, length, metadata],
    )
    append = _operation(
        "Send bytes of a bundle; the last ones begin its deployment",
        None,
        *(400, 404, 409, 413, 415, 429, 500, 503, 507),
        status=204,
        headers=["Upload-Offset", "Tus-Resumable"],
        parameters=[_TUS, offset],
        requestBody={"required": True, "content": chunk},
    )
    options = _operation("What of tus is spoken", None, status=204, headers=["Tus-Version", "Tus-Extension"])
    head = _operation(
        "How much has come", None, status=200, headers=["Upload-Offset", "Upload-Length"], parameters=[_TUS]
    )
    head["responses"] |= {"400": {"description": _WHY[400]}, "404": {"description": _WHY[404]}}
    return {
        "/uploads": {"post": create, "options": options},
        "/uploads/{id}": {
            "head": head,
            "get": _operation("How a deployment goes", ref("Upload"), 400, 404, parameters=view),
            "patch": append,
            "delete": _operation("Cancel an upload", None, 400, 404, 409, status=204, parameters=[_TUS]),
        },
    }


def _box() -> dict[str, Mapping[str, Operation]]:
    health = _operation("How the box is", ref("Health"))
    health["responses"]["503"] = {"description": "Failed", "content": {_JSON: {"schema": ref("Health")}}}
    metrics = _operation("Prometheus metrics", {"type": "string"}, media="text/plain")
    return {
        "/": {"get": _operation("Where things are", ref("Index"))},
        "/healthz": {"get": health},
        "/metrics": {"get": metrics},
        "/openapi.json": {"get": _operation("This document", {"type": "object", "required": ["openapi", "paths"]})},
    }
