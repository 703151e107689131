"""The one data plane: every link and every sensor asks for answers here."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from numpy.typing import NDArray

from edge_runtime.config import EngineConfig
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import Code, ContentError, DeviceError, EdgeError
from edge_runtime.events import EventBus, Result
from edge_runtime.inference import batches, postprocess, preprocess, windowed
from edge_runtime.inference.answers.picture_view import picture_view
from edge_runtime.inference.answers.view import View, frame_of
from edge_runtime.inference.call import Call
from edge_runtime.inference.inputs.limits import Limits, Windows
from edge_runtime.inference.pool import too_late
from edge_runtime.inference.postprocess import Question
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.request_log import RequestLog
from edge_runtime.inference.residence import Residence
from edge_runtime.inference.runner import Tensors
from edge_runtime.inference.sequences import Sequences
from edge_runtime.inference.tracer import Tracer
from edge_runtime.inference.workers import ON_LOOP_BYTES, Workers
from edge_runtime.system import trace_context

_NEVER_SMALL = ON_LOOP_BYTES + 1  # a picture or a recording of few bytes may be much work


@dataclass(frozen=True, slots=True)
class Sample:
    """A person's or a sensor's input as it came.

    Attributes:
        data: the bytes of a document or picture, or an array of real values in the raw input's unit.
        content_type: MIME type of bytes ("image/jpeg", "application/json", ""); unused for an array.
    """

    data: bytes | NDArray[Any]
    content_type: str = ""


class Inference(NamedTuple):
    """Output tensors by name, as the model stores them, their specs and class names, and which version made them."""

    model: str
    version: str
    outputs: Mapping[str, NDArray[Any]]
    specs: tuple[TensorSpec, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person asked for: plain data (labels, boxes, a value)."""

    model: str
    version: str
    result: Mapping[str, Any]
    latency_ms: float


