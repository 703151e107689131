"""An HTTP server of ours in the test's own process, with a model whose answers wait until the test lets them go."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edge_runtime.config import EngineConfig, HttpConfig
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.events import EventBus
from edge_runtime.inference.admission import Admission
from edge_runtime.inference.call import Call
from edge_runtime.inference.description import Description
from edge_runtime.inference.pool import Pool
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.runner import Tensors
from edge_runtime.inference.service import InferenceService
from edge_runtime.transports.http.app import HttpApp
from edge_runtime.transports.http.dataplane import DataPlane
from edge_runtime.transports.http.direct import Direct
from edge_runtime.transports.http.server import HttpServer
from edge_runtime.transports.repository import ModelRepository

WAIT_SECONDS = 10.0


class Gated:
    """A session whose outputs are its inputs; `gate` closed holds every call."""

    sample_bytes = 100

    def __init__(self, specs: tuple[TensorSpec, ...]) -> None:
        self.inputs = self.outputs = specs
        self.gate = threading.Event()
        self.runs = 0

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Wait for the gate, and give the inputs back."""
        self.runs += 1
        assert self.gate.wait(WAIT_SECONDS)
        return dict(tensors)


class NotedPool(Pool):
    """A pool that keeps the calls it was given."""

    def __init__(self, sessions: Sequence[Any], max_waiting: int) -> None:
        super().__init__(sessions, max_waiting=max_waiting, inline_bytes=0)
        self.calls: list[Call] = []

    async def run(self, tensors: Tensors, call: Call) -> dict[str, NDArray[Any]]:
        """Note the call, and run it."""
        self.calls.append(call)
        return await super().run(tensors, call)


@dataclass
class GatedBench:
    """A started server and what is behind it."""

    session: Gated
    pool: NotedPool
    port: int


@asynccontextmanager
async def gated_server(*, queue: int = 4, repository: ModelRepository | None = None) -> AsyncIterator[GatedBench]:
    """A server with the model `m`, version 1.0.0: FP32, shape [2], one session."""
    specs = (TensorSpec("x", "FP32", (2,)),)
    session, registry = Gated(specs), Registry()
    description = Description("litert", "0", "fast", "raw", specs, specs)
    pool = NotedPool([session], queue)
    admission = Admission(description, EngineConfig())
    registry.swap(ServedVersion(Manifest("m", "1.0.0", {}), "0" * 64, description, pool, admission))
    service = InferenceService(registry, EventBus(), EngineConfig())
    config = HttpConfig(host="127.0.0.1", port=0)
    data_plane = DataPlane(service, registry, config, repository)
    direct = Direct(registry, service, data_plane.bodies)
    server = HttpServer(config, HttpApp(data_plane, _no_management), direct)
    await server.start()
    try:
        yield GatedBench(session, pool, server.port)
    finally:
        session.gate.set()
        await server.stop()
        registry.close()
        service.close()


def _no_management() -> Any:
    raise AssertionError("only the data plane is asked here")


async def eventually(condition: Callable[[], object]) -> None:
    """Return when the condition is true; fail if it is not in time."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for knows no events
            await asyncio.sleep(0.005)
