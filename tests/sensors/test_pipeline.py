"""From bytes on a real serial line to a question to the model, whatever goes wrong on the way."""

import asyncio
import os
import random
import socket

import pytest
from serial_bench import Cable, RememberingService, config, running, until

from edge_runtime.errors import CallerError, Code, ContentError
from edge_runtime.sensors.pipeline import Pipeline


def test_readings_become_windows_for_the_model(cable: Cable) -> None:
    """Lines on a serial port reach the model as (count, channels) arrays, half frames and all."""
    service = RememberingService()

    async def scenario() -> None:
        async with running(Pipeline(config(cable.port, window={"count": 2}), service)) as pipeline:
            await until(lambda: pipeline.status()["state"] == "open", "open")
            assert pipeline.problem() is None
            for piece in (b"1,", b"2\r", b"\n3,4\n5", b",6\n7,8\n9"):
                cable.write(piece)
                await asyncio.sleep(0.02)
            await until(lambda: len(service.windows) == 2, "two windows")
            await until(lambda: pipeline.status()["results"] == 2, "counted")
            status = pipeline.status()
        assert [window.tolist() for window in service.windows] == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
        assert service.asked == [("gesture", "pipeline:bench")] * 2
        assert (status["frames"], status["windows"], status["bad_frames"]) == (4, 2, {})
        assert 0 <= status["last_value_age_seconds"] < 10

    cable.plug()
    asyncio.run(scenario())


def test_garbage_is_counted_and_good_readings_still_arrive(cable: Cable) -> None:
    """Noise, an endless line and wrong channels between good lines cost only themselves."""
    noise = random.Random(4).randbytes(3000)
    service = RememberingService()

    async def scenario() -> None:
        async with running(Pipeline(config(cable.port, frames={"max_bytes": 64}), service)) as pipeline:
            await until(lambda: pipeline.status()["state"] == "open", "open")
            cable.write(b"1,2\n" + noise + b"\n3,4\n" + b"9" * 5000 + b"\n5\nnan,1\nhello\n6,7\n")
            await until(lambda: service.windows and service.windows[-1].tolist() == [[6, 7]], "the last one")
            bad = pipeline.status()["bad_frames"]
        assert [window.tolist() for window in service.windows] == [[[1, 2]], [[3, 4]], [[6, 7]]]
        assert bad["too_long"] >= 1
        assert bad["not_finite"] == bad["channels"] == 1
        assert bad["not_text"] >= 1
        assert bad["not_numbers"] >= 1

    cable.plug()
    asyncio.run(scenario())


def test_replugging_starts_a_new_window(cable: Cable) -> None:
    """No frame and no window is put together from before and after a loss."""
    service = RememberingService()

    async def scenario() -> None:
        pipeline = Pipeline(config(cable.port, window={"count": 2}), service)
        async with running(pipeline):
            await until(lambda: pipeline.status()["state"] == "waiting for port", "waiting")
            assert "waiting for port" in (pipeline.problem() or "")
            cable.plug()
            await until(lambda: pipeline.status()["state"] == "open", "open")
            cable.write(b"1\n2\n3\n4")
            await until(lambda: pipeline.status()["frames"] == 3, "three frames")
            cable.pull()
            await until(lambda: pipeline.status()["state"] == "lost", "lost")
            assert "lost" in (pipeline.problem() or "")
            cable.plug()
            await until(lambda: pipeline.status()["state"] == "open", "open again")
            cable.write(b"5,5\n6,6\n")
            await until(lambda: len(service.windows) == 2, "the second window")
            assert pipeline.status()["openings"] == 2
            assert pipeline.status()["bad_frames"] == {}
        assert [window.tolist() for window in service.windows] == [[[1], [2]], [[5, 5], [6, 6]]]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CallerError("model 'gesture' is not here", Code.NOT_FOUND), "not_found"),
        (CallerError("queue is full", Code.OVERLOADED), "overloaded"),
        (ContentError("the input must be 1x64"), "bad_content"),
        (RuntimeError("a bug"), "internal"),
        (asyncio.CancelledError(), "unavailable"),
    ],
)
def test_a_failing_model_is_counted_and_asked_again(pty: tuple[int, str], error: BaseException, code: str) -> None:
    """A model that is not there yet, is overloaded or broken fails windows, never the pipeline."""
    master, path = pty
    service = RememberingService()
    service.error = error

    async def scenario() -> None:
        async with running(Pipeline(config(path), service)) as pipeline:
            await until(lambda: pipeline.status()["state"] == "open", "open")
            os.write(master, b"1\n2\n")
            await until(lambda: pipeline.status()["errors"] == {code: 2}, f"two {code}")
            assert pipeline.status()["last_error"]
            service.error = None
            os.write(master, b"3\n")
            await until(lambda: pipeline.status()["results"] == 1, "a result")
            assert pipeline.status()["last_error"] == ""

    asyncio.run(scenario())


