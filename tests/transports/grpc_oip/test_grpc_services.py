"""What tritonclient, grpcio's own packages and bare clients ask beside a plain inference."""

import asyncio
import queue
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from peers import require_library

require_library("grpc.aio", "edge-runtime[dev]")
require_library("hpack", "edge-runtime[grpc]")
require_library("tritonclient.grpc", "tritonclient[grpc]")

import tritonclient.grpc as triton  # noqa: E402 - needs the extra, as all below
import tritonclient.grpc.aio as triton_aio  # noqa: E402
from echo_server import eventually, serving  # noqa: E402
from http2_client import Client  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

from edge_runtime.contract.tensors import TensorSpec  # noqa: E402
from edge_runtime.errors import CallerError  # noqa: E402
from edge_runtime.inference.call import Call  # noqa: E402
from edge_runtime.transports.grpc import frames, messages, streams  # noqa: E402
from edge_runtime.transports.grpc.calls import SERVICE  # noqa: E402
from edge_runtime.transports.grpc.rpc import framed  # noqa: E402

X = TensorSpec("x", "FP32", (2,))
SCORES = TensorSpec("scores", "FP32", (-1, 3))


def tensor(*values: float, spec: TensorSpec = X) -> Any:
    """An input as tritonclient sends it."""
    array = np.float32(values).reshape([abs(n) for n in spec.shape])
    entry = triton.InferInput(spec.name, list(array.shape), spec.datatype)
    entry.set_data_from_numpy(array)
    return entry


def asked(question: Callable[[Any], Any], *specs: TensorSpec, **bench: Any) -> Any:
    """What `question` answers in a thread of its own, with tritonclient talking to a server of ours."""

    def ask(port: int) -> Any:
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            return question(client)

    async def go() -> Any:
        async with serving(*specs, **bench) as served:
            return await asyncio.to_thread(ask, served.server.port)

    return asyncio.run(go())


def failure(question: Callable[[], Any]) -> str:
    """Status and message of a call that must fail."""
    with pytest.raises(InferenceServerException) as caught:
        question()
    return f"{caught.value.status()}: {caught.value.message()}"


def test_tritonclient_reads_configuration_and_statistics() -> None:
    """As messages and as JSON; the requests that were made are counted."""

    def ask(client: Any) -> None:
        config = client.get_model_config("echo").config
        assert (config.name, config.max_batch_size, list(config.input[0].dims)) == ("echo", 0, [2])
        assert client.get_model_config("echo", as_json=True)["config"]["input"][0]["data_type"] == "TYPE_FP32"
        for _ in range(3):
            client.infer("echo", [tensor(1, 2)])
        assert "INVALID_ARGUMENT" in failure(lambda: client.infer("echo", [tensor(1, 2, 3, spec=_of(3))]))
        (stats,) = client.get_inference_statistics("echo").model_stats
        assert (stats.name, stats.version, stats.inference_count) == ("echo", "1.0.0", 3)
        assert stats.inference_stats.success.ns > 0
        assert abs(stats.last_inference / 1000 - time.time()) < 60
        everything = client.get_inference_statistics(as_json=True)
        assert everything["model_stats"][0]["inference_stats"]["success"]["count"] == "3"
        assert "NOT_FOUND" in failure(lambda: client.get_inference_statistics("nope"))
        assert "NOT_FOUND" in failure(lambda: client.get_model_config("echo", "9"))

    asked(ask)


def _of(size: int) -> TensorSpec:
    return TensorSpec("x", "FP32", (size,))


def test_a_batch_is_left_out_of_the_configured_shapes() -> None:
    """As in Triton where the first dimension is open."""
    config = asked(lambda client: client.get_model_config("echo").config, SCORES)
    assert config.max_batch_size > 0
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([3], [3])


