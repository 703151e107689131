"""The calls of `inference.GRPCInferenceService`: the Open Inference Protocol, and of Triton's extensions what fits."""

import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from edge_runtime import __version__
from edge_runtime.errors import CallerError
from edge_runtime.inference.call import Call
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.service import InferenceService
from edge_runtime.inference.workers import ON_LOOP_BYTES
from edge_runtime.system import trace_context
from edge_runtime.transports import codec, model_views
from edge_runtime.transports.codec import InferRequest
from edge_runtime.transports.grpc import messages, tensors
from edge_runtime.transports.grpc.reception import Methods
from edge_runtime.transports.grpc.repeats import Repeat, Repeats
from edge_runtime.transports.grpc.rpc import Context, StatusError, Unary
from edge_runtime.transports.grpc.stream_rpc import Messages
from edge_runtime.transports.grpc.streams import InferStream
from edge_runtime.transports.parameters import call_of
from edge_runtime.transports.repository import ModelRepository, check_load

SERVICE = "inference.GRPCInferenceService"

Request = TypeVar("Request", bound=Message)
Filled = TypeVar("Filled", bound=Message)
Answer = messages.ModelInferResponse

# Of Triton's service; each with what takes its place here.
_NOT_HERE = {
    "SystemSharedMemoryStatus": "shared memory is not offered: send tensors in the message (raw_input_contents)",
    "SystemSharedMemoryRegister": "shared memory is not offered: send tensors in the message (raw_input_contents)",
    "SystemSharedMemoryUnregister": "shared memory is not offered: send tensors in the message (raw_input_contents)",
    "CudaSharedMemoryStatus": "shared memory is not offered: send tensors in the message (raw_input_contents)",
    "CudaSharedMemoryRegister": "shared memory is not offered: send tensors in the message (raw_input_contents)",
    "CudaSharedMemoryUnregister": "shared memory is not offered: send tensors in the message (raw_input_contents)",
    "TraceSetting": "tracing has no settings of its own: send the header traceparent with a request",
    "LogSettings": "the log is set in the box's configuration: log.level",
}