class InferenceService:
    """Leases a version, checks tensors against its specs, runs it within a deadline, counts, and tells the bus."""

    def __init__(
        self,
        registry: Registry,
        bus: EventBus,
        config: EngineConfig,
        residence: Residence | None = None,
        *,
        request_log: RequestLog | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._registry = registry
        self._bus = bus
        self._config = config
        self._stopping = False
        self._request_log = request_log or RequestLog()
        self._tracer = tracer
        # Whether answers are told one by one; without it an answer costs no more than this question.
        self._told = tracer is not None or self._request_log.slow_seconds > 0
        self.in_flight = 0
        self._idle = asyncio.Event()
        self.workers = Workers(config.queue_max_requests)
        self.sequences = Sequences(registry, residence or Residence(config), config)
        # Set by whoever reports tensor requests, too: reading an answer out of them costs time.
        self.report_tensor_requests = False

    async def infer(
        self, model: str, tensors: Tensors, *, version: str | None = None, call: Call | None = None
    ) -> Inference:
        """Run `model` on input tensors by name, in stored dtypes and full shapes.

        Raises:
            CallerError: no such model, tensors that do not fit its specs, overloaded, late.
            ContentError: the model failed.
            DeviceError: the box is stopping.
        """
        call = call or Call()
        with self._lease(model, version, call) as served:
            at_once = self.infer_now(served, tensors, call)
            if at_once is not None:
                return at_once
            with self._counted(served, call) as started:
                outputs = await self._run(served, tensors, call)
                return self._inference(served, tensors, outputs, call, started)

    def _lease(self, model: str, version: str | None, call: Call) -> contextlib.AbstractContextManager[ServedVersion]:
        """The version that is asked for; a sequence goes on with the one that it began with."""
        if call.sequence is not None:
            begun = self.sequences.version(model, version, call.sequence)
            if begun is not None:
                return begun.leased()
        return self._registry.lease(model, version)

    def infer_now(self, served: ServedVersion, tensors: Tensors, call: Call) -> Inference | None:
        """What `infer` gives, without waiting; None, and nothing is counted, where `infer` must be awaited."""
        if self._stopping or call.sequence is not None or _is_late(call):
            return None
        started = time.perf_counter()
        try:
            served.admission.check(tensors)
            outputs = served.runner.run_now(tensors)
            if outputs is None:
                return None
            call.engine_seconds = time.perf_counter() - started
            answer = self._inference(served, tensors, outputs, call, started)
        except EdgeError as error:
            self._failed(served, call, time.perf_counter() - started, error)
            raise
        served.last_used = started
        seconds = time.perf_counter() - started
        served.stats.answered_now(seconds)
        if self._told:
            self._answered(served, call, seconds)
        return answer

    def _inference(
        self, served: ServedVersion, tensors: Tensors, outputs: Tensors, call: Call, started: float
    ) -> Inference:
        if self.report_tensor_requests:
            self._tell(served, _read(served, outputs, Question(tensors)), call, started)
        about = served.description
        return Inference(served.name, served.version, outputs, about.outputs, about.labels)

    async def predict(
        self, model: str, sample: Sample, *, version: str | None = None, call: Call | None = None
    ) -> Answer:
        """Pre-process a sample, run the model, read the answer, and tell the bus. Raises as `infer` does."""
        call = call or Call(source="http")
        with self._lease(model, version, call) as served, self._counted(served, call) as started:
            windows = await self._prepare(served, sample)
            call.pre_seconds = time.perf_counter() - started
            outputs = await self._run_windows(served, windows, call)
            view = await self._view(served, sample)
            return await self._answer(served, outputs, windows, view, call, started)

    def close(self) -> None:
        """End sequences and workers."""
        self.sequences.close()
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
    def _counted(self, served: ServedVersion, call: Call) -> Iterator[float]:
        """Count a request from its arrival to its answer or failure; gives the time of its arrival."""
        started = served.last_used = time.perf_counter()
        self.in_flight += 1
        if self._tracer is not None:
            self._tracer.begin(call)
        noted = trace_context.noted(call.traceparent) if call.traceparent else contextlib.nullcontext()
        try:
            if self._stopping:
                raise DeviceError("this box is stopping; ask another one, or try again later", Code.UNAVAILABLE)
            with noted:
                yield started
        except EdgeError as error:
            self._failed(served, call, time.perf_counter() - started, error)
            raise
        else:
            seconds = time.perf_counter() - started
            served.stats.answered(seconds, call)
            if self._told:
                self._answered(served, call, seconds)
        finally:
            self.in_flight -= 1
            self._note_idle()

    def _answered(self, served: ServedVersion, call: Call, seconds: float) -> None:
        if self._tracer is not None:
            self._tracer.end(served.name, served.version, call, seconds)
        if self._request_log.slow_seconds:
            self._request_log.answered(served.name, served.version, call, seconds)

    def _failed(self, served: ServedVersion, call: Call, seconds: float, error: EdgeError) -> None:
        served.stats.failed(error.code)
        if self._tracer is not None:
            self._tracer.end(served.name, served.version, call, seconds, error.code)
        self._request_log.failed(served.name, served.version, call, seconds, error)

    async def _prepare(self, served: ServedVersion, sample: Sample) -> Windows:
        description, config = served.description, self._config
        limits = Limits(
            config.max_picture_pixels,
            config.max_audio_seconds,
            config.max_windows,
            config.max_tensor_bytes,
            served.admission.max_samples,
        )
        size = preprocess.work_bytes(sample.data)
        return await self.workers.run(
            _NEVER_SMALL if size < 0 else size,
            lambda: preprocess.prepare(sample.data, sample.content_type, description.inputs, description.input, limits),
        )

    async def _run_windows(self, served: ServedVersion, windows: Windows, call: Call) -> list[dict[str, NDArray[Any]]]:
        """The outputs for each window in turn; what `call` notes of their time is the sum."""
        outputs, queued, in_engine, whole = [], 0.0, 0.0, call.sequence
        for number, tensors in enumerate(windows.runs):
            call.sequence = windowed.step(whole, number, len(windows.runs))
            outputs.append(await self._run(served, tensors, call))
            queued, in_engine = queued + call.queue_seconds, in_engine + call.engine_seconds
        call.queue_seconds, call.engine_seconds = queued, in_engine
        return outputs

    async def _run(self, served: ServedVersion, tensors: Tensors, call: Call) -> dict[str, NDArray[Any]]:
        served.admission.check(tensors)
        if _is_late(call):
            raise too_late()
        latest = time.monotonic() + self._config.request_timeout_seconds
        call.deadline = latest if call.deadline is None else min(call.deadline, latest)
        if call.sequence is not None and served.description.state != "none":
            return await self.sequences.run(served, tensors, call, call.sequence)
        started = time.perf_counter()
        outputs = served.runner.run_now(tensors)
        if outputs is None:
            call.batch = batches.in_one_run(served.description.inputs, tensors)
            return await served.runner.run(tensors, call)
        call.engine_seconds = time.perf_counter() - started
        return outputs

    async def _view(self, served: ServedVersion, sample: Sample) -> View | None:
        """Which part of a picture the model saw, for the answers that say where something is; None: all of it."""
        about, data = served.description, sample.data
        if about.input is None or preprocess.sees_all(about.input) or about.task not in postprocess.PLACED:
            return None
        if not isinstance(data, bytes) or preprocess.picture_format(data) is None:
            return None
        declaration, frame = about.input, frame_of(about.inputs[0].shape, None)
        return await self.workers.run(ON_LOOP_BYTES + 1, lambda: picture_view(data, frame, declaration))

    async def _answer(
        self,
        served: ServedVersion,
        outputs: Sequence[Tensors],
        windows: Windows,
        view: View | None,
        call: Call,
        started: float,
    ) -> Answer:
        reading = time.perf_counter()
        size = sum(output.nbytes for one in outputs for output in one.values())
        result = await self.workers.run(
            size, lambda: windowed.read(outputs, windows, lambda one, given: _read(served, one, Question(given, view)))
        )
        told = self._tell(served, result, call, started)
        call.post_seconds = time.perf_counter() - reading
        if not call.raw:
            return told
        # The tensors are for who asked; who subscribes to results did not.
        about = served.description
        tensors = await self.workers.run(size, lambda: [postprocess.read_tensors(one, about) for one in outputs])
        return replace(told, result=windowed.with_tensors(told.result, tensors))

    def _tell(self, served: ServedVersion, result: Mapping[str, Any], call: Call, started: float) -> Answer:
        latency_ms = round((time.perf_counter() - started) * 1000, 3)
        if self._tracer is not None:
            self._tracer.begin(call)
        about = (served.name, served.version, time.time(), call.source)
        self._bus.publish(Result(*about, result, latency_ms, call.traceparent))
        return Answer(served.name, served.version, result, latency_ms)


def _is_late(call: Call) -> bool:
    return call.deadline is not None and call.deadline <= time.monotonic()


def _read(served: ServedVersion, outputs: Tensors, question: Question) -> Mapping[str, Any]:
    declared = served.description.output or served.manifest.output
    try:
        return postprocess.read_answer(outputs, served.description, declared, question)
    except (ValueError, TypeError, IndexError) as error:
        task = served.description.task
        raise ContentError(f"the outputs of {served.name!r} cannot be read as {task}: {error}") from error
