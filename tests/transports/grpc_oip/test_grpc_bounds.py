"""What a peer may cost: memory, turns of the event loop, and places, whatever it sends and does not send."""

import asyncio
import struct
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from peers import require_library

require_library("grpc.aio", "edge-runtime[grpc]")

from echo_server import Bench, eventually, serving  # noqa: E402 - needs the extra, as all below
from http2_client import PATH, Client  # noqa: E402

from edge_runtime.contract.tensors import TensorSpec  # noqa: E402
from edge_runtime.inference.pool import Pool  # noqa: E402
from edge_runtime.transports.grpc import frames, messages  # noqa: E402
from edge_runtime.transports.grpc.calls import SERVICE  # noqa: E402
from edge_runtime.transports.grpc.frames import ErrorCode  # noqa: E402
from edge_runtime.transports.grpc.reception import Methods, Reception  # noqa: E402
from edge_runtime.transports.grpc.rpc import Context, framed  # noqa: E402
from edge_runtime.transports.grpc.stream_rpc import Messages  # noqa: E402
from edge_runtime.transports.grpc.streams import InferStream  # noqa: E402

EMPTY = framed(b"")


async def echo_all(incoming: Messages, _: Context) -> None:
    """A stream that gives back what it gets."""
    async for message in incoming:
        await incoming.send(message)


def streaming(client: Client) -> Client:
    """The client of a server whose only call is a stream."""
    client.connection._accept = Reception(Methods({}, {PATH: echo_all}), client.bounds)
    return client.greet()


async def turns(number: int = 5) -> None:
    """Let the tasks that can go on do so."""
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [1, 8, 9, 23])
def test_the_first_words_may_come_in_pieces(size: int) -> None:
    """As everything else."""
    client, hello = Client(), frames.PREFACE + frames.settings({})
    for at in range(0, len(hello), size):
        client.connection.receive(hello[at : at + size])
    client.sent.clear()
    client.connection.receive(client.request(1, b"hi"))
    assert client.answers()[1][0] == framed(b"hi")


def test_a_deadline_that_passes_while_the_answer_waits_for_the_window_ends_the_call_once() -> None:
    """Nothing comes after the end of a stream, and the count of calls is right."""

    async def go() -> None:
        async def later(message: bytes, _: Context) -> bytes:
            return message

        client = Client()
        client.connection._accept = Reception(Methods({PATH: later}), client.bounds)
        client.greet({frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
        client.connection.receive(client.request(1, b"hi", grpc_timeout="20m"))
        await asyncio.sleep(0.05)
        client.connection.receive(frames.window_update(1, 1000))
        assert [frame.flags & frames.END_STREAM for frame in client.frames()] == [0, 0, 1]
        assert client.bounds.calls == 0

    asyncio.run(go())


def test_a_ping_with_every_answer_is_no_flood() -> None:
    """So some clients measure the line, for as long as a stream lasts (gRPC's bandwidth estimation)."""

    async def go() -> None:
        client = streaming(Client())
        client.connection.receive(client.head(1))
        ping = frames.frame(frames.PING, 0, 0, bytes(8))
        for _ in range(11_000):
            client.connection.receive(frames.frame(frames.DATA, 0, 1, EMPTY) + ping)
            await turns()
            client.connection.receive(frames.window_update(0, 5) + frames.window_update(1, 5))
        for now in range(11):
            client.connection.check(float(now), 10.0)
            client.connection.receive(ping * 1000)
        assert 1 in client.connection.streams
        client.connection.lost()
        await turns()

    asyncio.run(go())


class Looked(dict[int, Any]):
    """Streams that count how often all of them are looked at."""

    times = 0

    def values(self) -> Any:
        """As always."""
        self.times += 1
        return super().values()


@pytest.mark.parametrize(
    "sent",
    [
        frames.frame(frames.SETTINGS, 0, 0, struct.pack(">HI", frames.SETTINGS_INITIAL_WINDOW_SIZE, 9) * 5000),
        frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 9}) * 3000,
        frames.window_update(0, 1) * 3000,
    ],
)
def test_many_changes_of_all_windows_cost_no_look_at_every_stream_each(sent: bytes) -> None:
    """Else a few bytes would hold up the event loop."""
    client = Client().greet()
    client.connection.receive(client.head(1))
    client.connection.streams = looked = Looked(client.connection.streams)
    client.connection.receive(sent)
    assert looked.times <= 1


