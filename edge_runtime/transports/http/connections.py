"""Connections that cost little: none is held open by a silent peer, and there are never too many.

uvicorn bounds only the pause between two requests. Here its protocol (httptools, or h11 where that has no wheel) learns
to wait a bounded time for the head of a request and for the bytes of its body, and to make room for newcomers.
"""

import asyncio
import importlib.util
import logging
import time
from collections import deque
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from edge_runtime.config import HttpConfig
from edge_runtime.errors import Code
from edge_runtime.transports.codec import encode_json
from edge_runtime.transports.http.direct import Direct
from edge_runtime.transports.status import HTTP_STATUS

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
MAX_PIPELINED = 64
# A body goes on when this much has come (or all of it): one byte now and then holds a connection just as well as none.
PROGRESS_BYTES = 1024


class Connection(asyncio.Protocol):
    """What is added to uvicorn's protocol class; `house_rules` is set on the subclass that is made of both."""

    house_rules: "HouseRules"
    # Of uvicorn's protocols:
    transport: asyncio.Transport
    connections: set[Any]
    cycle: Any
    flow: Any

    since = 0.0
    _fresh_bytes = 0
    _unsent_bytes = 0

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or bool(self.cycle.response_complete)

    @property
    def receiving(self) -> bool:
        """Whether a request's body, or what is left of one that has its answer, is still to come."""
        return self.cycle is not None and bool(self.cycle.more_body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the place of one that is silent if the house is full, or be told so."""
        super().connection_made(transport)
        self.since = self.house_rules.clock()
        if len(self.connections) > self.house_rules.max_connections:
            self.house_rules.make_room(self, self.connections)

    def data_received(self, data: bytes) -> None:
        """Note that something came; what comes ahead of the present answer waits in the kernel."""
        was_idle, was_receiving = self.idle, self.receiving
        super().data_received(data)
        if not was_idle and not was_receiving:
            self.flow.pause_reading()
        elif self.receiving and not self.idle:
            self._fresh_bytes += len(data)
            if was_idle or self._fresh_bytes >= PROGRESS_BYTES:
                self.progressed()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self.progressed()
        super().on_response_complete()  # type: ignore[misc]

    def progressed(self) -> None:
        """The waiting begins anew."""
        self._fresh_bytes = 0
        self.since = self.house_rules.clock()

    def check(self, now: float) -> None:
        """End the connection if its peer has kept it waiting for too long; called every now and then."""
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent_bytes or (not unsent and self.flow.read_paused):  # it reads, or it is we who do not
            self._unsent_bytes = unsent
            self.progressed()
        rules, waited = self.house_rules, now - self.since
        if unsent or self.receiving or self.transport.is_closing():
            if waited > rules.body_timeout_seconds:
                self.transport.abort()
        elif self.idle and waited > rules.head_timeout_seconds:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in our words instead of uvicorn's."""
        self.refuse(HTTPStatus.BAD_REQUEST, f"this is no HTTP request: {msg}")

    def refuse(self, status: int, message: str) -> None:
        """Answer without a request's being handled, and close."""
        if not self.transport.is_closing():
            self.transport.write(canned(status, message))
            self.transport.close()


class HttpToolsConnection(Connection):
    """For httptools, which takes heads of any length, and any number of requests at once (h11 does neither)."""

    pipeline: deque[Any]  # uvicorn's: requests that came before the present one was answered
    _in_head = False
    _head_bytes = 0

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        """Its head is here."""
        self._in_head = False
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests are sent ahead")  # the parser ends, and send_400_response is called
        super().on_headers_complete()  # type: ignore[misc]

    def data_received(self, data: bytes) -> None:
        """Count what belongs to the head."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self.refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the request's head has more than {MAX_HEAD_BYTES} bytes"
            )

    def on_response_complete(self) -> None:
        """Read on only when the requests that are here have their answers."""
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()


class HouseRules:
    """The bounds of all connections of one server, and what looks after them."""

    def __init__(self, config: HttpConfig, max_connections: int, direct: Direct) -> None:
        self.direct = direct
        self.max_connections = max_connections
        self.head_timeout_seconds = config.head_timeout_seconds
        self.body_timeout_seconds = config.body_timeout_seconds
        self.clock = time.monotonic
        self._told = False

    def protocol(self) -> type[asyncio.Protocol]:
        """The protocol class for uvicorn."""
        base, added = _uvicorn_protocol()
        return type("HttpConnection", (added, base), {"house_rules": self})

    def make_room(self, newcomer: Connection, connections: Iterable[Connection]) -> None:
        """Close the connection that has been without a request for the longest time, or else the newcomer."""
        others = (one for one in connections if one is not newcomer and one.idle and not one.transport.is_closing())
        longest = min(others, key=lambda one: one.since, default=None)
        if longest is not None:
            longest.transport.abort()
        else:
            newcomer.refuse(HTTP_STATUS[Code.OVERLOADED], f"{self.max_connections} connections are in use; try again")
        if not self._told:
            self._told = True
            log.warning("HTTP: all %d connections are in use (http.max_connections)", self.max_connections)

    def enforce(self, connections: Iterable[Connection]) -> None:
        """Look at every connection; to be called every now and then."""
        now = self.clock()
        for connection in tuple(connections):
            try:
                connection.check(now)
            except Exception:  # one connection in an odd state must not end the server
                log.exception("a connection could not be looked after")
                connection.transport.abort()


def canned(status: int, message: str) -> bytes:
    """A whole answer in JSON, after which the connection is closed (RFC 9112 section 9.6)."""
    body = encode_json({"error": message})
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def _uvicorn_protocol() -> tuple[type[asyncio.Protocol], type[Connection]]:
    if importlib.util.find_spec("httptools"):
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: PLC0415 - not on 32-bit ARM

        from edge_runtime.transports.http.direct_connection import DirectConnection  # noqa: PLC0415 - it needs the above

        return HttpToolsProtocol, DirectConnection
    from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: PLC0415 - only where it is needed

    return H11Protocol, Connection
