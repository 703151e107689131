"""A pipeline: one sensor's link -> frames -> readings -> windows -> the model, and what there is to know about it."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.config import FramesConfig, PipelineConfig
from edge_runtime.errors import Code, EdgeError
from edge_runtime.inference.call import Call
from edge_runtime.inference.service import InferenceService, Sample
from edge_runtime.sensors.frames import FrameDecoder, LineDecoder
from edge_runtime.sensors.links import Chunk, Link, LinkState
from edge_runtime.sensors.serial_link import SerialLink
from edge_runtime.sensors.values import CsvValues, JsonValues, ValueDecoder
from edge_runtime.sensors.windows import Window

log = logging.getLogger(__name__)


class Pipeline:
    """Feeds one model from one sensor. `clock` gives seconds that never go back."""

    def __init__(
        self, config: PipelineConfig, service: InferenceService, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self._service = service
        self._clock = clock
        self._link: Link = SerialLink(config.source, config.name, clock)
        self._frames = _frame_decoder(config.frames)
        self._values = _value_decoder(config.frames)
        self._window = Window(config.window.count, config.window.hop, config.window.max_bytes)
        self._waiting: asyncio.Queue[NDArray[np.float64]] = asyncio.Queue(config.window.max_waiting_windows)
        self._opening = 0
        self._counts: Counter[str] = Counter()
        self._errors: Counter[Code] = Counter()
        self._last_error = ""
        self._last_reading: float | None = None
        self._started = clock()

    async def run(self) -> None:
        """Read and infer until cancelled. Nothing that the sensor or the model does ends it."""
        self._started = self._clock()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read(), name=f"pipeline:{self.config.name}:read")
            tasks.create_task(self._infer(), name=f"pipeline:{self.config.name}:infer")

    def status(self) -> Mapping[str, Any]:
        """The link's state and the counts since the start, as plain data; ages in seconds."""
        link, now = self._link.status, self._clock()
        faults = self._frames.faults + self._values.faults + self._window.faults
        return {
            "state": str(link.state),
            "detail": link.detail,
            "since_seconds": round(now - link.since, 3),
            "openings": self._opening,
            "frames": self._counts["frames"],
            "bad_frames": {str(fault): count for fault, count in sorted(faults.items())},
            "windows": self._counts["windows"],
            "windows_waiting": self._waiting.qsize(),
            "windows_dropped": self._counts["windows_dropped"],
            "results": self._counts["results"],
            "errors": {str(code): count for code, count in sorted(self._errors.items())},
            "last_error": self._last_error,
            "last_value_age_seconds": None if self._last_reading is None else round(now - self._last_reading, 3),
        }

    def problem(self) -> str | None:
        """What keeps readings from coming, for the health check; None while they come."""
        link = self._link.status
        if link.state is not LinkState.OPEN:
            return f"{link.state}: {link.detail}"
        limit = self.config.silence_seconds
        heard = self._started if self._last_reading is None else self._last_reading
        quiet = self._clock() - max(heard, link.since)
        if 0 < limit < quiet:
            return f"no usable reading from {link.detail} in {quiet:.1f} s (limit {limit:g})"
        return None

    async def _read(self) -> None:
        async with contextlib.aclosing(self._link.chunks()) as chunks:
            async for chunk in chunks:
                self._take(chunk)
                await asyncio.sleep(0)  # a sensor that never pauses must not have the loop for itself

    def _take(self, chunk: Chunk) -> None:
        if chunk.opening != self._opening:  # what was half received before can not go on here
            self._opening = chunk.opening
            self._frames.reset()
            self._values.reset()
            self._window.reset()
        for frame in self._frames.feed(chunk.data):
            self._take_frame(frame)

    def _take_frame(self, frame: bytes) -> None:
        self._counts["frames"] += 1
        reading = self._values.decode(frame)
        if reading is None:
            return
        self._last_reading = self._clock()
        window = self._window.push(reading)
        if window is not None:
            self._enqueue(window)

    def _enqueue(self, window: NDArray[np.float64]) -> None:
        self._counts["windows"] += 1
        if self._waiting.full():  # the newest says most about now
            self._waiting.get_nowait()
            self._counts["windows_dropped"] += 1
        self._waiting.put_nowait(window)

    async def _infer(self) -> None:
        source = f"pipeline:{self.config.name}"
        while True:
            window = await self._waiting.get()
            try:
                await self._service.predict(self.config.model, Sample(window), call=Call(source=source))
            except EdgeError as error:
                self._failed(error.code, str(error))
            except asyncio.CancelledError:
                if _being_cancelled():
                    raise
                self._failed(Code.UNAVAILABLE, "the request was cancelled by the service")
            except Exception as error:
                log.exception("pipeline %s: inference failed", self.config.name)
                self._failed(Code.INTERNAL, f"{type(error).__name__}: {error}")
            else:
                self._counts["results"] += 1
                self._last_error = ""

    def _failed(self, code: Code, message: str) -> None:
        self._errors[code] += 1
        if message != self._last_error:  # not a line for each window
            log.warning("pipeline %s: %s", self.config.name, message)
        self._last_error = message


def _frame_decoder(config: FramesConfig) -> FrameDecoder:
    return LineDecoder(config.max_bytes, skip_first=config.skip_first)


def _value_decoder(config: FramesConfig) -> ValueDecoder:
    return JsonValues() if config.values == "json" else CsvValues()


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