def test_small_pieces_take_no_more_memory_than_they_have_bytes() -> None:
    """Two bytes a frame; and the message is what they were."""
    message = bytes(range(256)) * 160
    body, client = framed(message), Client().greet()
    client.connection.receive(client.head(1))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for at in range(0, len(body), 2):
        client.connection.receive(frames.frame(frames.DATA, 0, 1, body[at : at + 2]))
        client.sent.clear()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken < 2 * client.bounds.bytes
    client.connection.receive(frames.window_update(1, 100_000) + frames.frame(frames.DATA, frames.END_STREAM, 1))
    assert client.answers()[1][0] == body
    assert not client.bounds.bytes


def test_messages_of_no_bytes_that_wait_take_no_more_memory_than_they_have_bytes() -> None:
    """Fifty thousand fit in the window; each has its answer."""

    async def go() -> None:
        client, many = streaming(Client()), 40_000
        client.connection.receive(client.head(1))
        data = EMPTY * many
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for at in range(0, len(data), 10_001):
            client.connection.receive(frames.frame(frames.DATA, 0, 1, data[at : at + 10_001]))
        taken = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert taken < 2 * client.bounds.bytes
        client.connection.receive(frames.window_update(0, 10**6) + frames.window_update(1, 10**6))
        client.connection.receive(frames.frame(frames.DATA, frames.END_STREAM, 1))
        await eventually(lambda: not client.connection.streams)
        assert client.answers()[1] == (data, {"grpc-status": "0"})
        assert not client.bounds.bytes

    asyncio.run(go())


def test_a_stream_may_be_silent_between_messages_but_not_within_one() -> None:
    """A part of a message holds memory that others need."""

    async def go() -> None:
        client = streaming(Client())
        client.connection.receive(client.head(1) + client.head(3))
        part = framed(bytes(50_000))[:-1]
        for at in range(0, len(part), 10_000):
            client.connection.receive(frames.frame(frames.DATA, 0, 3, part[at : at + 10_000]))
        await turns()
        for now in (1.0, 10.0, 12.0, 1000.0):
            client.connection.check(now, 10.0)
        assert list(client.connection.streams) == [1]
        assert not client.bounds.bytes
        client.connection.lost()
        await turns()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("data", "end", "status", "said"),
    [
        (framed(b"no gzip", 1), 0, "3", "not gzip"),
        (EMPTY[:-1], frames.END_STREAM, "13", "within a message"),
    ],
)
def test_a_stream_of_what_is_no_message_has_its_status(data: bytes, end: int, status: str, said: str) -> None:
    """Of the fault itself, not of the group of tasks in which it showed."""

    async def infer(incoming: Messages, _: Context) -> None:
        async def decode(data: bytes) -> messages.ModelInferRequest:
            return messages.ModelInferRequest.FromString(data)

        await InferStream(incoming, decode, lambda _, __: messages.ModelInferResponse()).run()

    async def go() -> None:
        client = Client()
        client.connection._accept = Reception(Methods({}, {PATH: infer}), client.bounds)
        client.greet()
        client.connection.receive(client.head(1, grpc_encoding="gzip") + frames.frame(frames.DATA, end, 1, data))
        await turns()
        trailers = client.answers()[1][1]
        assert (trailers["grpc-status"], said in trailers["grpc-message"]) == (status, True)
        assert not client.bounds.calls

    asyncio.run(go())


def request(values: int) -> messages.ModelInferRequest:
    """So many zeros for the input `x`."""
    message = messages.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(4 * values)])
    message.inputs.add(name="x", datatype="FP32", shape=[values])
    return message


async def infer_stream(bench: Bench, sent: list[messages.ModelInferRequest]) -> AsyncIterator[Any]:
    """The answers to the requests on one stream."""
    call = bench.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    async for answer in call(iter([message.SerializeToString() for message in sent])):
        yield messages.ModelStreamInferResponse.FromString(answer)