class Calls:
    """Answers; raises EdgeError, which becomes a status. What can be answered at once is no coroutine."""

    def __init__(
        self, service: InferenceService, registry: Registry, repository: ModelRepository, ready: Callable[[], bool]
    ) -> None:
        self._service = service
        self._registry = registry
        self._repository = repository
        self._ready = ready
        self._repeats = Repeats()

    def methods(self) -> Methods:
        """What a server needs to call them."""
        unary: dict[str, Unary] = {
            "ServerLive": _at_once(messages.ServerLiveRequest, self._server_live),
            "ServerReady": _at_once(messages.ServerReadyRequest, self._server_ready),
            "ModelReady": _at_once(messages.ModelReadyRequest, self._model_ready),
            "ServerMetadata": _at_once(messages.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": _at_once(messages.ModelMetadataRequest, self._model_metadata),
            "ModelConfig": _at_once(messages.ModelConfigRequest, self._model_config),
            "ModelStatistics": _at_once(messages.ModelStatisticsRequest, self._model_statistics),
            "RepositoryIndex": _at_once(messages.RepositoryIndexRequest, self._repository_index),
            "RepositoryModelLoad": self._repository_load,
            "RepositoryModelUnload": self._repository_unload,
            "ModelInfer": self._model_infer,
        }
        unary |= {name: functools.partial(_not_here, why) for name, why in _NOT_HERE.items()}
        return Methods(
            {f"/{SERVICE}/{name}": call for name, call in unary.items()},
            {f"/{SERVICE}/ModelStreamInfer": self._model_stream_infer},
        )

    def _server_live(self, _: messages.ServerLiveRequest) -> messages.ServerLiveResponse:
        return messages.ServerLiveResponse(live=True)

    def _server_ready(self, _: messages.ServerReadyRequest) -> messages.ServerReadyResponse:
        return messages.ServerReadyResponse(ready=self._ready())

    def _model_ready(self, request: messages.ModelReadyRequest) -> messages.ModelReadyResponse:
        try:
            served = self._registry.find(request.name, request.version or None)
        except CallerError:  # the question has an answer, as in Triton: a model that is not here is not ready
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=self._ready() and not served.unavailable)

    def _server_metadata(self, _: messages.ServerMetadataRequest) -> messages.ServerMetadataResponse:
        return messages.ServerMetadataResponse(name=codec.SERVER_NAME, version=__version__, extensions=codec.EXTENSIONS)

    def _model_metadata(self, request: messages.ModelMetadataRequest) -> messages.ModelMetadataResponse:
        found = codec.model_metadata(self._registry, request.name, request.version or None)
        return messages.ModelMetadataResponse(**found)

    def _model_config(self, request: messages.ModelConfigRequest) -> messages.ModelConfigResponse:
        served = self._registry.find(request.name, request.version or None)
        return _from_plain({"config": model_views.config(served)}, messages.ModelConfigResponse())

    def _model_statistics(self, request: messages.ModelStatisticsRequest) -> messages.ModelStatisticsResponse:
        found = model_views.statistics(self._registry, request.name or None, request.version or None)
        return _from_plain(found, messages.ModelStatisticsResponse())

    def _repository_index(self, request: messages.RepositoryIndexRequest) -> messages.RepositoryIndexResponse:
        entries = [
            messages.RepositoryIndexResponse.ModelIndex(
                name=entry.name, version=entry.version, state=entry.state, reason=entry.reason
            )
            for entry in self._repository.index()
            if entry.state == "READY" or not request.ready
        ]
        return messages.RepositoryIndexResponse(models=entries)

    async def _repository_load(self, data: bytes, _: Context) -> bytes:
        request = decoded(data, messages.RepositoryModelLoadRequest)
        model = _repository_model(request)
        check_load(request.parameters)
        await self._repository.load(model)
        return messages.RepositoryModelLoadResponse(model_name=model, isLoaded=True).SerializeToString()

    async def _repository_unload(self, data: bytes, _: Context) -> bytes:
        model = _repository_model(decoded(data, messages.RepositoryModelUnloadRequest))
        await self._repository.unload(model)
        return messages.RepositoryModelUnloadResponse(model_name=model, isUnloaded=True).SerializeToString()

    # Inference

    def _model_infer(self, data: bytes, context: Context) -> bytes | Coroutine[Any, Any, bytes]:
        """A small request for a quick model is answered right here, without a task."""
        if len(data) > ON_LOOP_BYTES:
            return self._infer_large(data, context)
        repeat = self._repeats.find(data)
        if repeat is not None:
            served = self._registry.find(repeat.model, repeat.version)
            if served.description is repeat.about:
                return self._infer_again(repeat, served, data, context)
        request = decoded(data, messages.ModelInferRequest)
        answer = self._answer(request, context)
        if not isinstance(answer, Message):
            return _serialized(answer)
        formatted = answer.SerializeToString()
        about = self._registry.find(request.model_name, request.model_version or None).description
        self._repeats.learn(data, request, about, answer, formatted)
        return formatted

    def _infer_again(
        self, repeat: Repeat, served: ServedVersion, data: bytes, context: Context
    ) -> bytes | Coroutine[Any, Any, bytes]:
        parsed = repeat.read(data)
        call = _call(parsed, context)
        inference = self._service.infer_now(served, parsed.tensors, call)
        if inference is None:
            return _serialized(self._answer_later(repeat.model, repeat.version, parsed, call, raw=True))
        known = repeat.formatted(inference)
        return known or tensors.format_infer(inference, parsed, raw=True).SerializeToString()

    def _answer(self, request: messages.ModelInferRequest, context: Context) -> Answer | Coroutine[Any, Any, Answer]:
        served = self._registry.find(request.model_name, request.model_version or None)
        with served.stats.refusals():
            parsed = tensors.parse_infer(request, served.description.inputs)
            codec.check_outputs(parsed, served.description.outputs)
            call = _call(parsed, context)
        raw = bool(request.raw_input_contents)
        inference = self._service.infer_now(served, parsed.tensors, call)
        if inference is None:
            return self._answer_later(request.model_name, request.model_version or None, parsed, call, raw=raw)
        return tensors.format_infer(inference, parsed, raw=raw)

    async def _infer_large(self, data: bytes, context: Context) -> bytes:
        request = await self._decoded(data)
        return (await self._answer_large(request, len(data), context)).SerializeToString()

    async def _decoded(self, data: bytes) -> messages.ModelInferRequest:
        return await self._service.workers.run(len(data), lambda: decoded(data, messages.ModelInferRequest))

    async def _answer_large(self, request: messages.ModelInferRequest, size: int, context: Context) -> Answer:
        model, version, raw = request.model_name, request.model_version or None, bool(request.raw_input_contents)
        served = self._registry.find(model, version)
        about = served.description
        with served.stats.refusals():
            parsed = await self._service.workers.run(size, lambda: tensors.parse_infer(request, about.inputs))
            codec.check_outputs(parsed, about.outputs)
            call = _call(parsed, context)
        return await self._answer_later(model, version, parsed, call, raw=raw)

    async def _answer_later(
        self, model: str, version: str | None, parsed: InferRequest, call: Call, *, raw: bool
    ) -> Answer:
        inference = await self._service.infer(model, parsed.tensors, version=version, call=call)
        size = sum(output.nbytes for output in inference.outputs.values())
        return await self._service.workers.run(size, lambda: tensors.format_infer(inference, parsed, raw=raw))

    async def _model_stream_infer(self, incoming: Messages, context: Context) -> None:
        async def decode(data: bytes) -> messages.ModelInferRequest:
            return await self._decoded(data)

        def answer(request: messages.ModelInferRequest, size: int) -> Answer | Coroutine[Any, Any, Answer]:
            large = size > ON_LOOP_BYTES
            return self._answer_large(request, size, context) if large else self._answer(request, context)

        await InferStream(incoming, decode, answer).run()


