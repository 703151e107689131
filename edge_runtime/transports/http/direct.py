"""The short way: a small inference request is answered as soon as its bytes are here, without parser, task or ASGI.

Clients send the same head over and over on a connection that stays open. A head that came the ordinary way and was
found sound is kept; when the same bytes come again (but for the digits of content-length) they mean the same. What is
not just one whole request of that kind, or is for a model that would hold up the event loop, takes the ordinary way.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.tensors import NUMPY_NAMES, TensorSpec
from edge_runtime.errors import Code, EdgeError
from edge_runtime.inference.call import Call
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.service import InferenceService
from edge_runtime.inference.workers import ON_LOOP_BYTES
from edge_runtime.transports.codec import encode_json
from edge_runtime.transports.status import HTTP_STATUS

msgspec: Any
try:
    import msgspec
except ImportError:  # 32-bit ARM has no wheel, nor one of httptools: every request takes the ordinary way there
    msgspec = None

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = ON_LOOP_BYTES
_MAX_HEADS = 256
_PREFIX = b"POST /v2/models/"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
# Headers that change nothing about how a request is answered; with any other it takes the ordinary way.
_PLAIN_HEADERS = frozenset(
    [b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"content-type", b"content-length"]
)
# The JSON number type of a datatype; float16 and strings take the ordinary way.
_NUMBERS: dict[str, Any] = {"i": list[int], "u": list[int], "f": list[float]}


@dataclass(slots=True)
class _Target:
    """Whom a head asks, and what is known of the version that answered last."""

    model: str
    version: str | None
    served: ServedVersion | None = None
    form: "_Form | None" = None


class Direct:
    """Answers whole requests in bytes with whole answers in bytes, or leaves them to the ordinary way."""

    def __init__(self, registry: Registry, service: InferenceService) -> None:
        self._registry = registry
        self._service = service
        self._targets: dict[bytes, _Target] = {}
        self._common: Sequence[tuple[bytes, bytes]] | None = None
        self._head = b""

    def answer(self, data: bytes, common: Sequence[tuple[bytes, bytes]]) -> bytes | None:
        """The whole answer to `data`; None if it is not one whole request that may go this way.

        `common` are the headers of every answer.
        """
        split = _split(data)
        if split is None:
            return None
        target = self._targets.get(split[0])
        if target is None:
            return None
        served = self._registry.loaded(target.model, target.version)
        if served is None:
            return None
        if target.served is not served:
            target.served, target.form = served, _form(served)
        if target.form is None:
            return None
        if common is not self._common:
            self._common, self._head = common, _head(common)
        return self._infer(served, target.form, data[split[1] :])

    def _infer(self, served: ServedVersion, form: "_Form", body: bytes) -> bytes | None:
        request = form.read(body)
        if request is None:
            return None
        try:
            inference = self._service.infer_now(served, request[0], Call())
            if inference is None:
                return None
            answer = form.write(inference.outputs, request[1])
        except EdgeError as error:
            return self._refusal(HTTP_STATUS[error.code], str(error), error.code)
        except Exception as error:
            log.exception("a request failed unexpectedly")
            return self._refusal(500, f"internal error ({type(error).__name__}); the box's log has the details")
        return b"".join((b"HTTP/1.1 200 OK\r\n", self._head, str(len(answer)).encode(), b"\r\n\r\n", answer))

    def _refusal(self, status: int, message: str, code: Code = Code.INTERNAL) -> bytes:
        body = encode_json({"error": message})
        line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
        retry = b"retry-after: 1\r\n" if code is Code.OVERLOADED else b""
        return b"".join((line, retry, self._head, str(len(body)).encode(), b"\r\n\r\n", body))

    def learn(self, data: bytes, scope: Mapping[str, Any]) -> None:
        """Keep the head of `data`, which came the ordinary way and was read as `scope` (ASGI)."""
        split, target = _split(data), _target(scope)
        if split is None or target is None:
            return
        if len(self._targets) >= _MAX_HEADS:
            self._targets.clear()
        self._targets[split[0]] = target


def _split(data: bytes) -> tuple[bytes, int] | None:
    """The head without the digits of its content-length, and where the body begins; None if it is no whole request."""
    if not data.startswith(_PREFIX) or len(data) > MAX_REQUEST_BYTES:
        return None
    end = data.find(b"\r\n\r\n")
    length = _LENGTH.search(data, 0, end) if end > 0 else None
    if length is None or len(data) != end + 4 + int(length[1]):
        return None
    return data[: length.start(1)] + data[length.end(1) : end], end + 4


def _target(scope: Mapping[str, Any]) -> _Target | None:
    names = [name for name, _ in scope["headers"] if name != b"connection"]
    closes = any(name == b"connection" and value.lower() != b"keep-alive" for name, value in scope["headers"])
    if closes or len(set(names)) < len(names) or not _PLAIN_HEADERS.issuperset(names):
        return None
    if scope["http_version"] != "1.1" or scope["method"] != "POST" or scope["query_string"]:
        return None
    match scope["path"].split("/"):
        case ["", "v2", "models", model, "infer"]:
            return _Target(model, None)
        case ["", "v2", "models", model, "versions", version, "infer"]:
            return _Target(model, version)
        case _:
            return None


def _head(common: Sequence[tuple[bytes, bytes]]) -> bytes:
    lines = [name + b": " + value + b"\r\n" for name, value in common]
    return b"".join([*lines, b"content-type: application/json\r\ncontent-length: "])


class _Form:
    """How a request for one version is read and its answer written (Open Inference Protocol v2, "Inference").

    It is the usual case: one input, its numbers in a flat list, nothing special asked for.
    """

    def __init__(self, served: ServedVersion, numbers: Any) -> None:
        spec = served.description.inputs[0]
        fields = [("name", str), ("shape", list[int]), ("datatype", str), ("data", numbers)]
        inputs: Any = tuple[msgspec.defstruct("Input", fields, **_STRICT)]  # type: ignore[misc]
        request = msgspec.defstruct("Request", [("inputs", inputs), ("id", str, "")], **_STRICT)
        self._decode = msgspec.json.Decoder(request).decode
        self._encode = msgspec.json.Encoder().encode
        self._name, self._datatype = spec.name, spec.datatype
        self._dtype = np.dtype(NUMPY_NAMES[spec.datatype])
        names = {"model_name": served.name, "model_version": served.version}
        self._begin = encode_json(names)[:-1]
        self._outputs = [(spec.name, *_output_pieces(spec, i)) for i, spec in enumerate(served.description.outputs)]

    def read(self, body: bytes) -> tuple[dict[str, NDArray[Any]], str] | None:
        """The tensors and the id; None where the request is not of the usual form, or wrong."""
        try:
            request = self._decode(body)
            entry = request.inputs[0]
            if entry.name != self._name or entry.datatype != self._datatype:
                return None
            array = np.array(entry.data, self._dtype).reshape(entry.shape)
        except (ValueError, OverflowError, RecursionError, TypeError):
            return None
        # To numpy, -1 in a shape means whatever fits; to the protocol it is wrong.
        return ({self._name: array}, request.id) if list(array.shape) == entry.shape else None

    def write(self, outputs: Mapping[str, NDArray[Any]], identity: str) -> bytes:
        """The JSON of the answer."""
        encode, pieces = self._encode, [self._begin]
        if identity:
            pieces += (b',"id":', encode(identity))
        for name, begin, fixed in self._outputs:
            value = outputs[name]
            pieces += (begin, fixed.get(value.shape) or _shape(value.shape), encode(value.reshape(-1).tolist()), b"}")
        pieces.append(b"]}")
        return b"".join(pieces)


# A request with keys that are not known here is left to the ordinary way.
_STRICT = {"forbid_unknown_fields": True, "gc": False}


def _output_pieces(spec: TensorSpec, index: int) -> tuple[bytes, dict[tuple[int, ...], bytes]]:
    known = encode_json({"name": spec.name, "datatype": spec.datatype})[:-1]
    begin = (b"," if index else b',"outputs":[') + known + b',"shape":'
    return begin, {spec.shape: _shape(spec.shape)}


def _shape(shape: tuple[int, ...]) -> bytes:
    return encode_json(list(shape)) + b',"data":'


def _form(served: ServedVersion) -> _Form | None:
    description = served.description
    if msgspec is None or len(description.inputs) != 1 or not served.runner.inline_bytes:
        return None
    dtypes = [np.dtype(NUMPY_NAMES[spec.datatype]) for spec in (*description.inputs, *description.outputs)]
    if any(dtype.kind not in _NUMBERS or dtype == np.float16 for dtype in dtypes):
        return None
    if dtypes[0].kind != "f" and int(np.__version__.split(".", maxsplit=1)[0]) < 2:  # it wraps what is out of range
        return None
    return _Form(served, _NUMBERS[dtypes[0].kind])
