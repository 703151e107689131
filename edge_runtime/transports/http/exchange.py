"""One HTTP exchange over bare ASGI: read a bounded body, send JSON, turn errors into answers."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Self

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
_MAX_DIGITS = 19  # 64 bits
_SHOWN = 100  # characters of what the caller sent that go into a message


class WrongMethodError(CallerError):
    """The path is right, the method is not (RFC 9110 section 15.5.6)."""

    def __init__(self, scope: Scope, allowed: Iterable[str]) -> None:
        self.allow = ", ".join(sorted(allowed))
        super().__init__(f"{scope['path'][:_SHOWN]} does not take {scope['method']}; it takes {self.allow}")


class BodyBudget:
    """The memory that all request bodies together may take while they are read and worked on, in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.left = max_bytes

    def share(self) -> "BodyShare":
        """One request's part; to be used as a context."""
        return BodyShare(self)


class BodyShare:
    """What one request has taken of the budget; given back at the end of the context."""

    __slots__ = ("_budget", "_taken")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.left += self._taken
        self._taken = 0

    def take(self, size: int) -> None:
        """Take `size` bytes; raises CallerError OVERLOADED where there are no more."""
        self.check(size)
        self._budget.left -= size
        self._taken += size

    def check(self, size: int) -> None:
        """Raise as `take` does, but take nothing: who only announces bytes has no right to them yet."""
        if size > self._budget.left:
            raise CallerError(
                f"overloaded: requests of more than {self._budget.max_bytes - self._budget.left} bytes are being "
                f"worked on, {size} more are too many (http.max_bodies_bytes); try again later",
                Code.OVERLOADED,
            )


class Disconnected(Exception):  # noqa: N818 - not an error of ours: the caller hung up
    """The caller went away before its request was complete."""


async def read_body(scope: Scope, receive: Receive, max_bytes: int, share: BodyShare) -> bytes:
    """The whole body, which takes its bytes from `share` as they come.

    Raises:
        CallerError: TOO_LARGE beyond `max_bytes`, by the header or by counting; OVERLOADED.
    """
    announced = whole_number(header(scope, b"content-length"))
    if announced is not None:
        if announced > max_bytes:
            raise _too_large(announced, max_bytes)
        share.check(announced)
    message = await receive()
    body = _part(message, 0, max_bytes, share)
    if not message.get("more_body"):  # the common case: all of it at once
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        parts.append(_part(message, size, max_bytes, share))
        size += len(parts[-1])
    return b"".join(parts)


def _part(message: Mapping[str, Any], before: int, max_bytes: int, share: BodyShare) -> bytes:
    if message["type"] == "http.disconnect":
        raise Disconnected
    part: bytes = message.get("body", b"")
    if before + len(part) > max_bytes:
        raise _too_large(before + len(part), max_bytes)
    share.take(len(part))
    return part


def whole_number(text: str) -> int | None:
    """A number in the digits 0 to 9, of a length that a protocol needs; None for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else None


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


async def send_bytes(send: Send, body: bytes, status: int, *more: tuple[bytes, bytes]) -> None:
    """Answer with JSON that is encoded already; `more` are headers."""
    headers = [_JSON, (b"content-length", str(len(body)).encode()), *more]
    if status == HTTP_STATUS[Code.OVERLOADED]:
        headers.append(_RETRY_AFTER)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: Exception) -> None:
    """Answer with what went wrong; what nobody foresaw is logged with its trace and told without it."""
    if isinstance(error, EdgeError):
        if isinstance(error, WrongMethodError):
            await send_bytes(send, encode_json({"error": str(error)}), 405, (b"allow", error.allow.encode()))
        else:
            await send_json(send, {"error": str(error)}, HTTP_STATUS[error.code])
        return
    log.error("a request failed unexpectedly", exc_info=error)
    await send_json(send, {"error": f"internal error ({type(error).__name__}); the box's log has the details"}, 500)
