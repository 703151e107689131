"""gRPC calls over HTTP/2 streams (grpc.github.io: "gRPC over HTTP2"): messages, statuses, deadlines, compression."""

import asyncio
import logging
import time
import zlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from edge_runtime.errors import CallerError, Code, EdgeError
from edge_runtime.inference.workers import ON_LOOP_BYTES
from edge_runtime.system import trace_context
from edge_runtime.transports.grpc import frames
from edge_runtime.transports.grpc.bounds import Bounds
from edge_runtime.transports.grpc.headers import literal
from edge_runtime.transports.grpc.http2 import Connection
from edge_runtime.transports.grpc.http2_sending import Stream
from edge_runtime.transports.status import GRPC_STATUS

log = logging.getLogger(__name__)

# grpc.github.io/grpc/core/md_doc_statuscodes.html
STATUS = {
    "OK": 0,
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}
# Headers hold some KiB at most, and every character of a message may take twelve bytes there.
_MAX_MESSAGE_CHARACTERS = 400
# When a caller that was told "overloaded" should come again; gRPC's clients obey it where they retry (gRFC A6).
_PUSHBACK = literal("grpc-retry-pushback-ms", "1000")

_STATUS_200 = b"\x88"  # RFC 7541, appendix A
_CONTENT_TYPE = literal("content-type", "application/grpc")
_ACCEPTED = literal("grpc-accept-encoding", "identity,deflate,gzip")
# Header blocks of an answer: before its messages, and after them.
HEAD = _STATUS_200 + _CONTENT_TYPE + _ACCEPTED
GZIP_HEAD = HEAD + literal("grpc-encoding", "gzip")
OK = literal("grpc-status", "0")

PREFIX_BYTES = 5
# Smaller messages become no smaller.
PACK_ABOVE_BYTES = 1024
# zlib's number for each encoding: 15 bits of window, 16 more for gzip's frame around it.
_ZLIB_WINDOW = {"gzip": 31, "deflate": 15}
# A body goes on when this much has moved: one byte now and then holds a call just as well as none.
_PROGRESS_BYTES = 1024
_UNIT_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MAX_TIMEOUT_SECONDS = 30 * 24 * 3600.0


class StatusError(Exception):
    """A status that no error of the runtime has, as UNIMPLEMENTED."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """What a request's headers say; `metadata` are all of them by name, `acceptable`: it is a call that can be read."""

    path: str
    is_grpc: bool
    timeout: float | None
    encoding: str
    accepts_gzip: bool
    metadata: Mapping[str, str]
    acceptable: bool

    @staticmethod
    def of(fields: list[tuple[str, str]]) -> "Head":
        """From a list of headers; of one that comes twice, the last counts."""
        found = dict(fields)
        method, content_type = found.get(":method", ""), found.get("content-type", "")
        encoding = found.get("grpc-encoding", "identity")
        is_grpc = method == "POST" and content_type.startswith("application/grpc")
        return Head(
            path=found.get(":path", ""),
            is_grpc=is_grpc,
            timeout=_timeout(found.get("grpc-timeout", "")),
            encoding=encoding,
            accepts_gzip="gzip" in found.get("grpc-accept-encoding", ""),
            metadata=found,
            acceptable=is_grpc and (encoding == "identity" or encoding in _ZLIB_WINDOW),
        )


def _timeout(text: str) -> float | None:
    """The header `grpc-timeout` in seconds; None where there is none, or none that can be read."""
    digits, unit = text[:-1], _UNIT_SECONDS.get(text[-1:])
    if unit is None or not (digits.isascii() and digits.isdecimal()) or len(digits) > 8:
        return None
    return min(int(digits) * unit, _MAX_TIMEOUT_SECONDS)


@dataclass(slots=True)
class Context:
    """What a call's handler may want to know beside the message.

    Attributes:
        deadline: the caller's, in time.monotonic() seconds; None where it has none.
        metadata: the call's headers by name.
    """

    deadline: float | None
    metadata: Mapping[str, str]


Unary = Callable[[bytes, Context], bytes | Coroutine[Any, Any, bytes]]


