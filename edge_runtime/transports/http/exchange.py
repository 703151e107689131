"""One HTTP exchange over bare ASGI: read a bounded body, send JSON, turn errors into answers."""

import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from edge_runtime.errors import CallerError, Code, EdgeError
from edge_runtime.transports.codec import encode_json
from edge_runtime.transports.status import HTTP_STATUS

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_JSON = (b"content-type", b"application/json")
# How long a caller that was told "overloaded" should wait, in seconds.
_RETRY_AFTER = (b"retry-after", b"1")


class Disconnected(Exception):  # noqa: N818 - not an error of ours: the caller hung up
    """The caller went away before its request was complete."""


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The whole body; raises CallerError TOO_LARGE beyond `max_bytes`, by the header or by counting."""
    announced = header(scope, b"content-length")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(int(announced), max_bytes)
    message = await receive()
    if not message.get("more_body"):  # the common case: all of it at once
        return _checked(message, message.get("body", b""), max_bytes)
    body = bytearray(message.get("body", b""))
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
        _checked(message, body, max_bytes)
    return bytes(body)


def _checked(message: Mapping[str, Any], body: Any, max_bytes: int) -> bytes:
    if message["type"] == "http.disconnect":
        raise Disconnected
    if len(body) > max_bytes:
        raise _too_large(len(body), max_bytes)
    return body  # type: ignore[no-any-return]


def _too_large(size: int, max_bytes: int) -> CallerError:
    return CallerError(f"the body has {size} bytes or more, the limit here is {max_bytes}", Code.TOO_LARGE)


def header(scope: Scope, name: bytes) -> str:
    """A request header's value, or ""."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return ""


async def send_json(send: Send, document: Any, status: int = 200) -> None:
    """Answer with a JSON document."""
    await send_bytes(send, encode_json(document), status)


async def send_bytes(send: Send, body: bytes, status: int) -> None:
    """Answer with JSON that is encoded already."""
    headers = [_JSON, (b"content-length", str(len(body)).encode())]
    if status == HTTP_STATUS[Code.OVERLOADED]:
        headers.append(_RETRY_AFTER)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: Exception) -> None:
    """Answer with what went wrong; what nobody foresaw is logged with its trace and told without it."""
    if isinstance(error, EdgeError):
        await send_json(send, {"error": str(error)}, HTTP_STATUS[error.code])
        return
    log.error("a request failed unexpectedly", exc_info=error)
    await send_json(send, {"error": f"internal error ({type(error).__name__}); the box's log has the details"}, 500)
