"""The server on its own: what it answers, what it refuses, its bounds, and how it starts and stops."""

import asyncio
import logging
import sys
import time
from typing import Any

import grpc
import numpy as np
import pytest
from peers import free_port, require_library

require_library("grpc.aio", "edge-runtime[grpc]")

from echo_server import Bench, eventually, serving  # noqa: E402 - needs the extra, as all below

from edge_runtime.config import EngineConfig, GrpcConfig  # noqa: E402
from edge_runtime.contract.tensors import TensorSpec  # noqa: E402
from edge_runtime.errors import DeviceError  # noqa: E402
from edge_runtime.events import EventBus  # noqa: E402
from edge_runtime.inference.call import Call  # noqa: E402
from edge_runtime.inference.registry import Registry  # noqa: E402
from edge_runtime.inference.service import InferenceService  # noqa: E402
from edge_runtime.transports.grpc import extra, messages, tensors  # noqa: E402
from edge_runtime.transports.grpc.calls import SERVICE  # noqa: E402
from edge_runtime.transports.grpc.server import GrpcServer  # noqa: E402
from edge_runtime.transports.raw import to_raw  # noqa: E402


def request(values: tuple[float, ...] = (1, 2), *, model: str = "echo", raw: bool = True) -> messages.ModelInferRequest:
    """Floats for the input `x`."""
    array = np.float32(values)
    message = messages.ModelInferRequest(model_name=model)
    entry = message.inputs.add(name="x", datatype="FP32", shape=array.shape)
    if raw:
        message.raw_input_contents.append(array.tobytes())
    else:
        entry.contents.fp32_contents.extend(values)
    return message


def open_server(config: GrpcConfig) -> GrpcServer | None:
    """What the daemon would open, with nothing behind it."""
    registry = Registry()
    service = InferenceService(registry, EventBus(), EngineConfig())
    return extra.open_server(config, "127.0.0.1", service, registry, lambda: True)


async def entered(bench: Bench, calls: int) -> None:
    """Return when that many calls are in the data plane."""
    await eventually(lambda: bench.service.in_flight >= calls)


def test_live_ready_and_metadata() -> None:
    """What a client asks before it sends tensors."""

    async def go() -> None:
        async with serving() as bench:
            assert (await bench.call("ServerLive", messages.ServerLiveRequest())).live
            assert (await bench.call("ServerReady", messages.ServerReadyRequest())).ready
            assert (await bench.call("ModelReady", messages.ModelReadyRequest(name="echo"))).ready
            assert (await bench.call("ModelReady", messages.ModelReadyRequest(name="echo", version="1.0.0"))).ready
            assert not (await bench.call("ModelReady", messages.ModelReadyRequest(name="echo", version="2"))).ready
            assert not (await bench.call("ModelReady", messages.ModelReadyRequest(name="other"))).ready
            assert (await bench.call("ServerMetadata", messages.ServerMetadataRequest())).name == "edge-runtime"
            model = await bench.call("ModelMetadata", messages.ModelMetadataRequest(name="echo"))
            assert (model.name, list(model.versions), model.platform) == ("echo", ["1.0.0"], "tflite_litert")
            assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("x", "FP32", [2])]
            assert model.inputs == model.outputs

    asyncio.run(go())


def test_not_ready_until_the_box_is() -> None:
    """Live, but neither the server nor its models are ready."""

    async def go() -> None:
        async with serving(ready=False) as bench:
            assert (await bench.call("ServerLive", messages.ServerLiveRequest())).live
            assert not (await bench.call("ServerReady", messages.ServerReadyRequest())).ready
            assert not (await bench.call("ModelReady", messages.ModelReadyRequest(name="echo"))).ready

    asyncio.run(go())


@pytest.mark.parametrize("raw", [True, False])
def test_two_inputs_of_different_types_are_answered_in_the_form_they_came(raw: bool) -> None:  # noqa: FBT001
    """Strings and numbers in one request, and only the output that was asked for."""

    async def go() -> None:
        text, numbers = TensorSpec("text", "BYTES", (-1,)), TensorSpec("numbers", "INT16", (1, 2))
        async with serving(text, numbers) as bench:
            message = messages.ModelInferRequest(model_name="echo", model_version="1.0.0", id="a")
            for spec, array in ((text, np.array([b"\x00\xff", b""], object)), (numbers, np.int16([[-5, 300]]))):
                entry = message.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
                if raw:
                    message.raw_input_contents.append(to_raw(array, spec.datatype))
                else:
                    entry.contents.CopyFrom(tensors.to_contents(array, spec.datatype))
            answer = await bench.call("ModelInfer", message)
            assert answer.id == "a"
            assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [
                ("text", "BYTES", [2]),
                ("numbers", "INT16", [1, 2]),
            ]
            if raw:
                assert list(answer.raw_output_contents) == list(message.raw_input_contents)
            else:
                assert [o.contents for o in answer.outputs] == [i.contents for i in message.inputs]
            message.outputs.add(name="numbers")
            assert [o.name for o in (await bench.call("ModelInfer", message)).outputs] == ["numbers"]

    asyncio.run(go())


