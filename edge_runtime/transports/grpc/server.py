"""The gRPC listener, on the daemon's event loop."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable

import grpc

from edge_runtime.config import GrpcConfig
from edge_runtime.errors import DeviceError
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.service import InferenceService
from edge_runtime.transports.grpc.calls import Calls

# A caller that went away without a word (power, network) is noticed after about the sum of these.
_KEEPALIVE_MS = 60_000
_KEEPALIVE_TIMEOUT_MS = 20_000


class GrpcServer:
    """Listens from construction on (callers wait in the backlog); answers from `start` on. Needs a running loop."""

    def __init__(
        self,
        config: GrpcConfig,
        host: str,
        service: InferenceService,
        registry: Registry,
        ready: Callable[[], bool],
    ) -> None:
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 0),  # else a second box on the same port would silently take half of the calls
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", -1),  # an answer is as large as the model's outputs
                ("grpc.max_concurrent_streams", config.max_concurrent_requests),
                ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ),
            maximum_concurrent_rpcs=config.max_concurrent_requests,
        )
        self._server.add_generic_rpc_handlers((Calls(service, registry, ready).handlers(),))
        self.port = _listen(self._server, host, config.port)
        self._end: asyncio.Task[bool] | None = None

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()
        self._end = asyncio.create_task(self._server.wait_for_termination(), name="grpc")

    async def stop(self, grace_seconds: float) -> None:
        """Close the listener; running calls have `grace_seconds` more, then they are aborted."""
        await self._server.stop(grace_seconds)
        if self._end is not None:
            self._end.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._end
            self._end = None

    def problem(self) -> str | None:
        """What is wrong, or None."""
        return "the gRPC server has ended by itself" if self._end is not None and self._end.done() else None


def _listen(server: grpc.aio.Server, host: str, port: int) -> int:
    """Bind; returns the port. Raises DeviceError that names the key to change."""
    _check_free(host, port)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise DeviceError(f"gRPC cannot listen on {address}: {error}; set grpc.port or http.host") from error
    if not bound:
        raise DeviceError(f"gRPC cannot listen on {address}; set grpc.port or http.host")
    return int(bound)


def _check_free(host: str, port: int) -> None:
    """Bind once by ourselves: gRPC does not tell why it cannot."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            hint = (
                "; another program (another edge-runtime?) has the port: set grpc.port, or grpc.enabled=false"
                if error.errno == errno.EADDRINUSE
                else "; set grpc.port or http.host"
            )
            raise DeviceError(f"gRPC cannot listen on {host}:{port}: {error.strerror or error}{hint}") from error