def test_tritonclient_looks_into_the_repository() -> None:
    """Index, load, unload; in the words of both protocols."""

    def ask(client: Any) -> None:
        (entry,) = client.get_model_repository_index().models
        assert (entry.name, entry.version, entry.state) == ("echo", "1.0.0", "READY")
        assert client.get_model_repository_index(as_json=True)["models"][0]["name"] == "echo"
        client.load_model("echo")
        assert "NOT_FOUND" in failure(lambda: client.load_model("nope"))
        assert "INVALID_ARGUMENT: 'config' is not taken" in failure(lambda: client.load_model("echo", config="{}"))
        assert "NOT_FOUND" in failure(lambda: client.unload_model("nope"))

    asked(ask)


def test_kserves_words_for_loading_are_understood() -> None:
    """It has the model's name where Triton has the repository's."""

    async def go() -> None:
        async with serving() as bench:
            request = messages.RepositoryModelLoadRequest(repository_name="echo")
            answer = await bench.call("RepositoryModelLoad", request)
            assert (answer.model_name, answer.isLoaded) == ("echo", True)
            empty = await bench.status_of("RepositoryModelLoad", messages.RepositoryModelLoadRequest())
            assert empty == "INVALID_ARGUMENT: model_name is empty"

    asyncio.run(go())


def test_what_is_not_offered_says_what_is() -> None:
    """Shared memory, traces, log settings."""

    def ask(client: Any) -> None:
        assert "UNIMPLEMENTED: shared memory" in failure(client.get_system_shared_memory_status)
        assert "UNIMPLEMENTED: shared memory" in failure(
            lambda: client.register_system_shared_memory("region", "/region", 10)
        )
        assert "UNIMPLEMENTED" in failure(client.get_trace_settings)
        assert "log.level" in failure(lambda: client.update_log_settings({}))
        shared = triton.InferInput("x", [2], "FP32")
        shared.set_shared_memory("region", 8)
        assert "INVALID_ARGUMENT: 'x' is in shared memory" in failure(lambda: client.infer("echo", [shared]))
        wanted = triton.InferRequestedOutput("x")
        wanted.set_shared_memory("region", 8)
        assert "in shared memory" in failure(lambda: client.infer("echo", [tensor(1, 2)], outputs=[wanted]))

    asked(ask)


def test_classes_instead_of_scores() -> None:
    """Triton's classification, for each sample of a batch."""

    def ask(client: Any) -> Any:
        entry = triton.InferInput("scores", [2, 3], "FP32")
        entry.set_data_from_numpy(np.float32([[0.1, 0.7, 0.2], [3, 2, 1]]))
        wanted = triton.InferRequestedOutput("scores", class_count=2)
        return client.infer("echo", [entry], outputs=[wanted]).as_numpy("scores")

    classes = asked(ask, SCORES)
    assert classes.tolist() == [[b"0.700000:1", b"0.200000:2"], [b"3.000000:0", b"2.000000:1"]]


@pytest.mark.parametrize(
    ("spec", "array"),
    [
        (TensorSpec("x", "FP16", (-1,)), np.float16([1.5, -0.25, np.inf])),
        (TensorSpec("x", "BYTES", (-1,)), np.array([b"\x00\xff", b"", "d\u00e9j\u00e0".encode()], object)),
        (TensorSpec("x", "BOOL", (-1,)), np.array([True, False])),
        (TensorSpec("x", "UINT64", (-1,)), np.uint64([2**63, 1])),
    ],
)
def test_every_kind_of_tensor_comes_back(spec: TensorSpec, array: np.ndarray[Any, Any]) -> None:
    """As tritonclient sends and reads it."""

    def ask(client: Any) -> Any:
        entry = triton.InferInput("x", list(array.shape), spec.datatype)
        entry.set_data_from_numpy(array)
        return client.infer("echo", [entry]).as_numpy("x")

    np.testing.assert_array_equal(asked(ask, spec), array)


def test_what_tflite_does_not_have_is_refused_by_its_name() -> None:
    """BF16, of a client that knows it."""

    async def go() -> None:
        async with serving() as bench:
            request = messages.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(4)])
            request.inputs.add(name="x", datatype="BF16", shape=[2])
            assert await bench.status_of("ModelInfer", request) == (
                "INVALID_ARGUMENT: input 'x' must have the datatype FP32, but is 'BF16'"
            )

    asyncio.run(go())