def test_what_is_wrong_has_its_status_and_says_what_to_do() -> None:
    """Model, version, shape, output, bytes that are no message, a call that does not exist."""

    async def go() -> None:
        async with serving() as bench:
            unknown = await bench.status_of("ModelInfer", request(model="nope"))
            assert unknown.startswith("NOT_FOUND: model 'nope' is not on this box; it serves: echo")
            long_name = await bench.status_of("ModelInfer", request(model="\u00e9" * 100_000))
            assert long_name.startswith("NOT_FOUND: model")
            versioned = request()
            versioned.model_version = "9"
            assert (await bench.status_of("ModelInfer", versioned)).startswith("NOT_FOUND")
            shape = await bench.status_of("ModelInfer", request((1, 2, 3)))
            assert shape == "INVALID_ARGUMENT: input 'x' must have the shape [2], but has [3]"
            output = request()
            output.outputs.add(name="y")
            assert (await bench.status_of("ModelInfer", output)).startswith("INVALID_ARGUMENT: the model has no output")
            empty = messages.ModelInferRequest(model_name="echo")
            assert (await bench.status_of("ModelInfer", empty)).startswith("INVALID_ARGUMENT: inputs must be")
            garbage = await bench.status_of("ModelInfer", b"\xff\xff\xff")
            assert garbage.startswith("INVALID_ARGUMENT: the request is not a ModelInferRequest")
            metadata = await bench.status_of("ModelMetadata", messages.ModelMetadataRequest(name="nope"))
            assert metadata.startswith("NOT_FOUND")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await bench.channel.unary_unary(f"/{SERVICE}/Nothing")(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    asyncio.run(go())


def test_what_nobody_foresaw_is_told_without_details(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """INTERNAL for the caller, the trace for the log."""

    async def go() -> None:
        async with serving() as bench:
            monkeypatch.setattr(bench.service, "infer", lambda *_, **__: 1 / 0)
            status = await bench.status_of("ModelInfer", request())
            assert status == "INTERNAL: internal error (ZeroDivisionError); the box's log has the details"

    asyncio.run(go())
    assert "ZeroDivisionError: division by zero" in caplog.text


def test_the_callers_deadline_is_that_of_the_data_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its clock; and None, the box's own limit, for a caller without one."""

    async def go() -> None:
        async with serving() as bench:
            seen: list[float | None] = []
            infer = bench.service.infer

            async def spy(*arguments: Any, call: Call, **more: Any) -> Any:
                seen.append(call.deadline and call.deadline - time.monotonic())
                return await infer(*arguments, call=call, **more)

            monkeypatch.setattr(bench.service, "infer", spy)
            await bench.call("ModelInfer", request(), seconds=7)
            await bench.channel.unary_unary(f"/{SERVICE}/ModelInfer")(request().SerializeToString())
            assert seen[0] == pytest.approx(7, abs=0.5)
            assert seen[1] is None

    asyncio.run(go())


def test_a_missed_deadline_leaves_nothing_behind() -> None:
    """DEADLINE_EXCEEDED, and nothing of it is left in the data plane."""

    async def go() -> None:
        async with serving() as bench:
            bench.echo.gate.clear()
            running = asyncio.create_task(bench.call("ModelInfer", request()))
            await entered(bench, 1)
            assert (await bench.status_of("ModelInfer", request(), seconds=0.1)).startswith("DEADLINE_EXCEEDED")
            await eventually(lambda: bench.service.in_flight == 1)
            assert not bench.registry.find("echo").runner.waiting
            bench.echo.gate.set()
            await running

    asyncio.run(go())


def test_tritonclients_timeout_is_a_deadline_here() -> None:
    """What it calls client_timeout ends the wait on the box, too."""
    require_library("tritonclient.grpc", "tritonclient[grpc]")
    import tritonclient.grpc as triton  # noqa: PLC0415 - see above

    def ask(port: int) -> str:
        tensor = triton.InferInput("x", [2], "FP32")
        tensor.set_data_from_numpy(np.zeros(2, np.float32))
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            with pytest.raises(triton.InferenceServerException) as caught:
                client.infer("echo", [tensor], client_timeout=0.2)
            return str(caught.value.status())

    async def go() -> None:
        async with serving() as bench:
            bench.echo.gate.clear()
            assert await asyncio.to_thread(ask, bench.server.port) == "StatusCode.DEADLINE_EXCEEDED"
            await eventually(lambda: not bench.service.in_flight)

    asyncio.run(go())


def test_a_full_queue_answers_at_once() -> None:
    """RESOURCE_EXHAUSTED, while those before it get their answers."""

    async def go() -> None:
        async with serving(queue=1) as bench:
            bench.echo.gate.clear()
            calls = [asyncio.create_task(bench.call("ModelInfer", request())) for _ in range(2)]
            await entered(bench, 2)
            assert (await bench.status_of("ModelInfer", request())).startswith("RESOURCE_EXHAUSTED: overloaded")
            bench.echo.gate.set()
            await asyncio.gather(*calls)

    asyncio.run(go())


def test_calls_beyond_the_bound_are_refused() -> None:
    """max_concurrent_requests counts over all connections."""

    async def go() -> None:
        async with serving(max_concurrent_requests=1) as bench:
            bench.echo.gate.clear()
            running = asyncio.create_task(bench.call("ModelInfer", request()))
            await entered(bench, 1)
            options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
            async with grpc.aio.insecure_channel(f"127.0.0.1:{bench.server.port}", options=options) as second:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await second.unary_unary(f"/{SERVICE}/ServerLive")(b"")
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            bench.echo.gate.set()
            await running

    asyncio.run(go())


def test_a_message_beyond_the_bound_is_refused() -> None:
    """max_message_bytes; the same connection goes on."""

    async def go() -> None:
        async with serving(TensorSpec("x", "FP32", (-1,)), max_message_bytes=10_000) as bench:
            too_large = await bench.status_of("ModelInfer", request((0.0,) * 2500))
            assert too_large.startswith("RESOURCE_EXHAUSTED")
            assert "10000" in too_large
            assert len((await bench.call("ModelInfer", request((0.0,) * 2400))).raw_output_contents[0]) == 9600

    asyncio.run(go())


def test_a_large_typed_message_does_not_hold_up_the_others() -> None:
    """Two million numbers are read elsewhere, while the box says many times that it lives."""

    async def go() -> None:
        async with serving(TensorSpec("x", "FP32", (-1,))) as bench:
            large = asyncio.create_task(bench.call("ModelInfer", request((1.0,) * 2_000_000, raw=False)))
            others = 0
            while not large.done():
                await bench.call("ServerLive", messages.ServerLiveRequest())
                others += 1
            assert len((await large).outputs[0].contents.fp32_contents) == 2_000_000
            assert others > 5  # 2 where it is read on the event loop

    asyncio.run(go())


def test_a_stopping_box_says_so_and_running_calls_finish() -> None:
    """UNAVAILABLE for new ones, an answer for those before; then the listener is gone."""

    async def go() -> None:
        async with serving() as bench:
            bench.echo.gate.clear()
            running = asyncio.create_task(bench.call("ModelInfer", request()))
            await entered(bench, 1)
            bench.service.refuse_new_work()
            assert (await bench.status_of("ModelInfer", request())).startswith("UNAVAILABLE: this box is stopping")
            stopping = asyncio.create_task(bench.server.stop(5))
            bench.echo.gate.set()
            assert list((await running).outputs[0].shape) == [2]
            await asyncio.wait_for(stopping, 2)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", bench.server.port)

    asyncio.run(go())


def test_a_call_that_never_ends_does_not_hold_the_stop() -> None:
    """It is aborted after the grace."""

    async def go() -> None:
        async with serving() as bench:
            bench.echo.gate.clear()
            running = asyncio.create_task(bench.status_of("ModelInfer", request()))
            await entered(bench, 1)
            await asyncio.wait_for(bench.server.stop(0.2), 2)
            assert (await running).startswith(("UNAVAILABLE", "CANCELLED"))

    asyncio.run(go())


def test_a_server_that_ended_by_itself_is_a_problem() -> None:
    """While it runs, and once it is stopped on purpose, there is none."""

    async def go() -> None:
        async with serving() as bench:
            assert bench.server.problem() is None
            bench.server._server.close()
            await eventually(bench.server.problem)
            await bench.server.stop(0)
            assert bench.server.problem() is None

    asyncio.run(go())


def test_a_taken_port_is_an_error_that_names_the_key() -> None:
    """Two boxes on one machine must not share a port without a word."""

    async def go() -> None:
        async with serving() as bench:
            with pytest.raises(DeviceError, match=r"127\.0\.0\.1:\d+.*another edge-runtime.*set grpc\.port"):
                open_server(GrpcConfig(port=bench.server.port))

    asyncio.run(go())


@pytest.mark.parametrize("host", ["203.0.113.1", "not a host"])
def test_an_address_that_is_not_ours_is_an_error(host: str) -> None:
    """It names what to change."""

    async def go() -> None:
        registry = Registry()
        service = InferenceService(registry, EventBus(), EngineConfig())
        with pytest.raises(DeviceError, match=r"http\.host"):
            GrpcServer(GrpcConfig(port=free_port()), host, service, registry, lambda: True)

    asyncio.run(go())


def test_without_the_extra_the_box_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One line says how to add it; and none where gRPC is off."""
    monkeypatch.setitem(sys.modules, "hpack", None)
    caplog.set_level(logging.INFO)
    assert open_server(GrpcConfig(enabled=False)) is None
    assert not caplog.records
    assert open_server(GrpcConfig()) is None
    assert "edge-runtime[grpc]" in caplog.text
