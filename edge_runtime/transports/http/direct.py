"""The short way: an inference request of the usual form is answered without parser, task or ASGI, as far as can be.

Clients send the same head over and over on a connection that stays open. A head that came the ordinary way and was
found sound is kept; when the same bytes come again (but for the digits of content-length) they mean the same. A quick
model answers at once. What is not just one request of that kind takes the ordinary way.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple

from numpy.typing import NDArray

from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.call import Call
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.service import Inference, InferenceService
from edge_runtime.inference.workers import ON_LOOP_BYTES
from edge_runtime.transports.codec import encode_json
from edge_runtime.transports.http import content_coding
from edge_runtime.transports.http.bodies import Bodies, BodyShare
from edge_runtime.transports.http.exchange import error_document, whole_number
from edge_runtime.transports.http.forms import Form, form_of
from edge_runtime.transports.status import HTTP_STATUS

MAX_JSON_BYTES = ON_LOOP_BYTES
# An answer that is longer than this as JSON is written by a thread.
_MAX_JSON_ANSWER_BYTES = 64 * 1024
_MAX_HEAD_BYTES = 4096
_MAX_HEADS = 256
_VARY = b"vary: accept-encoding\r\n"  # as the ordinary way says of what it packs for others
_OK = b"HTTP/1.1 200 OK\r\n"
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
    """What a head asks, and what is known of who answered last.

    Attributes:
        json_bytes: how much of the body is JSON; None: all.
        packed: the caller takes the answer packed.
    """

    model: str
    version: str | None
    json_bytes: int | None
    packed: bool
    served: ServedVersion | None = None
    form: Form | None = None


class Known(NamedTuple):
    """What the beginning of a request means: for which version it is, and where it begins and ends in its bytes."""

    target: _Target
    served: ServedVersion
    form: Form
    body_at: int
    size: int


class Question(NamedTuple):
    """A request that was read."""

    known: Known
    tensors: dict[str, NDArray[Any]]
    asked: Any


class Direct:
    """From the bytes of requests to the bytes of answers, or to nothing: then they take the ordinary way."""

    def __init__(self, registry: Registry, service: InferenceService, bodies: Bodies) -> None:
        self._registry = registry
        self._service = service
        self._bodies = bodies
        self._targets: dict[bytes, _Target] = {}
        self._common: Sequence[tuple[bytes, bytes]] | None = None
        self._common_head = b""

    def recognize(self, data: bytes) -> Known | None:
        """What the first bytes of a request mean; None if they may not go this way."""
        head = _head(data)
        target = self._targets.get(head.key) if head is not None else None
        if head is None or target is None:
            return None
        served = self._registry.loaded(target.model, target.version)
        if served is None:
            return None
        if target.served is not served:
            target.served, target.form = served, form_of(served, target.json_bytes)
        # Large JSON takes its time to parse: threads do that.
        limit = MAX_JSON_BYTES if target.json_bytes is None else self._bodies.max_bytes
        if target.form is None or head.size - head.body_at > limit:
            return None
        return Known(target, served, target.form, head.body_at, head.size)

    def share(self) -> BodyShare:
        """Memory for a body that comes in parts, to be released."""
        return self._bodies.share()

    def read(self, known: Known, data: bytes) -> Question | None:
        """The request that `data`, all of it, is; None if it is not of the usual form, or wrong."""
        read = known.form.read(data, known.body_at)
        if read is None:
            return None
        # Two bytes or more for each sample: most requests need no closer look.
        if known.form.sample_bytes * len(data) // 2 > _MAX_JSON_ANSWER_BYTES or known.target.packed:
            size = known.form.sample_bytes * _samples(read[0])
            as_json = known.target.json_bytes is None
            if (as_json and size > _MAX_JSON_ANSWER_BYTES) or (known.target.packed and self._bodies.pays_to_pack(size)):
                return None
        return Question(known, *read)

    def answer_now(self, question: Question, common: Sequence[tuple[bytes, bytes]]) -> bytes | None:
        """The whole answer; None if it must be waited for. `common` are the headers of every answer."""
        served = question.known.served
        try:
            inference = self._service.infer_now(served, question.tensors, Call())
            return None if inference is None else self._accepted(question, inference, common)
        except Exception as error:  # noqa: BLE001 - `error_document` logs what nobody foresaw
            return self._refusal(error, common)

    async def answer(self, question: Question, common: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The whole answer, when the model has it."""
        target = question.known.target
        try:
            inference = await self._service.infer(target.model, question.tensors, version=target.version, call=Call())
            if inference.version != question.known.served.version:  # swapped meanwhile
                question = question._replace(known=self._now(question.known, inference.version))
            return self._accepted(question, inference, common)
        except Exception as error:  # noqa: BLE001 - `error_document` logs what nobody foresaw
            return self._refusal(error, common)

    def _now(self, known: Known, version: str) -> Known:
        served = self._registry.find(known.target.model, known.target.version)
        form = form_of(served, known.target.json_bytes)
        if form is None or served.version != version:
            raise CallerError("the model was replaced meanwhile: ask again", Code.UNAVAILABLE)
        return known._replace(served=served, form=form)

    def _accepted(self, question: Question, inference: Inference, common: Sequence[tuple[bytes, bytes]]) -> bytes:
        head, body = question.known.form.write(inference.outputs, question.asked)
        vary = _VARY if self._bodies.pays_to_pack(len(body)) else b""
        return b"".join((_OK, self._common_lines(common), vary, head, str(len(body)).encode(), b"\r\n\r\n", body))

    def _refusal(self, error: Exception, common: Sequence[tuple[bytes, bytes]]) -> bytes:
        status, document = error_document(error)
        body = encode_json(document)
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        retry = "retry-after: 1\r\n" if status == HTTP_STATUS[Code.OVERLOADED] else ""
        line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        return b"".join((line.encode(), self._common_lines(common), retry.encode(), head.encode(), body))

    def _common_lines(self, common: Sequence[tuple[bytes, bytes]]) -> bytes:
        if common is not self._common:  # uvicorn makes them anew every second
            self._common = common
            self._common_head = b"".join([name + b": " + value + b"\r\n" for name, value in common])
        return self._common_head

    def learn(self, data: bytes, scope: Mapping[str, Any]) -> None:
        """Keep the head of `data`, which came the ordinary way and was read as `scope` (ASGI)."""
        head, target = _head(data), _target(scope)
        if head is None or target is None:
            return
        if len(self._targets) >= _MAX_HEADS:
            self._targets.clear()
        self._targets[head.key] = target


class _Head(NamedTuple):
    """A head without the digits of its content-length, where the body begins, and where the request ends."""

    key: bytes
    body_at: int
    size: int


def _head(data: bytes) -> _Head | None:
    """The head that `data` begins with, if there is no more in it than one request."""
    if not data.startswith(_PREFIX):
        return None
    end = data.find(b"\r\n\r\n", 0, _MAX_HEAD_BYTES)
    length = _LENGTH.search(data, 0, end) if end > 0 else None
    if length is None:
        return None
    size = end + 4 + int(length[1])
    return _Head(data[: length.start(1)] + data[length.end(1) : end], end + 4, size) if len(data) <= size else None


def _samples(tensors: Mapping[str, NDArray[Any]]) -> int:
    return max(max(value.shape[:1], default=1) for value in tensors.values())


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
    packed = bool(content_coding.accepted(headers.get(b"accept-encoding", b"").decode("latin-1")))
    match scope["path"].split("/"):
        case ["", "v2", "models", model, "infer"]:
            return _Target(model, None, json_bytes, packed)
        case ["", "v2", "models", model, "versions", version, "infer"]:
            return _Target(model, version, json_bytes, packed)
        case _:
            return None