class Rpc(Stream):
    """One call: what unary and streaming ones have in common."""

    __slots__ = ("_bounds", "_held", "_late", "_seen", "_since", "_task", "context", "head")

    def __init__(self, connection: "Connection[Any]", stream_id: int, head: Head, bounds: Bounds) -> None:
        super().__init__(connection, stream_id)
        self.head = head
        self.context = Context(None if head.timeout is None else time.monotonic() + head.timeout, head.metadata)
        self._bounds = bounds
        bounds.enter()
        self._held = 0  # bytes taken of the bounds
        self._task: asyncio.Task[None] | None = None
        self._late: asyncio.TimerHandle | None = None
        self._since = self._seen = 0.0  # of `check`

    @property
    def patient(self) -> bool:
        """Whether the caller may take its time with the next bytes."""
        return False

    def check(self, now: float, stall_seconds: float) -> None:
        """End the call if its caller has kept the box waiting for too long; called every now and then."""
        waits = bool(self.unsent) or not (self.in_ended or self.patient)
        if not waits or not self._since or self.moved - self._seen >= _PROGRESS_BYTES:
            self._since, self._seen = now, self.moved
        elif now - self._since > stall_seconds:
            self.connection.cancel(self)

    def hang_up(self, why: str) -> None:
        """UNAVAILABLE: it may be tried elsewhere."""
        self.fail(StatusError("UNAVAILABLE", why))

    def take(self, size: int) -> None:
        """Hold `size` bytes until the call ends; raises CallerError OVERLOADED."""
        self._bounds.take(size)
        self._held += size

    def give_back(self, size: int) -> None:
        """Hold `size` bytes less; nothing once the call has ended, which has given back everything."""
        size = min(size, self._held)
        self._bounds.bytes -= size
        self._held -= size

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as the call's task; it ends with the call, and at the caller's deadline."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._guarded(work))
        if self.context.deadline is not None:
            self._late = loop.call_later(self.context.deadline - time.monotonic(), self._expire)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            if not self.out_ended:  # not by the caller
                self.fail(StatusError("CANCELLED", "the box ended the call"))
            raise
        except Exception as error:  # noqa: BLE001 - told to the caller, and logged where nobody foresaw it
            self.fail(error)

    def _expire(self) -> None:
        self.fail(CallerError("no answer within the deadline; the request was dropped", Code.DEADLINE_EXCEEDED))

    def closed(self) -> None:
        """Stop working for nobody, and make room for others."""
        self._bounds.leave()
        self.give_back(self._held)
        if self._late is not None:
            self._late.cancel()
        if self._task is not None:
            task, self._task = self._task, None
            if task is not asyncio.current_task():
                task.cancel()

    def fail(self, error: Exception) -> None:
        """End the call with the status of `error`; one that nobody foresaw is logged."""
        with trace_context.noted(trace_context.checked(self.context.metadata.get("traceparent", ""))):
            status, message = status_of(error)
        trailers = literal("grpc-status", str(STATUS[status])) + literal("grpc-message", percent_encoded(message))
        if isinstance(error, EdgeError) and error.code is Code.OVERLOADED:
            trailers += _PUSHBACK
        if isinstance(error, StatusError) and "grpc-encoding" in message:
            trailers += _ACCEPTED
        self.end(trailers)

    def end(self, trailers: bytes) -> None:
        """Send the last block; with nothing sent before, it is the only one ("Trailers-Only")."""
        block = trailers if self.headers_sent else _STATUS_200 + _CONTENT_TYPE + trailers
        self.connection.send(self, frames.HEADERS, block, last=True)

    @property
    def headers_sent(self) -> bool:
        """Whether a part of the answer is out."""
        return False

    def unpacked(self, flag: int, message: bytes) -> bytes:
        """The message as it was before the peer compressed it; raises CallerError or StatusError."""
        if not flag:
            return message
        window = _ZLIB_WINDOW.get(self.head.encoding)
        if flag != 1 or window is None:
            raise StatusError(
                "INTERNAL", f"a compressed message (flag {flag}) with grpc-encoding {self.head.encoding!r}"
            )
        limit = self._bounds.max_message_bytes
        unpacker = zlib.decompressobj(window)
        try:
            out = unpacker.decompress(message, limit + 1)
        except zlib.error as error:
            raise CallerError(f"the message is not {self.head.encoding}: {error}") from error
        if len(out) > limit:
            raise CallerError(
                f"the message has more than {limit} bytes when it is unpacked (grpc.max_message_bytes)", Code.TOO_LARGE
            )
        if not unpacker.eof:
            raise CallerError(f"the {self.head.encoding} message ends too early")
        return out

    def packs(self, size: int) -> bool:
        """Whether an answer of `size` bytes is compressed: where the request was, and its sender reads gzip."""
        return size > PACK_ABOVE_BYTES and self.head.accepts_gzip and self.head.encoding == "gzip"