def test_slow_inference_does_not_hold_up_reading(pty: tuple[int, str]) -> None:
    """While the model is busy the newest windows wait, the oldest are dropped and counted."""
    master, path = pty
    service = RememberingService()
    service.gate.clear()

    async def scenario() -> None:
        async with running(Pipeline(config(path, window={"max_waiting_windows": 3}), service)) as pipeline:
            await until(lambda: pipeline.status()["state"] == "open", "open")
            os.write(master, b"0\n")
            await until(lambda: pipeline.status()["windows_waiting"] == 0 and pipeline.status()["windows"], "taken")
            os.write(master, b"".join(b"%d\n" % i for i in range(1, 11)))
            await until(lambda: pipeline.status()["frames"] == 11, "all frames")
            assert pipeline.status()["windows_waiting"] == 3
            assert pipeline.status()["windows_dropped"] == 7
            service.gate.set()
            await until(lambda: pipeline.status()["results"] == 4, "results")
        assert [window.item() for window in service.windows] == [0, 8, 9, 10]

    asyncio.run(scenario())


def test_a_flood_leaves_the_loop_to_others() -> None:
    """A source that sends as fast as it can does not keep the event loop from its other work."""
    service = RememberingService()
    line = b",".join(b"%d.5" % i for i in range(8)) + b"\n"

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(line * 1000)
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(flood, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        pipeline = Pipeline(config(f"socket://{host}:{port}", window={"count": 100}), service)
        async with running(pipeline):
            await until(lambda: pipeline.status()["frames"] > 1000, "frames")
            loop, longest = asyncio.get_running_loop(), 0.0
            for _ in range(50):
                before = loop.time()
                await asyncio.sleep(0.005)
                longest = max(longest, loop.time() - before)
            await until(lambda: pipeline.status()["results"] > 50, "results")
            status = pipeline.status()
        server.close()
        assert longest < 0.5
        assert status["windows_waiting"] <= 4
        # The first line may have lost its head at connecting.
        assert set(status["bad_frames"]) <= {"channels", "not_numbers"}
        assert all(window.shape == (100, 8) for window in service.windows)

    asyncio.run(scenario())


def test_silence_is_a_problem_where_a_limit_is_set(pty: tuple[int, str]) -> None:
    """A port that is open but gives no usable reading for silence_seconds is reported, until one comes."""
    master, path = pty
    now = 100.0

    async def scenario() -> None:
        nonlocal now
        pipeline = Pipeline(config(path, silence_seconds=5.0), RememberingService(), clock=lambda: now)
        async with running(pipeline):
            await until(lambda: pipeline.status()["state"] == "open", "open")
            now += 4
            assert pipeline.problem() is None
            os.write(master, b"noise\n")
            await until(lambda: pipeline.status()["frames"] == 1, "noise")
            now += 2
            assert "no usable reading" in (pipeline.problem() or "")
            os.write(master, b"1\n")
            await until(lambda: pipeline.problem() is None, "well again")
            assert pipeline.status()["last_value_age_seconds"] == 0

    asyncio.run(scenario())


def test_it_stops_at_once_in_every_state(pty: tuple[int, str], cable: Cable) -> None:
    """Cancelled while open, while waiting for a port, and during an inference, it ends within a moment."""
    _, path = pty
    with socket.create_server(("127.0.0.1", 0)) as server:
        for port in (path, cable.port, f"socket://127.0.0.1:{server.getsockname()[1]}"):

            async def scenario(port: object = port) -> float:
                pipeline = Pipeline(config(port, reopen=5.0), RememberingService())
                async with running(pipeline):
                    await until(lambda: pipeline.status()["state"] != "closed", "begun")
                    await asyncio.sleep(0.05)
                    began = asyncio.get_running_loop().time()
                return asyncio.get_running_loop().time() - began

            assert asyncio.run(scenario()) < 2
