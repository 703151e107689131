"""One HTTP exchange over bare ASGI: ask the request, send JSON, turn errors into answers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from typing import Any, TypeVar

from edge_runtime.errors import CallerError, Code, EdgeError
from edge_runtime.transports.codec import encode_json
from edge_runtime.transports.status import HTTP_STATUS

log = logging.getLogger(__name__)

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = (b"content-type", b"application/json")
# How long a caller that was told "overloaded" should wait, in seconds.
_RETRY_AFTER = (b"retry-after", b"1")
# What a caller whose coding is not known may send instead (RFC 9110 section 15.5.16).
_ACCEPT_ENCODING = (b"accept-encoding", b"gzip, deflate")
_MAX_DIGITS = 19  # 64 bits
_SHOWN = 100  # characters of what the caller sent that go into a message


class WrongMethodError(CallerError):
    """The path is right, the method is not (RFC 9110 section 15.5.6)."""

    def __init__(self, scope: Scope, allowed: Iterable[str]) -> None:
        self.allow = ", ".join(sorted(allowed))
        super().__init__(f"{scope['path'][:_SHOWN]} does not take {scope['method']}; it takes {self.allow}")


class Disconnected(Exception):  # noqa: N818 - not an error of ours: the caller hung up
    """The caller went away before its request was complete."""


def whole_number(text: str) -> int | None:
    """A number in the digits 0 to 9, of a length that a protocol needs; None for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else None


class Exchange:
    """One request and its answer, with what is asked of the request more than once."""

    __slots__ = ("_headers", "receive", "scope", "send")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self._headers: dict[bytes, bytes] = dict(scope["headers"])

    def header(self, name: bytes) -> str:
        """A request header's value, the last one of several, or ""."""
        return self._headers.get(name, b"").decode("latin-1")

    def check_method(self, method: str) -> None:
        """Raise WrongMethodError for others. HEAD is GET whose body the server leaves out (RFC 9110 section 9.3.2)."""
        asked = self.scope["method"]
        if asked != method and not (asked == "HEAD" and method == "GET"):
            raise WrongMethodError(self.scope, ("GET", "HEAD") if method == "GET" else (method,))

    def no_such_path(self) -> CallerError:
        """What is said of a path that is not served."""
        return CallerError(f"there is no {self.scope['method']} {self.scope['path'][:_SHOWN]}", Code.NOT_FOUND)

    async def answer(self, document: Any, status: int = 200) -> None:
        """Answer with a JSON document."""
        await send_json(self.send, document, status)

    async def _end(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def while_connected(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result; if the caller hangs up before, the work is cancelled. For use once the body is read.

        Raises:
            Disconnected: the caller has hung up.
        """
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self._end())
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Disconnected
            return task.result()
        finally:
            gone.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))


async def send_json(send: Send, document: Any, status: int = 200) -> None:
    """Answer with a JSON document."""
    await send_bytes(send, encode_json(document), status)


async def send_bytes(
    send: Send, body: bytes, status: int, *more: tuple[bytes, bytes], content_type: tuple[bytes, bytes] = JSON
) -> None:
    """Answer with what is encoded already; `more` are headers."""
    headers = [content_type, (b"content-length", str(len(body)).encode()), *more]
    if status == HTTP_STATUS[Code.OVERLOADED]:
        headers.append(_RETRY_AFTER)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: Exception) -> None:
    """Answer with what went wrong."""
    more = []
    if isinstance(error, WrongMethodError):
        more.append((b"allow", error.allow.encode()))
    if isinstance(error, EdgeError) and error.code is Code.UNSUPPORTED_MEDIA:
        more.append(_ACCEPT_ENCODING)
    status, document = error_document(error)
    await send_bytes(send, encode_json(document), status, *more)


def error_document(error: Exception) -> tuple[int, dict[str, str]]:
    """Status and document of an error; what nobody foresaw is logged with its trace and told without it."""
    if isinstance(error, WrongMethodError):
        return 405, {"error": str(error)}
    if isinstance(error, EdgeError):
        return HTTP_STATUS[error.code], {"error": str(error)}
    log.error("a request failed unexpectedly", exc_info=error)
    return 500, {"error": f"internal error ({type(error).__name__}); the box's log has the details"}
