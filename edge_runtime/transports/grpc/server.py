"""The gRPC listener, on the daemon's event loop."""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any, cast

from edge_runtime.config import GrpcConfig
from edge_runtime.errors import DeviceError
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.service import InferenceService
from edge_runtime.transports.grpc import health_messages, messages
from edge_runtime.transports.grpc.bounds import Bounds
from edge_runtime.transports.grpc.calls import SERVICE, Calls
from edge_runtime.transports.grpc.frames import ErrorCode, Http2Error
from edge_runtime.transports.grpc.health import Health
from edge_runtime.transports.grpc.http2 import Connection
from edge_runtime.transports.grpc.reception import Reception
from edge_runtime.transports.grpc.reflection import Reflection
from edge_runtime.transports.grpc.rpc import Head
from edge_runtime.transports.repository import ModelRepository, ServedModels

log = logging.getLogger(__name__)

_BACKLOG = 1024
_SWEEP_SECONDS = 1.0
# A caller that went away without a word (power, network) is noticed after about the sum of these.
_KEEPALIVE_SECONDS = 60.0
_KEEPALIVE_TIMEOUT_SECONDS = 20.0
# Frames of one peer between which others have their turn: quick calls are answered as they are read. A client that
# sends all its heads first, and then the bodies, is to be done in one turn: its open calls count for everybody.
_FRAMES_A_TURN = 512
# The last answers are small; a peer that does not read them is not waited for.
_FLUSH_SECONDS = 0.5


class Peer(asyncio.Protocol):
    """One connection, and what its transport says."""

    def __init__(self, house: "House") -> None:
        self._house = house
        self.transport: asyncio.Transport
        self.connection: Connection[Head]
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._behind = False  # there is more to look at than was
        self._opened = self._stuck_since = self.heard = self._clock()
        self._buffered = 0
        self._pinged = 0.0  # when it was last heard before it was asked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello; take the place of one that is idle if the house is full."""
        self.transport = cast("asyncio.Transport", transport)
        self.connection = Connection(self.transport.write, Head.of, self._house.reception, self._house.max_streams)
        self._house.enter(self)
        if not transport.is_closing():
            self.connection.greet()

    def data_received(self, data: bytes) -> None:
        """Answer what can be answered at once."""
        self.heard = self._clock()
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        was_behind = self._behind
        try:
            self._behind = self.connection.receive(data, _FRAMES_A_TURN)
        except Http2Error as error:
            self.end(error.code, str(error))
        except Exception:
            log.exception("a gRPC connection failed unexpectedly")
            self.end(ErrorCode.INTERNAL_ERROR, "the box's log has the details")
        if self.transport.is_closing():
            return
        if self._behind:
            self.transport.pause_reading()
            self._loop.call_soon(self._go_on)
        elif was_behind and not self.connection.paused:
            self.transport.resume_reading()

    def _go_on(self) -> None:
        """Look at what was left, unless the peer does not read its answers."""
        if self._behind and not self.connection.paused and not self.transport.is_closing():
            self._receive(b"")

    def end(self, code: ErrorCode, why: str) -> None:
        """Say why, and close."""
        if not self.transport.is_closing():
            self.connection.go_away(code, why)
            self.transport.close()

    def hang_up(self) -> None:
        """Abort the calls that are still under way, and close."""
        for stream in tuple(self.connection.streams.values()):
            stream.hang_up("this box is stopping; ask another one, or try again later")
        self.transport.close()

    def pause_writing(self) -> None:
        """The peer does not read: nothing more is made for it, and nothing more is read from it."""
        self.connection.paused = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self.connection.paused = False
        if self._behind:
            self._loop.call_soon(self._go_on)
        else:
            self.transport.resume_reading()
        self.connection.pump()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Stop working for it."""
        self._house.leave(self)
        self.connection.lost()

    def check(self, now: float) -> None:
        """End the connection if its peer has kept the box waiting for too long; called every now and then."""
        stall = self._house.stall_seconds
        self.connection.check(now, stall)
        buffered = self.transport.get_write_buffer_size()
        if not buffered or buffered != self._buffered:
            self._buffered, self._stuck_since = buffered, now
        silent = now - self.heard
        stuck = now - self._stuck_since > stall
        if stuck or silent > _KEEPALIVE_SECONDS + _KEEPALIVE_TIMEOUT_SECONDS or self._never_greeted(now, stall):
            self.transport.abort()
        elif silent > _KEEPALIVE_SECONDS and self._pinged != self.heard:
            self._pinged = self.heard
            self.connection.ping()

    def _never_greeted(self, now: float, stall: float) -> bool:
        return not self.connection.greeted and now - self._opened > stall


class House:
    """All connections of one server, and their bounds."""

    def __init__(self, config: GrpcConfig, reception: Reception) -> None:
        self.reception = reception
        self.max_streams = config.max_concurrent_requests
        self.stall_seconds = config.stall_timeout_seconds
        self._max_connections = config.max_connections
        self._told = False
        self.peers: set[Peer] = set()
        self.empty = asyncio.Event()
        self.empty.set()

    def enter(self, peer: Peer) -> None:
        """Make room where all places are taken: the peer that has asked nothing for the longest time goes."""
        self.peers.add(peer)
        self.empty.clear()
        if len(self.peers) <= self._max_connections:
            return
        idle = (p for p in self.peers if p is not peer and not p.connection.streams and not p.transport.is_closing())
        longest = min(idle, key=lambda one: one.heard, default=peer)
        longest.transport.abort()
        if not self._told:
            self._told = True
            log.warning("gRPC: all %d connections are in use (grpc.max_connections)", self._max_connections)

    def leave(self, peer: Peer) -> None:
        """The connection is gone."""
        self.peers.discard(peer)
        if not self.peers:
            self.empty.set()

    async def sweep(self) -> None:
        """Look at every connection, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            for peer in tuple(self.peers):
                try:
                    peer.check(loop.time())
                except Exception:  # one connection in an odd state must not end the server
                    log.exception("a gRPC connection could not be looked after")
                    peer.transport.abort()


