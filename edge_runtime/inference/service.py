"""The one data plane: every link and every sensor asks for answers here."""

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.config import EngineConfig
from edge_runtime.contract.tensors import NUMPY_NAMES, TensorSpec
from edge_runtime.errors import CallerError, Code, ContentError, DeviceError, EdgeError
from edge_runtime.events import EventBus, Result
from edge_runtime.inference import postprocess, preprocess
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.workers import ON_LOOP_BYTES, Workers

# Tensor requests are told from predictions by this source, so that a link can leave their results out.
TENSOR_SOURCE = "infer"
_NEVER_SMALL = ON_LOOP_BYTES + 1


@dataclass(frozen=True, slots=True)
class Sample:
    """A person's or a sensor's input as it came.

    Attributes:
        data: the bytes of a document or picture, or an array of real values in the raw input's unit.
        content_type: MIME type of bytes ("image/jpeg", "application/json", ""); unused for an array.
    """

    data: bytes | NDArray[Any]
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Inference:
    """Output tensors by name, as the model stores them, their specs, and which version made them."""

    model: str
    version: str
    outputs: Mapping[str, NDArray[Any]]
    specs: tuple[TensorSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person asked for: plain data (labels, boxes, a value)."""

    model: str
    version: str
    result: Mapping[str, Any]
    latency_ms: float


class InferenceService:
    """Leases a version, checks tensors against its specs, runs it within a deadline, counts, and tells the bus."""

    def __init__(self, registry: Registry, bus: EventBus, config: EngineConfig) -> None:
        self._registry = registry
        self._bus = bus
        self._config = config
        self._stopping = False
        self.in_flight = 0
        self._idle = asyncio.Event()
        self.workers = Workers(config.queue_max_requests)
        # Set by whoever reports tensor requests, too: reading an answer out of them costs time.
        self.report_tensor_requests = False

    async def infer(
        self,
        model: str,
        tensors: Mapping[str, NDArray[Any]],
        *,
        version: str | None = None,
        deadline: float | None = None,
        source: str = TENSOR_SOURCE,
    ) -> Inference:
        """Run `model` on input tensors by name, in stored dtypes and full shapes.

        `deadline` is in time.monotonic() seconds; None, or a later one, means the configured time from now.

        Raises:
            CallerError: no such model, tensors that do not fit its specs, overloaded, late.
            ContentError: the model failed.
            DeviceError: the box is stopping.
        """
        with self._registry.lease(model, version) as served, self._counted(served) as started:
            outputs = await self._run(served, tensors, deadline)
            if self.report_tensor_requests:
                self._report(served, outputs, started, source)
            return Inference(served.name, served.version, outputs, served.description.outputs)

    async def predict(
        self,
        model: str,
        sample: Sample,
        *,
        version: str | None = None,
        deadline: float | None = None,
        source: str = "http",
    ) -> Answer:
        """Pre-process a sample, run the model, read the answer, and tell the bus. Raises as `infer` does."""
        with self._registry.lease(model, version) as served, self._counted(served) as started:
            tensors = {served.description.inputs[0].name: await self._prepare(served, sample)}
            outputs = await self._run(served, tensors, deadline)
            return self._report(served, outputs, started, source)

    def close(self) -> None:
        """End the workers."""
        self.workers.close()

    def refuse_new_work(self) -> None:
        """From now on every request is told that the box is stopping."""
        self._stopping = True
        self._note_idle()

    async def drain(self, seconds: float) -> None:
        """After `refuse_new_work`: return when the last request has its answer, or after `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    def _note_idle(self) -> None:
        if self._stopping and not self.in_flight:
            self._idle.set()

    @contextlib.contextmanager
    def _counted(self, served: ServedVersion) -> Iterator[float]:
        """Count a request from its arrival to its answer or failure; gives the time of its arrival."""
        started = time.perf_counter()
        self.in_flight += 1
        try:
            if self._stopping:
                raise DeviceError("this box is stopping; ask another one, or try again later", Code.UNAVAILABLE)
            yield started
        except EdgeError as error:
            served.stats.failed(error.code)
            raise
        else:
            served.stats.answered(time.perf_counter() - started)
        finally:
            self.in_flight -= 1
            self._note_idle()

    async def _prepare(self, served: ServedVersion, sample: Sample) -> NDArray[Any]:
        spec, data = _only_input(served), sample.data
        size = len(data) if isinstance(data, bytes) else data.nbytes
        if isinstance(data, bytes) and preprocess.picture_format(data) is not None:
            size = ON_LOOP_BYTES + 1  # a picture of few bytes may unpack to many pixels: it is never small
        elif isinstance(data, bytes):
            preprocess.check_document_size(size, spec, self._max_samples(served))
        declaration, limit = served.description.input, self._config.max_picture_pixels
        return await self.workers.run(
            size, lambda: preprocess.to_tensor(data, sample.content_type, spec, declaration, max_pixels=limit)
        )

    async def _run(
        self, served: ServedVersion, tensors: Mapping[str, NDArray[Any]], deadline: float | None
    ) -> dict[str, NDArray[Any]]:
        self._check(served.description.inputs, tensors, self._max_samples(served))
        latest = time.monotonic() + self._config.request_timeout_seconds
        return await served.pool.run(tensors, latest if deadline is None else min(deadline, latest))

    def _max_samples(self, served: ServedVersion) -> int:
        return served.description.max_samples(self._config.max_batch_bytes)

    def _check(self, specs: tuple[TensorSpec, ...], tensors: Mapping[str, NDArray[Any]], max_samples: int) -> None:
        """Every input once, in the dtype and shape that the model stores: the engine must see nothing else."""
        expected = [spec.name for spec in specs]
        if set(tensors) != set(expected):
            raise CallerError(f"inputs must be {expected}, but are {sorted(tensors)}")
        for spec in specs:
            value = tensors[spec.name]
            if value.dtype != np.dtype(NUMPY_NAMES[spec.datatype]):
                raise CallerError(f"input {spec.name!r} must be {spec.datatype}, but is {value.dtype}")
            if not _fits(value.shape, spec.shape):
                raise CallerError(
                    f"input {spec.name!r} must have the shape {list(spec.shape)}, but has {list(value.shape)}"
                )
            if spec.shape[:1] == (-1,) and value.shape[0] > max_samples:
                raise CallerError(
                    f"input {spec.name!r} has {value.shape[0]} samples, more than {max_samples}; send them in parts",
                    Code.TOO_LARGE,
                )
            if value.nbytes > self._config.max_tensor_bytes:
                raise CallerError(
                    f"input {spec.name!r} has {value.nbytes} bytes, more than {self._config.max_tensor_bytes}",
                    Code.TOO_LARGE,
                )

    def _report(
        self, served: ServedVersion, outputs: Mapping[str, NDArray[Any]], started: float, source: str
    ) -> Answer:
        try:
            result = postprocess.read_answer(outputs, served.description, served.manifest.output)
        except (ValueError, TypeError, IndexError) as error:
            task = served.description.task
            raise ContentError(f"the outputs of {served.name!r} cannot be read as {task}: {error}") from error
        latency_ms = round((time.perf_counter() - started) * 1000, 3)
        self._bus.publish(Result(served.name, served.version, time.time(), source, result, latency_ms))
        return Answer(served.name, served.version, result, latency_ms)


def _only_input(served: ServedVersion) -> TensorSpec:
    inputs = served.description.inputs
    if len(inputs) > 1:
        names = ", ".join(spec.name for spec in inputs)
        raise CallerError(f"model {served.name!r} has {len(inputs)} inputs ({names}): send tensors to /v2")
    return inputs[0]


def _fits(shape: tuple[int, ...], spec: tuple[int, ...]) -> bool:
    return (
        len(shape) == len(spec)
        and all(n == s or (s < 0 < n) for n, s in zip(shape, spec, strict=True))
        and bool(math.prod(shape) or not shape)
    )