# Streams


def test_a_stream_answers_in_order_and_goes_on_after_an_error() -> None:
    """As tritonclient's callback sees it; the id says whose answer it is."""

    def ask(client: Any) -> list[Any]:
        came: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: came.put((result, error)))
        for number in range(20):
            values = (number, 0, 1) if number == 7 else (number, 0)
            spec = _of(len(values))
            client.async_stream_infer("echo", [tensor(*values, spec=spec)], request_id=str(number))
        answers = [came.get(timeout=10) for _ in range(20)]
        client.stop_stream()
        return answers

    answers = asked(ask, queue=20)
    assert [error is None for _, error in answers] == [number != 7 for number in range(20)]
    assert "must have the shape [2]" in str(answers[7][1])
    values = [result.as_numpy("x")[0] for result, error in answers if error is None]
    assert values == [number for number in range(20) if number != 7]


def test_the_last_answer_is_marked_for_who_asks() -> None:
    """Triton's empty final response: there is one answer, so it is the last."""

    def ask(client: Any) -> Any:
        came: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: came.put(error or result))
        client.async_stream_infer("echo", [tensor(1, 2)], enable_empty_final_response=True)
        answer = came.get(timeout=10).get_response()
        client.stop_stream()
        return answer

    assert asked(ask).parameters["triton_final_response"].bool_param


def test_a_stream_over_asyncio() -> None:
    """Tritonclient's other client, with a model that takes its time."""

    async def go() -> None:
        async with serving() as bench:

            async def requests() -> AsyncIterator[dict[str, Any]]:
                for number in range(5):
                    yield {"model_name": "echo", "inputs": [tensor(number, 0)], "request_id": str(number)}

            async with triton_aio.InferenceServerClient(f"127.0.0.1:{bench.server.port}") as client:
                seen = []
                async for result, error in client.stream_infer(requests()):
                    assert error is None
                    seen.append(result.get_response().id)
                assert seen == ["0", "1", "2", "3", "4"]
                assert await client.is_model_ready("echo")
                one = await client.infer("echo", [tensor(3, 4)])
                assert one.as_numpy("x").tolist() == [3, 4]

    asyncio.run(go())


