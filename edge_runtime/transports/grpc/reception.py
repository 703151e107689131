"""Which call a request is: the handlers by path, and what is refused before its body comes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.errors import CallerError, Code
from edge_runtime.transports.grpc import frames
from edge_runtime.transports.grpc.bounds import Bounds
from edge_runtime.transports.grpc.headers import literal
from edge_runtime.transports.grpc.http2 import Connection
from edge_runtime.transports.grpc.http2_sending import Stream
from edge_runtime.transports.grpc.rpc import Head, Rpc, StatusError, Unary, UnaryRpc
from edge_runtime.transports.grpc.stream_rpc import Streaming, StreamRpc


@dataclass(frozen=True, slots=True)
class Methods:
    """The handlers by path ("/package.Service/Method"). One that answers at once returns bytes, no coroutine."""

    unary: Mapping[str, Unary] = field(default_factory=dict)
    streaming: Mapping[str, Streaming] = field(default_factory=dict)

    def __or__(self, other: "Methods") -> "Methods":
        return Methods({**self.unary, **other.unary}, {**self.streaming, **other.streaming})


class Reception:
    """Makes calls of requests."""

    def __init__(self, methods: Methods, bounds: Bounds) -> None:
        self._methods = methods
        self._bounds = bounds

    def __call__(self, connection: "Connection[Any]", stream_id: int, head: Head) -> Stream:
        """One request's call; it may have failed already."""
        if head.acceptable and not self._bounds.full:
            unary = self._methods.unary.get(head.path)
            if unary is not None:
                return UnaryRpc(connection, stream_id, head, self._bounds, unary)
            streaming = self._methods.streaming.get(head.path)
            if streaming is not None:
                return StreamRpc(connection, stream_id, head, self._bounds, streaming)
        return _Refused(connection, stream_id, head, self._bounds, self._refusal(head))

    def _refusal(self, head: Head) -> Exception | None:
        if not head.is_grpc:
            return None
        if not head.acceptable:
            return StatusError("UNIMPLEMENTED", f"grpc-encoding {head.encoding!r} is not known: use gzip or deflate")
        if head.path not in self._methods.unary and head.path not in self._methods.streaming:
            return StatusError("UNIMPLEMENTED", f"there is no call {head.path[:100]!r} here")
        return CallerError(
            f"overloaded: {self._bounds.max_calls} requests are under way (grpc.max_concurrent_requests); "
            "try again later",
            Code.OVERLOADED,
        )


class _Refused(Rpc):
    """A request that is no call of ours, or one too many; its body is passed over."""

    __slots__ = ()

    def __init__(
        self, connection: "Connection[Any]", stream_id: int, head: Head, bounds: Bounds, refusal: Exception | None
    ) -> None:
        super().__init__(connection, stream_id, head, bounds)
        if refusal is None:  # no gRPC at all: 415, as the protocol wants for another content type
            connection.send(self, frames.HEADERS, literal(":status", "415"), last=True)
        else:
            self.fail(refusal)

    def received(self, data: bytes, *, ended: bool) -> None:
        """Nothing is done with it."""
