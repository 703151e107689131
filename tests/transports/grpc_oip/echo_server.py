"""A gRPC server of ours in the test's own process, with a model that gives back what it gets; and a bare client."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from numpy.typing import NDArray

from edge_runtime.config import EngineConfig, GrpcConfig
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.events import EventBus
from edge_runtime.inference.admission import Admission
from edge_runtime.inference.description import Description
from edge_runtime.inference.pool import Pool
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.service import InferenceService
from edge_runtime.transports.grpc import messages
from edge_runtime.transports.grpc.calls import SERVICE
from edge_runtime.transports.grpc.server import GrpcServer

WAIT_SECONDS = 10.0


class Echo:
    """A session whose outputs are its inputs; `gate` closed holds every call."""

    def __init__(self, specs: tuple[TensorSpec, ...]) -> None:
        self.inputs = self.outputs = specs
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Wait for the gate, and give the inputs back."""
        self.entered.release()
        assert self.gate.wait(WAIT_SECONDS)
        return dict(tensors)


@dataclass
class Bench:
    """A started server, what is behind it, and a client's channel."""

    server: GrpcServer
    service: InferenceService
    registry: Registry
    echo: Echo
    channel: grpc.aio.Channel

    async def call(self, name: str, request: Message | bytes, seconds: float = WAIT_SECONDS) -> Any:
        """One call by its name; raises grpc.aio.AioRpcError."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        answer = await self.channel.unary_unary(f"/{SERVICE}/{name}")(data, timeout=seconds)
        return getattr(messages, f"{name}Response").FromString(answer)

    async def status_of(self, name: str, request: Message | bytes, seconds: float = WAIT_SECONDS) -> str:
        """The status of a call that must fail, and its message: "STATUS: message"."""
        try:
            answer = await self.call(name, request, seconds)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        raise AssertionError(f"answered: {answer}")


@asynccontextmanager
async def serving(*specs: TensorSpec, ready: bool = True, queue: int = 4, **config: float) -> AsyncIterator[Bench]:
    """A server with the model `echo`, version 1.0.0, that takes tensors of `specs`."""
    specs = specs or (TensorSpec("x", "FP32", (2,)),)
    echo, registry = Echo(specs), Registry()
    description = Description("litert", "0", "fast", "raw", specs, specs)
    pool = Pool([echo], max_waiting=queue, inline_bytes=0)
    admission = Admission(description, EngineConfig())
    registry.swap(ServedVersion(Manifest("echo", "1.0.0", {}), "0" * 64, description, pool, admission))
    service = InferenceService(registry, EventBus(), EngineConfig())
    server = GrpcServer(GrpcConfig(port=0, **config), "127.0.0.1", service, registry, lambda: ready)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        await server.start()
        try:
            yield Bench(server, service, registry, echo, channel)
        finally:
            echo.gate.set()
            await server.stop(0)
            registry.close()
            service.close()


async def eventually(condition: Callable[[], object]) -> None:
    """Return when the condition is true; fail if it is not in time."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for knows no events
            await asyncio.sleep(0.005)
