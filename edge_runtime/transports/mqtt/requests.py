"""Requests on edge/{device}/infer/{model}: checked in the network thread, answered on the daemon's event loop."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.contract import names
from edge_runtime.contract.errors import ContractError
from edge_runtime.errors import CallerError, Code, EdgeError
from edge_runtime.events import EventBus, Result
from edge_runtime.inference.call import TENSOR_SOURCE, Call
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.service import InferenceService, Sample
from edge_runtime.system import trace_context
from edge_runtime.transports import codec
from edge_runtime.transports.mqtt import messages
from edge_runtime.transports.mqtt.session import Incoming, Outgoing

log = logging.getLogger(__name__)

SOURCE = "mqtt"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is accepted."""

    max_bytes: int
    max_concurrent: int


class Requests:
    """Takes requests until `close`; every one gets an answer, be it an error.

    `answer` publishes a message, `failed` is told of errors that nobody waits for: both from any thread.
    """

    def __init__(
        self,
        service: InferenceService,
        registry: Registry,
        bus: EventBus,
        topics: names.Topics,
        bounds: Bounds,
        *,
        answer: Callable[[Outgoing], None],
        failed: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._service = service
        self._registry = registry
        self._bus = bus
        self._topics = topics
        self._bounds = bounds
        self._answer = answer
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._slots = threading.BoundedSemaphore(bounds.max_concurrent)
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False

    def receive(self, message: Incoming) -> None:
        """Start serving a message, or refuse it at once. Called in the network thread."""
        if message.retain:
            # It would be served again at each reconnect.
            log.warning("ignored a retained request on %s: publish requests without the retain flag", message.topic)
            return
        refusal = self._refusal(message)
        if refusal is None and not self._slots.acquire(blocking=False):
            refusal = CallerError(
                f"overloaded: {self._bounds.max_concurrent} requests over MQTT are being served; try again later",
                Code.OVERLOADED,
            )
        if refusal is not None:
            self._reply(message, error_document(refusal), message.traceparent)
            return
        try:
            self._loop.call_soon_threadsafe(self._start, message)
        except RuntimeError:  # the loop is closed: the daemon is going
            self._slots.release()

    def refuse(self) -> None:
        """From now on every request is told that the box is stopping."""
        self._refusing = True

    async def close(self, seconds: float) -> None:
        """Refuse new requests, wait so long for those being served, then cancel them."""
        self.refuse()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _refusal(self, message: Incoming) -> EdgeError | None:
        if self._refusing:
            return EdgeError("this box is stopping; try again later", Code.UNAVAILABLE)
        if len(message.payload) > self._bounds.max_bytes:
            return CallerError(
                f"the request has {len(message.payload)} bytes, more than {self._bounds.max_bytes} "
                "(mqtt.request_max_bytes)",
                Code.TOO_LARGE,
            )
        try:
            names.check_model_name(_model(message))
        except ContractError as error:
            return CallerError(str(error), Code.NOT_FOUND)
        return None

    def _start(self, message: Incoming) -> None:
        task = self._loop.create_task(self._serve(message), name=f"mqtt-request-{_model(message)}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, message: Incoming) -> None:
        trace_context.note(message.traceparent)
        call = Call(source=SOURCE, deadline=_deadline(message), traceparent=message.traceparent)
        try:
            document = await _document(self._answer_to(message, call))
        finally:
            self._slots.release()
        self._reply(message, document, call.traceparent)

    async def _answer_to(self, message: Incoming, call: Call) -> Mapping[str, Any]:
        # A picture can hold these bytes by chance, but does not begin like a JSON object.
        if message.payload.lstrip()[:1] == b"{" and b'"inputs"' in message.payload:
            document = await self._off_loop(message, lambda: codec.decode_json(message.payload))
            if "inputs" in document:
                return await self._infer(message, document, call)
        return await self._predict(message, call)

    async def _infer(self, message: Incoming, document: Any, call: Call) -> Mapping[str, Any]:
        started = time.perf_counter()
        served = self._registry.find(_model(message))
        with served.stats.refusals():
            inputs = served.description.inputs
            request = await self._off_loop(message, lambda: codec.parse_document(document, inputs))
        call.source = TENSOR_SOURCE
        inference = await self._service.infer(_model(message), request.tensors, call=call)
        answer = codec.format_document(inference, request)
        if not message.response_topic and not self._service.report_tensor_requests:
            latency_ms = (time.perf_counter() - started) * 1000
            about = (inference.model, inference.version, time.time(), SOURCE)
            self._bus.publish(Result(*about, answer, latency_ms, call.traceparent))
        return answer

    async def _off_loop(self, message: Incoming, function: Callable[[], Any]) -> Any:
        return await self._service.workers.run(len(message.payload), function)

    async def _predict(self, message: Incoming, call: Call) -> Mapping[str, Any]:
        sample = Sample(message.payload, message.content_type)
        answer = await self._service.predict(_model(message), sample, call=call)
        return {
            "model": answer.model,
            "version": answer.version,
            "result": answer.result,
            "latency_ms": answer.latency_ms,
        }

    def _reply(self, message: Incoming, document: Mapping[str, Any], traceparent: str) -> None:
        if message.response_topic and self._may_answer_on(message.response_topic):
            payload, qos = messages.encode(document), min(message.qos, 1)
            correlation = message.correlation
            self._answer(
                Outgoing(message.response_topic, payload, qos, correlation=correlation, traceparent=traceparent)
            )
        elif "error" in document:
            self._failed(_model(message), document)

    def _may_answer_on(self, topic: str) -> bool:
        """Callers choose the response topic: it must not make the box forge its own reports, or ask itself."""
        own = (self._topics.status, self._topics.info, self._topics.models, self._topics.events)
        allowed = (
            not set(topic) & set("+#\x00")
            and not topic.startswith(("$", self._topics.results("")))
            and topic not in own
            and not (topic.startswith(self._topics.infer("")) and topic.count("/") == self._topics.infer("").count("/"))
        )
        if not allowed:
            log.warning("no answer was sent to the response topic %r: it is not a caller's own topic", topic)
        return allowed


def _deadline(message: Incoming) -> float | None:
    """When the caller no longer waits, in time.monotonic() seconds (MQTT 5, section 3.3.2.3.3)."""
    return None if message.expiry_seconds is None else time.monotonic() + message.expiry_seconds


def _model(message: Incoming) -> str:
    return message.topic.rpartition("/")[2]


async def _document(prediction: Awaitable[Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        return await prediction
    except EdgeError as error:
        return error_document(error)
    except Exception:
        log.exception("a request over MQTT failed")
        return error_document(EdgeError("internal error; the box's log has the details"))


def error_document(error: EdgeError) -> dict[str, Any]:
    """What is answered in place of a result."""
    return {"error": str(error), "code": error.code.value}
