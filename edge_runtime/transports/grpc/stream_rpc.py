"""gRPC calls whose messages come and go one after another, both ways."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from edge_runtime.inference.workers import ON_LOOP_BYTES
from edge_runtime.transports.grpc import frames
from edge_runtime.transports.grpc.bounds import Bounds
from edge_runtime.transports.grpc.http2 import Connection
from edge_runtime.transports.grpc.http2_sending import STREAM_WINDOW
from edge_runtime.transports.grpc.rpc import (
    GZIP_HEAD,
    HEAD,
    OK,
    PACK_ABOVE_BYTES,
    PREFIX_BYTES,
    Context,
    Head,
    Rpc,
    StatusError,
    framed,
    packed,
)

# Messages of one stream that wait to be taken; the peer is held up beyond it.
_MAX_WAITING_MESSAGES = 4

Streaming = Callable[["Messages", Context], Coroutine[Any, Any, None]]


class StreamRpc(Rpc):
    """Messages both ways."""

    __slots__ = ("_arrived", "_begun", "_buffer", "_drained", "_ended", "_let_go", "_to_refill", "_waiting", "_working")

    def __init__(
        self, connection: "Connection[Any]", stream_id: int, head: Head, bounds: Bounds, call: Streaming
    ) -> None:
        super().__init__(connection, stream_id, head, bounds)
        self._buffer = bytearray()
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._to_refill = self._working = 0
        self._begun = self._ended = False
        self._arrived: asyncio.Event = asyncio.Event()
        self._drained: asyncio.Event = asyncio.Event()
        self._let_go: asyncio.Event = asyncio.Event()
        self.start(self._run(call))

    async def _run(self, call: Streaming) -> None:
        await call(Messages(self), self.context)
        self.end(OK)

    @property
    def headers_sent(self) -> bool:
        """Whether a part of the answer is out."""
        return self._begun

    @property
    def patient(self) -> bool:
        """Between two messages, yes; one that has begun takes memory."""
        return not self._buffer or len(self._waiting) >= _MAX_WAITING_MESSAGES

    def received(self, data: bytes, *, ended: bool) -> None:
        """Cut the bytes into messages."""
        try:
            self.take(len(data))
            self._to_refill += len(data)
            self._buffer += data
            self._cut()
            self._ended = ended
            self._arrived.set()
            self._refill()
        except Exception as error:  # noqa: BLE001 - told to the caller, and logged where nobody foresaw it
            self.fail(error)

    def _cut(self) -> None:
        """No more than are taken soon: a message of no bytes takes a hundred as an object."""
        buffer = self._buffer
        while len(buffer) >= PREFIX_BYTES and len(self._waiting) < _MAX_WAITING_MESSAGES:
            size = int.from_bytes(buffer[1:PREFIX_BYTES], "big")
            self._bounds.check_message(size)
            if len(buffer) < PREFIX_BYTES + size:
                return
            self._waiting.append((buffer[0], bytes(buffer[PREFIX_BYTES : PREFIX_BYTES + size])))
            del buffer[: PREFIX_BYTES + size]

    def _refill(self) -> None:
        """Let the caller go on, unless enough is here for the handler to go on with."""
        waiting = len(self._waiting)
        if not waiting or (waiting < _MAX_WAITING_MESSAGES and self._held < STREAM_WINDOW):
            size, self._to_refill = self._to_refill, 0
            self.connection.refill(self, size)

    async def next_message(self) -> bytes | None:
        """The next message; None after the last. Raises CallerError or StatusError."""
        while not self._waiting:
            if self._ended and self._buffer:
                raise StatusError("INTERNAL", "the stream ends within a message")
            if self._ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        flag, message = self._waiting.popleft()
        self.give_back(PREFIX_BYTES + len(message))
        self._cut()
        self._refill()
        if flag and len(message) > PACK_ABOVE_BYTES:
            return await self._bounds.workers.run(ON_LOOP_BYTES + 1, lambda: self.unpacked(flag, message))
        return self.unpacked(flag, message)

    async def hold(self, size: int) -> None:
        """Count a message that is worked on while the next ones come; raises CallerError OVERLOADED.

        Waits while those before it are too large for this one beside them.
        """
        self.take(size)
        while self._working and self._working + size > self._bounds.max_message_bytes:
            self._let_go.clear()
            await self._let_go.wait()
        self._working += size

    def let_go(self, size: int) -> None:
        """The message of `size` bytes has its answer."""
        self._working -= size
        self._let_go.set()
        self.give_back(size)
        self._refill()

    async def send(self, message: bytes) -> None:
        """Send a message; waits while the peer does not read."""
        if not self._begun:
            self._begun = True
            gzip = self.head.accepts_gzip and self.head.encoding == "gzip"
            self.connection.send(self, frames.HEADERS, GZIP_HEAD if gzip else HEAD)
        if self.packs(len(message)):
            body = await self._bounds.workers.run(len(message), lambda: framed(packed(message), 1))
        else:
            body = framed(message)
        self.connection.send(self, frames.DATA, body)
        while self.unsent:
            self._drained.clear()
            await self._drained.wait()

    def sent(self) -> None:
        """The peer reads again."""
        self._drained.set()


class Messages:
    """A stream of messages as its handler sees it."""

    def __init__(self, rpc: StreamRpc) -> None:
        self._rpc = rpc

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """What the caller sends, to its end."""
        while (message := await self._rpc.next_message()) is not None:
            yield message

    async def send(self, message: bytes) -> None:
        """Answer; waits while the caller does not read."""
        await self._rpc.send(message)

    async def hold(self, size: int) -> None:
        """Count a message of `size` bytes until `let_go`; see `StreamRpc.hold`."""
        await self._rpc.hold(size)

    def let_go(self, size: int) -> None:
        """It has its answer."""
        self._rpc.let_go(size)