class FakeIncoming:
    """A caller's stream."""

    def __init__(self, requests: list[messages.ModelInferRequest]) -> None:
        self.requests = requests
        self.answers: list[messages.ModelStreamInferResponse] = []

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Everything at once."""
        for request in self.requests:
            yield request.SerializeToString()

    async def send(self, message: bytes) -> None:
        """Keep it."""
        self.answers.append(messages.ModelStreamInferResponse.FromString(message))

    async def hold(self, _: int) -> None:
        """There is room for everything."""

    def let_go(self, _: int) -> None:
        """See `hold`."""


def test_steps_of_one_sequence_run_one_by_one_and_others_beside_them() -> None:
    """And every answer comes in the place of its request."""
    running: list[str] = []
    together: list[set[str]] = []

    def request(number: int, sequence: int) -> messages.ModelInferRequest:
        made = messages.ModelInferRequest(model_name="m", id=f"{sequence}:{number}")
        if sequence:
            made.parameters["sequence_id"].int64_param = sequence
        return made

    async def work(asked: messages.ModelInferRequest) -> messages.ModelInferResponse:
        running.append(asked.id)
        together.append(set(running))
        for _ in range(3):
            await asyncio.sleep(0)
        running.remove(asked.id)
        if asked.id == "1:2":
            raise CallerError("one step is wrong")
        return messages.ModelInferResponse(id=asked.id)

    async def decode(data: bytes) -> messages.ModelInferRequest:
        return messages.ModelInferRequest.FromString(data)

    incoming = FakeIncoming([request(n, sequence) for n in range(4) for sequence in (1, 2, 0, 0)])
    stream = streams.InferStream(incoming, decode, lambda asked, _: work(asked))  # type: ignore[arg-type]
    asyncio.run(stream.run())
    assert [answer.infer_response.id for answer in incoming.answers] == [asked.id for asked in incoming.requests]
    wrong = [answer.error_message for answer in incoming.answers if answer.error_message]
    assert wrong == ["one step is wrong"]
    assert max(len(group) for group in together) > 2
    for group in together:
        assert all(sum(name.startswith(f"{sequence}:") for name in group) <= 1 for sequence in (1, 2))
    assert not stream._sequences


def test_a_stream_is_held_up_by_its_own_requests_only() -> None:
    """A bounded number is under way, whatever the caller sends ahead."""

    async def go() -> None:
        async with serving(queue=100) as bench:
            bench.echo.gate.clear()
            call = bench.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")()
            data = messages.ModelInferRequest(model_name="echo", raw_input_contents=[np.float32([1, 2]).tobytes()])
            data.inputs.add(name="x", datatype="FP32", shape=[2])
            for _ in range(60):
                await call.write(data.SerializeToString())
            await eventually(lambda: bench.service.in_flight >= streams._MAX_IN_FLIGHT)
            await asyncio.sleep(0.1)
            assert bench.service.in_flight <= streams._MAX_IN_FLIGHT + 2
            assert await bench.call("ServerLive", messages.ServerLiveRequest())
            bench.echo.gate.set()
            await call.done_writing()
            assert len([answer async for answer in call]) == 60

    asyncio.run(go())


def test_a_stream_that_is_cancelled_leaves_nothing() -> None:
    """Neither in the queue nor among the calls."""

    async def go() -> None:
        async with serving(queue=100) as bench:
            bench.echo.gate.clear()
            call = bench.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")()
            data = messages.ModelInferRequest(model_name="echo", raw_input_contents=[np.float32([1, 2]).tobytes()])
            data.inputs.add(name="x", datatype="FP32", shape=[2])
            for _ in range(5):
                await call.write(data.SerializeToString())
            await eventually(lambda: bench.service.in_flight == 5)
            call.cancel()
            await eventually(lambda: not bench.service.in_flight)
            assert not bench.registry.find("echo").runner.waiting
            assert not bench.server._bounds.calls

    asyncio.run(go())


# Deadlines, cancelling, overload


def test_a_cancelled_call_leaves_the_queue() -> None:
    """Work that nobody waits for is not begun."""

    async def go() -> None:
        async with serving() as bench:
            bench.echo.gate.clear()
            running = asyncio.create_task(bench.call("ModelInfer", _request()))
            await eventually(lambda: bench.service.in_flight == 1)
            waiting = bench.channel.unary_unary(f"/{SERVICE}/ModelInfer")(_request().SerializeToString())
            await eventually(lambda: bench.registry.find("echo").runner.waiting == 1)
            waiting.cancel()
            await eventually(lambda: not bench.registry.find("echo").runner.waiting)
            assert bench.service.in_flight == 1
            bench.echo.gate.set()
            await running

    asyncio.run(go())


def _request(**parameters: int) -> messages.ModelInferRequest:
    request = messages.ModelInferRequest(model_name="echo", raw_input_contents=[np.float32([1, 2]).tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[2])
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    return request


def test_the_timeout_parameter_is_a_deadline() -> None:
    """In microseconds; the earlier of it and gRPC's counts."""

    async def go() -> None:
        async with serving() as bench:
            bench.echo.gate.clear()
            running = asyncio.create_task(bench.call("ModelInfer", _request()))
            await eventually(lambda: bench.service.in_flight == 1)
            late = await bench.status_of("ModelInfer", _request(timeout=100_000), seconds=9)
            assert late.startswith("DEADLINE_EXCEEDED: no answer within the deadline")
            wrong = await bench.status_of("ModelInfer", _request(timeout=-1))
            assert wrong.startswith("INVALID_ARGUMENT: the parameter timeout")
            bench.echo.gate.set()
            await running

    asyncio.run(go())


def test_overload_says_when_to_come_again() -> None:
    """`grpc-retry-pushback-ms`, which gRPC's own clients obey."""

    async def go() -> None:
        async with serving(queue=0) as bench:
            bench.echo.gate.clear()
            running = asyncio.create_task(bench.call("ModelInfer", _request()))
            await eventually(lambda: bench.service.in_flight == 1)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await bench.call("ModelInfer", _request())
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
            bench.echo.gate.set()
            await running

    asyncio.run(go())


