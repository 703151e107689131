"""The calls of `inference.GRPCInferenceService`, and one place where errors become statuses."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from edge_runtime import __version__
from edge_runtime.errors import CallerError, EdgeError
from edge_runtime.inference.call import Call
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.service import InferenceService
from edge_runtime.transports import codec
from edge_runtime.transports.grpc import messages, tensors
from edge_runtime.transports.status import GRPC_STATUS

log = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
# Trailers hold some KiB at most, and every character of a message may take twelve bytes there.
_MAX_MESSAGE_CHARACTERS = 400

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request", bound=Message)


class Calls:
    """Answers the six calls; raises EdgeError, which `handlers` turns into statuses."""

    def __init__(self, service: InferenceService, registry: Registry, ready: Callable[[], bool]) -> None:
        self._service = service
        self._registry = registry
        self._ready = ready

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a server needs to call them."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "ServerLive": self._unary(self._server_live, messages.ServerLiveRequest),
                "ServerReady": self._unary(self._server_ready, messages.ServerReadyRequest),
                "ModelReady": self._unary(self._model_ready, messages.ModelReadyRequest),
                "ServerMetadata": self._unary(self._server_metadata, messages.ServerMetadataRequest),
                "ModelMetadata": self._unary(self._model_metadata, messages.ModelMetadataRequest),
                "ModelInfer": self._unary(self._model_infer, messages.ModelInferRequest),
            },
        )

    def _unary(
        self, call: Callable[[Request, Context], Awaitable[Message]], request: type[Request]
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        async def answer(data: bytes, context: Context) -> bytes:
            try:
                message = await self._service.workers.run(len(data), lambda: decoded(data, request))
                return (await call(message, context)).SerializeToString()
            except EdgeError as error:
                status, text = grpc.StatusCode[GRPC_STATUS[error.code]], str(error)
            except Exception as error:
                log.exception("a request failed unexpectedly")
                status = grpc.StatusCode.INTERNAL
                text = f"internal error ({type(error).__name__}); the box's log has the details"
            await context.abort(status, text[:_MAX_MESSAGE_CHARACTERS])
            raise AssertionError  # abort has raised

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _server_live(self, _: messages.ServerLiveRequest, __: Context) -> messages.ServerLiveResponse:
        return messages.ServerLiveResponse(live=True)

    async def _server_ready(self, _: messages.ServerReadyRequest, __: Context) -> messages.ServerReadyResponse:
        return messages.ServerReadyResponse(ready=self._ready())

    async def _model_ready(self, request: messages.ModelReadyRequest, _: Context) -> messages.ModelReadyResponse:
        try:
            self._registry.find(request.name, request.version or None)
        except CallerError:  # the question has an answer, as in Triton: a model that is not here is not ready
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=self._ready())

    async def _server_metadata(self, _: messages.ServerMetadataRequest, __: Context) -> messages.ServerMetadataResponse:
        return messages.ServerMetadataResponse(name=codec.SERVER_NAME, version=__version__, extensions=codec.EXTENSIONS)

    async def _model_metadata(
        self, request: messages.ModelMetadataRequest, _: Context
    ) -> messages.ModelMetadataResponse:
        found = codec.model_metadata(self._registry, request.name, request.version or None)
        return messages.ModelMetadataResponse(**found)

    async def _model_infer(self, request: messages.ModelInferRequest, context: Context) -> messages.ModelInferResponse:
        version = request.model_version or None
        inputs = self._registry.find(request.model_name, version).description.inputs
        workers = self._service.workers
        parsed = await workers.run(request.ByteSize(), lambda: tensors.parse_infer(request, inputs))
        call = Call(deadline=_deadline(context), id=request.id)
        inference = await self._service.infer(request.model_name, parsed.tensors, version=version, call=call)
        raw = bool(request.raw_input_contents)
        size = sum(output.nbytes for output in inference.outputs.values())
        return await workers.run(size, lambda: tensors.format_infer(inference, parsed, raw=raw))


def _deadline(context: Context) -> float | None:
    """The caller's deadline in time.monotonic() seconds; None where it has none."""
    remaining: float | None = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def decoded(data: bytes, request: type[Request]) -> Request:
    """The message that the bytes are; raises CallerError if they are none."""
    try:
        return request.FromString(data)
    except (DecodeError, ValueError) as error:  # protobuf in pure Python lets a UnicodeDecodeError out
        raise CallerError(f"the request is not a {request.__name__}: {error}") from error