async def _serialized(answer: Coroutine[Any, Any, Answer]) -> bytes:
    return (await answer).SerializeToString()


def _call(parsed: InferRequest, context: Context) -> Call:
    return call_of(
        parsed.parameters,
        deadline=context.deadline,
        identity=parsed.id,
        traceparent=trace_context.checked(context.metadata.get("traceparent", "")),
    )


def _repository_model(request: messages.RepositoryModelLoadRequest | messages.RepositoryModelUnloadRequest) -> str:
    """The model's name, where Triton has it or where KServe has it."""
    name = request.model_name or request.repository_name
    if not name:
        raise CallerError("model_name is empty")
    return name


def _from_plain(values: dict[str, Any], message: Filled) -> Filled:
    """The message with these values of its fields."""
    from google.protobuf import json_format  # noqa: PLC0415 - seldom needed

    json_format.ParseDict(values, message)
    return message


def _not_here(why: str, _: bytes, __: Context) -> bytes:
    raise StatusError("UNIMPLEMENTED", why)


def _at_once(request: type[Request], call: Callable[[Request], Message]) -> Unary:
    def answer(data: bytes, _: Context) -> bytes:
        return call(decoded(data, request)).SerializeToString()

    return answer


def decoded(data: bytes, request: type[Request]) -> Request:
    """The message that the bytes are; raises CallerError if they are none."""
    try:
        return request.FromString(data)
    except (DecodeError, ValueError) as error:  # protobuf in pure Python lets a UnicodeDecodeError out
        raise CallerError(f"the request is not a {request.__name__}: {error}") from error