def test_the_trace_and_the_id_go_with_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """As W3C Trace Context has it."""

    async def go() -> None:
        async with serving() as bench:
            seen: list[Call] = []
            infer = bench.service.infer

            async def spy(*arguments: Any, call: Call, **more: Any) -> Any:
                seen.append(call)
                return await infer(*arguments, call=call, **more)

            monkeypatch.setattr(bench.service, "infer", spy)
            request = _request(sequence_id=3)
            request.id = "mine"
            trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            call = bench.channel.unary_unary(f"/{SERVICE}/ModelInfer")
            await asyncio.gather(
                call(request.SerializeToString(), metadata=(("traceparent", trace),)), return_exceptions=True
            )
            assert (seen[0].id, seen[0].traceparent) == ("mine", trace)
            assert seen[0].sequence is not None
            assert seen[0].sequence.id == "3"

    asyncio.run(go())


# Compression


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate, grpc.Compression.NoCompression])
@pytest.mark.parametrize("size", [2, 100_000])
def test_messages_may_be_compressed(algorithm: grpc.Compression, size: int) -> None:
    """Small ones and large ones; a stream, too."""

    async def go() -> None:
        async with serving(TensorSpec("x", "FP32", (-1,))) as bench:
            request = messages.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(4 * size)])
            request.inputs.add(name="x", datatype="FP32", shape=[size])
            data = request.SerializeToString()
            answer = await bench.channel.unary_unary(f"/{SERVICE}/ModelInfer")(data, compression=algorithm)
            assert messages.ModelInferResponse.FromString(answer).raw_output_contents[0] == bytes(4 * size)
            call = bench.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(compression=algorithm)
            await call.write(data)
            await call.done_writing()
            (streamed,) = [messages.ModelStreamInferResponse.FromString(each) async for each in call]
            assert streamed.infer_response.raw_output_contents[0] == bytes(4 * size)

    asyncio.run(go())


def test_an_answer_to_a_gzip_request_is_gzip() -> None:
    """Where its sender reads that, and it is worth it."""
    import gzip  # noqa: PLC0415 - only here

    async def go() -> None:
        client = Client().greet()
        message = b"again and again " * 1000
        packed = gzip.compress(message)
        body = b"\x01" + len(packed).to_bytes(4, "big") + packed
        head = client.head(1, grpc_encoding="gzip", grpc_accept_encoding="identity,gzip")
        client.connection.receive(head + frames.frame(frames.DATA, frames.END_STREAM, 1, body))
        answer, trailers = client.answers()[1]
        assert trailers["grpc-status"] == "0"
        assert answer[:1] == b"\x01"
        assert gzip.decompress(answer[5:]) == message
        assert len(answer) < len(message) / 10

    asyncio.run(go())


def test_what_is_no_gzip_is_refused() -> None:
    """Broken, cut off, or too large when it is unpacked."""
    import gzip  # noqa: PLC0415 - only here

    async def go() -> None:
        client = Client(max_message_bytes=10_000).greet()
        whole = gzip.compress(b"hello")
        for number, packed in enumerate((b"nonsense", whole[:-9], gzip.compress(bytes(20_000)))):
            stream = 2 * number + 1
            body = b"\x01" + len(packed).to_bytes(4, "big") + packed
            client.connection.receive(
                client.head(stream, grpc_encoding="gzip") + frames.frame(frames.DATA, frames.END_STREAM, stream, body)
            )
        answers = client.answers()
        assert [answers[stream][1]["grpc-status"] for stream in (1, 3, 5)] == ["3", "3", "8"]
        assert "when it is unpacked" in answers[5][1]["grpc-message"]

    asyncio.run(go())


# Health and reflection


def test_grpcs_own_health_client() -> None:
    """The box, the service, a model; and what is not here."""
    require_library("grpc_health", "grpcio-health-checking")
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415 - see above

    def ask(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", SERVICE, "echo"):
                answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as caught:
                stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=5)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    async def go() -> None:
        async with serving() as bench:
            await asyncio.to_thread(ask, bench.server.port)

    asyncio.run(go())