def status_of(error: Exception) -> tuple[str, str]:
    """The status and the message that a caller gets; what nobody foresaw is logged with its trace and told without."""
    if isinstance(error, StatusError):
        return error.status, str(error)
    if isinstance(error, EdgeError):
        return GRPC_STATUS[error.code], str(error)
    log.error("a request failed unexpectedly", exc_info=error)
    return "INTERNAL", f"internal error ({type(error).__name__}); the box's log has the details"


def percent_encoded(message: str) -> str:
    """A message as the trailer `grpc-message` has it: what is not printable ASCII, and the percent sign, in UTF-8."""
    return quote(message[:_MAX_MESSAGE_CHARACTERS], safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")


def packed(message: bytes) -> bytes:
    """A message in gzip, as quickly as that goes."""
    packer = zlib.compressobj(1, wbits=_ZLIB_WINDOW["gzip"])
    return packer.compress(message) + packer.flush()


def framed(message: bytes, flag: int = 0) -> bytes:
    """A message behind its five bytes ("Length-Prefixed-Message")."""
    return b"%c%b%b" % (flag, len(message).to_bytes(4, "big"), message)


class UnaryRpc(Rpc):
    """One message, one answer."""

    __slots__ = ("_body", "_call")

    def __init__(self, connection: "Connection[Any]", stream_id: int, head: Head, bounds: Bounds, call: Unary) -> None:
        super().__init__(connection, stream_id, head, bounds)
        self._call = call
        self._body = bytearray()  # pieces of their own would take many times the memory where they are small

    def received(self, data: bytes, *, ended: bool) -> None:
        """Collect the message; answer it when it is whole."""
        try:
            body = self._body
            if ended and not body:  # the common case
                self._whole(data)
                return
            self.take(len(data))
            body += data
            if len(body) >= PREFIX_BYTES:
                self._bounds.check_message(int.from_bytes(body[1:PREFIX_BYTES], "big"))
            self._bounds.check_message(len(body) - PREFIX_BYTES)
            if ended:
                self._body = bytearray()
                self._whole(body)
            else:
                self.connection.refill(self, len(data))
        except Exception as error:  # noqa: BLE001 - told to the caller, and logged where nobody foresaw it
            self.fail(error)

    def _whole(self, body: bytes | bytearray) -> None:
        size = int.from_bytes(body[1:PREFIX_BYTES], "big")
        if len(body) != PREFIX_BYTES + size:
            if not body:
                raise StatusError("INTERNAL", "the call has no message")
            raise StatusError("INTERNAL", f"a message of {size} bytes was announced, {len(body) - PREFIX_BYTES} came")
        self._bounds.check_message(size)
        flag, message = body[0], bytes(memoryview(body)[PREFIX_BYTES:])
        if flag and size > PACK_ABOVE_BYTES:  # it may become a thousand times as large: not on the event loop
            self.start(self._unpack_and_answer(flag, message))
            return
        answer = self._call(self.unpacked(flag, message), self.context)
        if isinstance(answer, bytes):
            self._reply(answer)
        else:
            self.start(self._answer(answer))

    async def _unpack_and_answer(self, flag: int, message: bytes) -> None:
        unpacked = await self._bounds.workers.run(ON_LOOP_BYTES + 1, lambda: self.unpacked(flag, message))
        self.take(len(unpacked))
        answer = self._call(unpacked, self.context)
        await self._answer(answer)

    async def _answer(self, work: bytes | Coroutine[Any, Any, bytes]) -> None:
        answer = work if isinstance(work, bytes) else await work
        if self.packs(len(answer)):
            body = await self._bounds.workers.run(len(answer), lambda: framed(packed(answer), 1))
            self.connection.answer(self, GZIP_HEAD, body, OK)
        else:
            self._reply(answer)

    def _reply(self, answer: bytes) -> None:
        if self.packs(len(answer)):
            self.connection.answer(self, GZIP_HEAD, framed(packed(answer), 1), OK)
        else:
            self.connection.answer(self, HEAD, framed(answer), OK)
