"""gRPC's standard health service: a service is "" (the box), a protocol's service, or a model."""

import asyncio
from collections.abc import Callable, Iterable

from edge_runtime.errors import CallerError
from edge_runtime.inference.registry import Registry
from edge_runtime.transports.grpc.health_messages import HealthCheckRequest, HealthCheckResponse
from edge_runtime.transports.grpc.reception import Methods
from edge_runtime.transports.grpc.rpc import Context, StatusError
from edge_runtime.transports.grpc.stream_rpc import Messages

SERVICE = "grpc.health.v1.Health"
# What is watched knows no events: how often it is looked at.
_LOOK_SECONDS = 0.5


class Health:
    """Answers `Check` and `Watch` from what the box says of itself."""

    def __init__(self, services: Iterable[str], registry: Registry, ready: Callable[[], bool]) -> None:
        self._services = frozenset(("", *services))
        self._registry = registry
        self._ready = ready
        self._closing = asyncio.Event()

    def methods(self) -> Methods:
        """What a server needs to call them."""
        return Methods({f"/{SERVICE}/Check": self._check}, {f"/{SERVICE}/Watch": self._watch})

    def close(self) -> None:
        """End every watch: its caller may ask another box."""
        self._closing.set()

    def _status(self, service: str) -> str | None:
        if service not in self._services:
            try:
                self._registry.find(service)
            except CallerError:
                return None
        return "SERVING" if self._ready() and not self._closing.is_set() else "NOT_SERVING"

    def _check(self, data: bytes, _: Context) -> bytes:
        service = HealthCheckRequest.FromString(data).service
        status = self._status(service)
        if status is None:
            raise StatusError("NOT_FOUND", f"there is no service and no model {service[:100]!r} here")
        return HealthCheckResponse(status=status).SerializeToString()

    async def _watch(self, incoming: Messages, _: Context) -> None:
        """The status now, and whenever it has changed (doc/health-checking.md)."""
        service, told = "", None
        async for data in incoming:
            service = HealthCheckRequest.FromString(data).service
            break
        while not self._closing.is_set():
            status = self._status(service) or "SERVICE_UNKNOWN"
            if status != told:
                told = status
                await incoming.send(HealthCheckResponse(status=status).SerializeToString())
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._closing.wait()
            except TimeoutError:
                continue
        raise StatusError("UNAVAILABLE", "this box is stopping")