def test_large_requests_of_a_stream_wait_for_those_before_them() -> None:
    """What one stream holds stays within bounds, however much is sent ahead; and every request has its answer."""

    async def go() -> None:
        size, many = 400_100, 12
        async with serving(
            TensorSpec("x", "FP32", (100_000,)), max_message_bytes=size, max_messages_bytes=4 * size
        ) as bench:
            bench.echo.gate.clear()
            answers = infer_stream(bench, [request(100_000)] * many)
            first = asyncio.ensure_future(anext(answers))
            await eventually(lambda: bench.service.in_flight == 1)
            await eventually(lambda: bench.server._bounds.bytes > 2 * size)
            bench.echo.gate.set()
            told = [(await first).error_message] + [answer.error_message async for answer in answers]
            assert told == [""] * many
            await eventually(lambda: not bench.server._bounds.bytes)

    asyncio.run(go())


class Counting:
    """A session that counts its calls in the present turn of the event loop."""

    def __init__(self) -> None:
        self.now = self.most = self.all = 0

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Count, and give the inputs back."""
        self.now, self.all = self.now + 1, self.all + 1
        self.most = max(self.most, self.now)
        return dict(tensors)

    async def watch(self) -> None:
        """Begin anew with every turn."""
        while True:
            await asyncio.sleep(0)
            self.now = 0


def test_others_have_their_turn_between_the_many_requests_of_one_peer() -> None:
    """A quick model answers as requests are read, and one read holds thousands."""

    async def go() -> None:
        async with serving() as bench:
            session, many, client = Counting(), 2000, Client()
            bench.registry.find("echo").runner = Pool([session], max_waiting=4, inline_bytes=1000)  # type: ignore[list-item]
            watching = asyncio.create_task(session.watch())
            reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
            message = messages.ModelInferRequest(model_name="echo", raw_input_contents=[np.zeros(2, "<f4").tobytes()])
            message.inputs.add(name="x", datatype="FP32", shape=[2])
            data, path = message.SerializeToString(), f"/{SERVICE}/ModelInfer"
            ahead = [frames.PREFACE, frames.settings({}), frames.window_update(0, 10**9)]
            writer.write(b"".join([*ahead, *(client.request(2 * n + 1, data, path=path) for n in range(many))]))
            async with asyncio.timeout(20):
                while session.all < many:
                    await reader.read(100_000)
            watching.cancel()
            writer.close()
            assert session.most <= 300

    asyncio.run(go())


def test_peers_that_send_their_heads_first_do_not_take_each_others_places() -> None:
    """Eight with a hundred calls each, which are answered as they are read: at no time are there many open ones."""

    async def go() -> None:
        async with serving() as bench:
            bench.registry.find("echo").runner = Pool([Counting()], max_waiting=4, inline_bytes=1000)  # type: ignore[list-item]
            message = messages.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(8)])
            message.inputs.add(name="x", datatype="FP32", shape=[2])
            body, path = framed(message.SerializeToString()), f"/{SERVICE}/ModelInfer"
            statuses = await asyncio.gather(*(_heads_first(bench, body, path, 100) for _ in range(8)))
            assert statuses == [["0"] * 100] * 8

    asyncio.run(go())


async def _heads_first(bench: Bench, body: bytes, path: str, many: int) -> list[str]:
    """The statuses of so many calls on a connection of their own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
    client, streams = Client(), range(1, 2 * many, 2)
    heads = [client.head(stream, path=path) for stream in streams]
    bodies = [frames.frame(frames.DATA, frames.END_STREAM, stream, body) for stream in streams]
    writer.write(b"".join([frames.PREFACE, frames.settings({}), *heads, *bodies]))
    client.sent.clear()
    async with asyncio.timeout(20):
        while b"".join(client.sent).count(b"grpc-status") < many:
            client.sent.append(await reader.read(100_000))
    writer.close()
    return [trailers["grpc-status"] for _, trailers in client.answers().values()]


def test_a_flood_of_requests_to_cancel_is_still_seen_in_turns() -> None:
    """`receive` stops after so many frames, and says that there are more."""
    client = Client().greet()
    storm = b"".join(client.head(2 * n + 1) + frames.reset(2 * n + 1, ErrorCode.CANCEL) for n in range(10))
    assert client.connection.receive(storm, 7)
    assert client.connection._last_id == 7
    assert client.connection.receive(b"", 12)
    assert not client.connection.receive(b"", 12)
    assert client.connection._last_id == 19
