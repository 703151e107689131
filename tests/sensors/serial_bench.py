"""A serial line to plug and pull, a model that only remembers, and a pipeline between them."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from peers import require_peer

from edge_runtime.config import FramesConfig, PipelineConfig, SourceConfig, WindowConfig
from edge_runtime.inference.call import Call
from edge_runtime.inference.service import Answer, InferenceService, Sample
from edge_runtime.sensors.pipeline import Pipeline


async def until(condition: Callable[[], object], what: str = "", seconds: float = 10.0) -> None:
    """Wait for a condition; fail saying what did not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.005)


class Cable:
    """A serial line of socat: `port` is the box's end, `write` speaks for the sensor."""

    def __init__(self, directory: Path) -> None:
        self.port = directory / "ttyBOX"
        self.far = directory / "ttySENSOR"
        self._process: subprocess.Popen[bytes] | None = None
        self._descriptor = -1

    def plug(self) -> None:
        """Make both ends."""
        socat = require_peer("socat")
        ends = [f"pty,raw,echo=0,link={end}" for end in (self.port, self.far)]
        self._process = subprocess.Popen([socat, *ends], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 5
        while not (self.port.exists() and self.far.exists()):
            assert time.monotonic() < deadline, "socat made no pty"
            time.sleep(0.005)
        self._descriptor = os.open(self.far, os.O_RDWR | os.O_NOCTTY)

    def pull(self) -> None:
        """Kill the line without notice; the device files go."""
        if self._process is not None:
            os.close(self._descriptor)
            self._process.kill()
            self._process.wait()
            self._process = None
        for end in (self.port, self.far):
            end.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """What the sensor sends."""
        while data:
            data = data[os.write(self._descriptor, data) :]


class RememberingService(InferenceService):
    """Stands in for the data plane: keeps what it is asked, answers or raises as told."""

    def __init__(self) -> None:
        self.windows: list[Any] = []
        self.asked: list[tuple[str, str]] = []
        self.error: BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def predict(
        self,
        model: str,
        sample: Sample,
        *,
        version: str | None = None,
        call: Call | None = None,
    ) -> Answer:
        """Remember the window."""
        await self.gate.wait()
        self.asked.append((model, call.source if call else ""))
        if self.error is not None:
            raise self.error
        self.windows.append(sample.data)
        return Answer(model, "1.0.0", {}, 0.1)


def config(port: object, **keys: Any) -> PipelineConfig:
    """A pipeline named bench that reads from `port` and asks the model gesture."""
    source = SourceConfig(str(port), reopen_max_seconds=keys.pop("reopen", 0.2), **keys.pop("source", {}))
    frames, window = FramesConfig(**keys.pop("frames", {})), WindowConfig(**keys.pop("window", {}))
    return PipelineConfig("bench", "gesture", source, frames, window, **keys)


@asynccontextmanager
async def running(pipeline: Pipeline) -> AsyncIterator[Pipeline]:
    """Run the pipeline as the daemon does, and cancel it in the end."""
    task = asyncio.create_task(pipeline.run())
    try:
        yield pipeline
        assert not task.done(), "the pipeline ended by itself"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