def test_a_watch_tells_every_change_and_ends_with_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that comes, and a stop that waits for no watcher."""
    from edge_runtime.transports.grpc import health  # noqa: PLC0415 - needs the extra
    from edge_runtime.transports.grpc.health_messages import (  # noqa: PLC0415 - likewise
        HealthCheckRequest,
        HealthCheckResponse,
    )

    monkeypatch.setattr(health, "_LOOK_SECONDS", 0.01)

    async def go() -> None:
        async with serving() as bench:
            call = bench.channel.unary_stream(f"/{health.SERVICE}/Watch")(
                HealthCheckRequest(service="other").SerializeToString()
            )
            assert HealthCheckResponse.FromString(await call.read()).status == 3
            served = bench.registry.find("echo")
            bench.registry._slots["other"] = bench.registry._slots["echo"]
            assert HealthCheckResponse.FromString(await call.read()).status == 1
            del bench.registry._slots["other"]
            assert HealthCheckResponse.FromString(await call.read()).status == 3
            assert served is bench.registry.find("echo")
            await asyncio.wait_for(bench.server.stop(5), 2)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(go())


def test_reflection_describes_every_service() -> None:
    """What grpcio-reflection's client finds is what the messages here are."""
    require_library("grpc_reflection", "grpcio-reflection")
    from google.protobuf.descriptor_pool import DescriptorPool  # noqa: PLC0415 - see above
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # noqa: PLC0415 - likewise
        ProtoReflectionDescriptorDatabase,
    )

    def ask(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            services = database.get_services()
            assert set(services) == {
                SERVICE,
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            }
            pool = DescriptorPool(database)
            for name in services:
                service = pool.FindServiceByName(name)
                assert service.methods
                assert all(method.input_type.fields is not None for method in service.methods)
            found = pool.FindMessageTypeByName("inference.ModelInferRequest.InferInputTensor")
            assert found.fields_by_name["contents"].number == 5
            with pytest.raises(KeyError):
                pool.FindMessageTypeByName("inference.Nothing")

    async def go() -> None:
        async with serving() as bench:
            await asyncio.to_thread(ask, bench.server.port)

    asyncio.run(go())


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_answers_both_versions(version: str) -> None:
    """A file by its name, a method by its own, and what there is none of."""
    from edge_runtime.transports.grpc import reflection_messages as wire  # noqa: PLC0415 - needs the extra

    async def go() -> None:
        async with serving() as bench:
            path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            call = bench.channel.stream_stream(path)()

            async def ask(**question: Any) -> Any:
                await call.write(wire.ServerReflectionRequest(**question).SerializeToString())
                return wire.ServerReflectionResponse.FromString(await call.read())

            assert (await ask(file_by_filename="open_inference.proto")).file_descriptor_response.file_descriptor_proto
            assert (await ask(file_containing_symbol=f"{SERVICE}.ModelInfer")).HasField("file_descriptor_response")
            assert (await ask(file_containing_symbol="no.such")).error_response.error_code == 5
            assert (await ask(all_extension_numbers_of_type="no.such")).error_response.error_code == 5
            extension = wire.ExtensionRequest(containing_type="x", extension_number=1)
            assert (await ask(file_containing_extension=extension)).error_response.error_code == 5

    asyncio.run(go())


# Connections


async def _opened(port: int, first: bytes = frames.PREFACE + frames.settings({})) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)
    await writer.drain()
    return reader, writer


async def _ended(reader: asyncio.StreamReader) -> bytes:
    """What comes until the box closes the connection."""
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionResetError:
        return b""


