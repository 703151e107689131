"""`ModelStreamInfer`: requests and answers of one stream."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from edge_runtime.errors import EdgeError
from edge_runtime.transports.grpc.messages import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from edge_runtime.transports.grpc.rpc import StatusError, status_of
from edge_runtime.transports.grpc.stream_rpc import Messages

# Requests of one stream that are under way or whose answers wait for those before them; the caller is held up beyond.
_MAX_IN_FLIGHT = 16
# A request parameter of Triton's: mark the last answer to a request. Here it is the only one.
_MARK_FINAL = "triton_enable_empty_final_response"
_FINAL = "triton_final_response"

Decode = Callable[[bytes], Awaitable[ModelInferRequest]]
Answer = Callable[[ModelInferRequest, int], ModelInferResponse | Coroutine[Any, Any, ModelInferResponse]]
Response = ModelStreamInferResponse | asyncio.Task[ModelStreamInferResponse]


class InferStream:
    """Answers come in the order of their requests, which run at the same time; those of one sequence one by one.

    What is wrong with a request is told in its place (`error_message`), and the stream goes on.
    """

    def __init__(self, incoming: Messages, decode: Decode, answer: Answer) -> None:
        self._incoming = incoming
        self._decode = decode
        self._answer = answer
        # Each with how many bytes its request holds.
        self._responses: asyncio.Queue[tuple[Response, int] | None] = asyncio.Queue(_MAX_IN_FLIGHT)
        self._sequences: dict[str, asyncio.Task[ModelStreamInferResponse]] = {}

    async def run(self) -> None:
        """Answer until the caller has nothing more to ask."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send())
                async for data in self._incoming:
                    await self._responses.put(await self._admit(data, tasks))
                await self._responses.put(None)
        except ExceptionGroup as group:  # what came is no message: nothing behind it can be read
            raise group.exceptions[0] from None

    async def _admit(self, data: bytes, tasks: asyncio.TaskGroup) -> tuple[Response, int]:
        try:
            await self._incoming.hold(len(data))
        except EdgeError as error:
            return _failure("", error), 0
        return await self._begin(data, tasks), len(data)

    async def _send(self) -> None:
        while (item := await self._responses.get()) is not None:
            response, held = item
            done = await response if isinstance(response, asyncio.Task) else response
            await self._incoming.send(done.SerializeToString())
            self._incoming.let_go(held)

    async def _begin(self, data: bytes, tasks: asyncio.TaskGroup) -> Response:
        try:
            request = await self._decode(data)
        except (EdgeError, StatusError) as error:
            return _failure("", error)
        sequence = _sequence(request)
        before = self._sequences.get(sequence) if sequence else None
        if before is None or before.done():
            try:
                answer = self._answer(request, len(data))
            except Exception as error:  # noqa: BLE001 - told to the caller, and logged where nobody foresaw it
                return _failure(request.id, error)
            if isinstance(answer, ModelInferResponse):
                return _success(request, answer)
            task = tasks.create_task(_finish(request, answer))
        else:
            task = tasks.create_task(self._after(before, request, len(data)))
        if sequence:
            self._sequences[sequence] = task
            task.add_done_callback(lambda done: self._forget(sequence, done))
        return task

    def _forget(self, sequence: str, task: "asyncio.Task[ModelStreamInferResponse]") -> None:
        if self._sequences.get(sequence) is task:
            del self._sequences[sequence]

    async def _after(
        self, before: "asyncio.Task[ModelStreamInferResponse]", request: ModelInferRequest, size: int
    ) -> ModelStreamInferResponse:
        await asyncio.wait([before])
        try:
            answer = self._answer(request, size)
        except Exception as error:  # noqa: BLE001 - told to the caller, and logged where nobody foresaw it
            return _failure(request.id, error)
        return _success(request, answer) if isinstance(answer, ModelInferResponse) else await _finish(request, answer)


def _sequence(request: ModelInferRequest) -> str:
    value = request.parameters["sequence_id"] if "sequence_id" in request.parameters else None  # noqa: SIM401 - no dict
    return str(value.string_param or value.int64_param or value.uint64_param or "") if value is not None else ""


async def _finish(
    request: ModelInferRequest, work: Coroutine[Any, Any, ModelInferResponse]
) -> ModelStreamInferResponse:
    try:
        return _success(request, await work)
    except Exception as error:  # noqa: BLE001 - told to the caller, and logged where nobody foresaw it
        return _failure(request.id, error)


def _success(request: ModelInferRequest, answer: ModelInferResponse) -> ModelStreamInferResponse:
    if _MARK_FINAL in request.parameters and request.parameters[_MARK_FINAL].bool_param:
        answer.parameters[_FINAL].bool_param = True
    return ModelStreamInferResponse(infer_response=answer)


def _failure(identity: str, error: Exception) -> ModelStreamInferResponse:
    _, message = status_of(error)
    return ModelStreamInferResponse(error_message=message, infer_response=ModelInferResponse(id=identity))