class GrpcServer:
    """Listens from construction on (callers wait in the backlog); answers from `start` on. Needs a running loop."""

    def __init__(
        self,
        config: GrpcConfig,
        host: str,
        service: InferenceService,
        registry: Registry,
        ready: Callable[[], bool],
        repository: ModelRepository | None = None,
    ) -> None:
        self._bounds = Bounds(
            config.max_concurrent_requests, config.max_message_bytes, config.max_messages_bytes, service.workers
        )
        self._health = Health([SERVICE], registry, ready)
        calls = Calls(service, registry, repository or ServedModels(registry), ready)
        reflection = Reflection([messages.DESCRIPTOR, health_messages.DESCRIPTOR])
        methods = calls.methods() | self._health.methods() | reflection.methods()
        self._house = House(config, Reception(methods, self._bounds))
        self._socket = _bind(host, config.port)
        self.port = int(self._socket.getsockname()[1])
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.Task[Any] | None = None

    async def start(self) -> None:
        """Begin to answer."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self._house), sock=self._socket, backlog=_BACKLOG)
        self._sweep = asyncio.create_task(self._house.sweep(), name="grpc")

    async def stop(self, grace_seconds: float) -> None:
        """Close the listener; running calls have `grace_seconds` more, then they are aborted."""
        if self._sweep is not None:
            self._sweep.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweep
            self._sweep = None
        if self._server is None:
            self._socket.close()
            return
        server, self._server = self._server, None
        server.close()
        self._health.close()
        for peer in tuple(self._house.peers):
            peer.connection.go_away()
        self._bounds.close()
        await _within(grace_seconds, self._bounds.quiet)
        for peer in tuple(self._house.peers):
            peer.hang_up()
        await _within(_FLUSH_SECONDS, self._house.empty)
        for peer in tuple(self._house.peers):
            peer.transport.abort()

    def problem(self) -> str | None:
        """What is wrong, or None."""
        if self._server is None or self._sweep is None:
            return None
        return None if self._server.is_serving() and not self._sweep.done() else "the gRPC server has ended by itself"


async def _within(seconds: float, event: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _bind(host: str, port: int) -> socket.socket:
    """Listen; raises DeviceError that names the key to change."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        hint = (
            "; another program (another edge-runtime?) has the port: set grpc.port, or grpc.enabled=false"
            if error.errno == errno.EADDRINUSE
            else "; set grpc.port or http.host"
        )
        raise DeviceError(f"gRPC cannot listen on {host}:{port}: {error.strerror or error}{hint}") from error
    listener.setblocking(False)
    return listener
