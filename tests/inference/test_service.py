"""The data plane's own rules, over a model that only echoes."""

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.config import EngineConfig
from edge_runtime.contract.manifest import Manifest, Task
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError, Code, ContentError, DeviceError
from edge_runtime.events import EventBus, Result
from edge_runtime.inference.admission import Admission
from edge_runtime.inference.call import Call
from edge_runtime.inference.description import Description
from edge_runtime.inference.pool import Pool
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.service import InferenceService, Sample

SPEC = TensorSpec("x", "FP32", (-1, 2))
CONFIG = EngineConfig(max_batch_bytes=1000)


class Echo:
    """A session that answers with what it was given, once its gate is open."""

    inputs = outputs = (SPEC,)
    sample_bytes = 100

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The inputs."""
        assert self.gate.wait(10)
        return dict(tensors)


class Desk:
    """A service with one model "m", and what it told the bus."""

    def __init__(self, task: Task = "raw", sample_bytes: int = 100) -> None:
        self.echo = Echo()
        description = Description("e", "1", "fast", task, (SPEC,), (SPEC,), sample_bytes=sample_bytes)
        pool = Pool([self.echo], max_waiting=1, inline_bytes=0)
        self.served = ServedVersion(Manifest("m", "1", {}), "digest", description, pool, Admission(description, CONFIG))
        registry, bus = Registry(), EventBus()
        registry.swap(self.served)
        self.told: list[Result] = []
        bus.subscribe(Result, self.told.append)
        self.service = InferenceService(registry, bus, CONFIG)

    async def infer(self, *shape: int, **more: Any) -> Any:
        """Zeros of a shape."""
        return await self.service.infer("m", {"x": np.zeros(shape, np.float32)}, **more)

    def close(self) -> None:
        """Free the threads."""
        self.served.runner.close()
        self.service.close()


def test_a_batch_is_bounded_by_the_memory_it_needs() -> None:
    """Ten samples of 100 bytes each fit into 1000; a few are never too many."""

    async def go() -> None:
        small, large = Desk(), Desk(sample_bytes=10**9)
        assert (await small.infer(10, 2)).outputs["x"].shape == (10, 2)
        assert (await large.infer(8, 2)).outputs["x"].shape == (8, 2)
        for desk, samples in ((small, 11), (large, 9)):
            with pytest.raises(CallerError, match="send them in parts") as caught:
                await desk.infer(samples, 2)
            assert caught.value.code is Code.TOO_LARGE
            desk.close()

    asyncio.run(go())


@pytest.mark.parametrize("shape", [(2,), (1, 3), (0, 2), (1, 2, 1)])
def test_shapes_that_do_not_fit_never_reach_the_engine(shape: tuple[int, ...]) -> None:
    """Also an empty batch."""

    async def go() -> None:
        desk = Desk()
        with pytest.raises(CallerError, match="must have the shape"):
            await desk.infer(*shape)
        assert desk.served.stats.errors == {Code.INVALID_INPUT: 1}
        desk.close()

    asyncio.run(go())


def test_only_predictions_are_told_unless_tensor_requests_are_wanted_too() -> None:
    """Reading an answer out of every tensor request would cost the fast path its time."""

    async def go() -> None:
        desk = Desk()
        await desk.infer(1, 2)
        assert desk.told == []
        await desk.service.predict("m", Sample(np.zeros(2)), call=Call(source="here"))
        desk.service.report_tensor_requests = True
        await desk.infer(1, 2)
        assert [result.source for result in desk.told] == ["here", "infer"]
        desk.close()

    asyncio.run(go())


def test_outputs_that_cannot_be_read_count_against_the_model() -> None:
    """A trial that watches the counts must see it."""

    async def go() -> None:
        desk = Desk(task="detection")
        with pytest.raises(ContentError, match="cannot be read as detection"):
            await desk.service.predict("m", Sample(np.zeros(2)))
        assert desk.served.stats.model_failures == 1
        desk.close()

    asyncio.run(go())


def test_a_stopping_box_refuses_and_drains() -> None:
    """What runs gets its answer, what comes is told, and drain returns when the last is done."""

    async def go() -> None:
        desk = Desk()
        desk.echo.gate.clear()
        running = asyncio.create_task(desk.infer(1, 2))
        await asyncio.sleep(0)
        desk.service.refuse_new_work()
        with pytest.raises(DeviceError, match="stopping"):
            await desk.infer(1, 2)
        started = time.monotonic()
        await desk.service.drain(0.05)
        assert time.monotonic() - started >= 0.04, "drained with a request in flight"
        desk.echo.gate.set()
        await desk.service.drain(10)
        assert (await running).outputs["x"].shape == (1, 2)
        desk.close()

    asyncio.run(go())


@pytest.mark.parametrize("inline_bytes", [0, 100])
def test_a_call_that_comes_too_late_is_not_run(inline_bytes: int) -> None:
    """Nobody waits for it: neither in a thread nor on the event loop."""

    async def go() -> None:
        desk = Desk()
        desk.served.replace_runner(Pool([desk.echo], max_waiting=1, inline_bytes=inline_bytes), resident=True)
        assert (await desk.infer(1, 2)).outputs["x"].shape == (1, 2)
        desk.echo.run = pytest.fail  # type: ignore[method-assign]
        for _ in range(3):
            with pytest.raises(CallerError, match="within the deadline") as caught:
                await desk.infer(1, 2, call=Call(deadline=time.monotonic()))
            assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert desk.served.stats.errors[Code.DEADLINE_EXCEEDED] == 3
        desk.close()

    asyncio.run(go())


def test_no_deadline_is_later_than_the_configured_one() -> None:
    """A caller cannot hold a place in the queue for ever."""

    async def go() -> None:
        desk = Desk()
        desk.service = InferenceService(desk.service._registry, EventBus(), EngineConfig(request_timeout_seconds=0.1))
        desk.echo.gate.clear()
        with pytest.raises(CallerError) as caught:
            await desk.infer(1, 2, call=Call(deadline=time.monotonic() + 1000))
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        desk.echo.gate.set()
        desk.close()

    asyncio.run(go())
