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

from edge_runtime.errors import Code, EdgeError
from edge_runtime.inference.call import Call
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.service import InferenceService
from edge_runtime.inference.workers import ON_LOOP_BYTES
from edge_runtime.transports.codec import encode_json
from edge_runtime.transports.http.exchange import whole_number
from edge_runtime.transports.http.forms import Form, form_of
from edge_runtime.transports.status import HTTP_STATUS

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = ON_LOOP_BYTES
_MAX_HEADS = 256
_PREFIX = b"POST /v2/models/"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
# Headers that change nothing about how a request is answered; with any other it takes the ordinary way.
_PLAIN_HEADERS = frozenset(
    [
        *(b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language"),
        *(b"content-type", b"content-length", b"inference-header-content-length"),
    ]
)


@dataclass(slots=True)
class _Target:
    """Whom a head asks, how much of the body is JSON (None: all), and what is known of who answered last."""

    model: str
    version: str | None
    json_bytes: int | None
    served: ServedVersion | None = None
    form: Form | None = None


class Direct:
    """Answers whole requests in bytes with whole answers in bytes, or leaves them to the ordinary way."""

    def __init__(self, registry: Registry, service: InferenceService) -> None:
        self._registry = registry
        self._service = service
        self._targets: dict[bytes, _Target] = {}
        self._common: Sequence[tuple[bytes, bytes]] | None = None
        self._common_head = b""

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
            target.served, target.form = served, form_of(served, target.json_bytes)
        if target.form is None:
            return None
        if common is not self._common:
            self._common = common
            self._common_head = b"".join([name + b": " + value + b"\r\n" for name, value in common])
        return self._infer(served, target.form, data[split[1] :])

    def _infer(self, served: ServedVersion, form: Form, body: bytes) -> bytes | None:
        request = form.read(body)
        if request is None:
            return None
        try:
            inference = self._service.infer_now(served, request[0], Call())
            if inference is None:
                return None
            head, body = form.write(inference.outputs, request[1])
        except EdgeError as error:
            return self._refusal(HTTP_STATUS[error.code], str(error), error.code)
        except Exception as error:
            log.exception("a request failed unexpectedly")
            return self._refusal(500, f"internal error ({type(error).__name__}); the box's log has the details")
        return b"".join((b"HTTP/1.1 200 OK\r\n", self._common_head, head, str(len(body)).encode(), b"\r\n\r\n", body))

    def _refusal(self, status: int, message: str, code: Code = Code.INTERNAL) -> bytes:
        body = encode_json({"error": message})
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        retry = "retry-after: 1\r\n" if code is Code.OVERLOADED else ""
        line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        return b"".join((line.encode(), self._common_head, retry.encode(), head.encode(), body))

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
    headers = dict(scope["headers"])
    keeps = headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
    if not keeps or len(set(names)) < len(names) or not _PLAIN_HEADERS.issuperset(names):
        return None
    if scope["http_version"] != "1.1" or scope["method"] != "POST" or scope["query_string"]:
        return None
    digits = headers.get(b"inference-header-content-length")
    json_bytes = None if digits is None else whole_number(digits.decode("latin-1"))
    if digits is not None and not json_bytes:
        return None
    match scope["path"].split("/"):
        case ["", "v2", "models", model, "infer"]:
            return _Target(model, None, json_bytes)
        case ["", "v2", "models", model, "versions", version, "infer"]:
            return _Target(model, version, json_bytes)
        case _:
            return None