def test_a_new_connection_takes_the_place_of_an_idle_one() -> None:
    """The bound is on all of them; one with a call under way stays."""

    async def go() -> None:
        async with serving(max_connections=3) as bench:
            bench.echo.gate.clear()
            running = asyncio.create_task(bench.call("ModelInfer", _request()))
            await eventually(lambda: bench.service.in_flight == 1)
            opened = [await _opened(bench.server.port) for _ in range(6)]
            await eventually(lambda: len(bench.server._house.peers) <= 3)
            gone = [await _ended(reader) for reader, _ in opened[:3]]
            assert len(gone) == 3
            bench.echo.gate.set()
            assert (await running).model_name == "echo"
            for _, writer in opened:
                writer.close()

    asyncio.run(go())


@pytest.mark.parametrize("first", [b"", frames.PREFACE[:10], b"GET / HTTP/1.1\r\n\r\n"])
def test_who_says_nothing_that_can_be_understood_is_cut_off(first: bytes) -> None:
    """At once, or after stall_timeout_seconds."""

    async def go() -> None:
        async with serving(stall_timeout_seconds=0.2) as bench:
            reader, writer = await _opened(bench.server.port, first)
            said = await _ended(reader)
            assert first[:3] != b"GET" or b"this port speaks gRPC" in said
            writer.close()
            await eventually(lambda: len(bench.server._house.peers) <= 1)

    asyncio.run(go())


def test_a_body_that_does_not_go_on_loses_its_call() -> None:
    """The connection stays, and another call is answered."""

    async def go() -> None:
        async with serving(stall_timeout_seconds=0.2) as bench:
            client = Client()
            path = f"/{SERVICE}/ServerLive"
            reader, writer = await _opened(bench.server.port)
            writer.write(client.head(1, path=path) + frames.frame(frames.DATA, 0, 1, b"\x00\x00\x00"))
            await eventually(lambda: bench.server._bounds.calls == 1)
            await eventually(lambda: bench.server._bounds.calls == 0)
            writer.write(client.head(3, path=path) + frames.frame(frames.DATA, frames.END_STREAM, 3, framed(b"")))
            came = b""
            while b"grpc-status" not in came:
                came += await asyncio.wait_for(reader.read(1000), 5)
            writer.close()

    asyncio.run(go())


def test_a_peer_that_does_not_read_gets_its_answer_when_it_does() -> None:
    """Megabytes wait for it, and nothing else does."""

    async def go() -> None:
        size = 2_000_000
        async with serving(TensorSpec("x", "FP32", (-1,)), stall_timeout_seconds=20) as bench:
            client = Client()
            request = messages.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(4 * size)])
            request.inputs.add(name="x", datatype="FP32", shape=[size])
            body = framed(request.SerializeToString())
            large = frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 2**30}) + frames.window_update(0, 2**30)
            reader, writer = await _opened(bench.server.port, frames.PREFACE + large)
            writer.transport.pause_reading()
            writer.write(client.head(1, path=f"/{SERVICE}/ModelInfer"))
            # Ahead of the window's refills, which are not read: so in pieces that the first window takes.
            sent = 0
            writer.transport.resume_reading()
            while sent < len(body):
                piece = body[sent : sent + 60_000]
                sent += len(piece)
                writer.write(frames.frame(frames.DATA, frames.END_STREAM if sent == len(body) else 0, 1, piece))
                await writer.drain()
                if sent < len(body):
                    await reader.readexactly(0)
            writer.transport.pause_reading()
            (peer,) = [each for each in bench.server._house.peers if each.connection.streams]
            await eventually(lambda: peer.connection.paused)
            assert await bench.call("ServerLive", messages.ServerLiveRequest())
            writer.transport.resume_reading()
            came = 0
            while came < 4 * size:
                came += len(await asyncio.wait_for(reader.read(1_000_000), 10))
            await eventually(lambda: not peer.connection.streams)
            writer.close()

    asyncio.run(go())


@pytest.mark.skipif(sys.platform != "linux", reason="uvloop")
def test_it_runs_on_the_daemons_event_loop() -> None:
    """Uvloop's transports are not asyncio's."""
    uvloop = pytest.importorskip("uvloop", reason="uvloop has no wheel here")

    async def go() -> None:
        async with serving() as bench:
            answer = await bench.call("ModelInfer", _request())
            assert list(answer.outputs[0].shape) == [2]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(go())
