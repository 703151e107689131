"""Calls that share a run get what they would get alone, and nothing of what happens to the others."""

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from peers import require_shared

from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError, Code, ContentError
from edge_runtime.inference import batches, engine
from edge_runtime.inference.batcher import Batcher
from edge_runtime.inference.call import Call
from edge_runtime.inference.pool import Pool

SPEC = TensorSpec("x", "FP32", (-1, 2))
POISON = -1.0


class Scales:
    """A session that doubles rows, fails where it finds poison, and waits for its gate before each run."""

    inputs = outputs = (SPEC,)
    sample_bytes = 100

    def __init__(self, *, gated: bool = False) -> None:
        self.seen: list[list[float]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0 if gated else 1_000_000)

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Twice as much."""
        self.seen.append([float(row[0]) for row in tensors["x"]])
        self.entered.release()
        assert self.gate.acquire(timeout=10)
        if POISON in self.seen[-1]:
            raise ContentError("poisoned")
        return {"y": tensors["x"] * 2}

    async def is_entered(self) -> None:
        """Wait until a run has begun."""
        await asyncio.to_thread(self.entered.acquire)


def batcher(*sessions: Scales, rows: int = 4, delay: float = 0.0, max_waiting: int = 100) -> Batcher:
    """Over these sessions."""
    pool = Pool(sessions, max_waiting=max_waiting, inline_bytes=0)
    return Batcher(pool, rows=rows, delay_seconds=delay, max_waiting=max_waiting)


def samples(*values: float) -> dict[str, NDArray[Any]]:
    """A row for each value."""
    return {"x": np.float32([[value, value + 0.5] for value in values])}


def asked(runner: Batcher, *values: float, seconds: float = 10.0) -> "asyncio.Task[dict[str, NDArray[Any]]]":
    """A call that is on its way."""
    return asyncio.create_task(runner.run(samples(*values), Call(deadline=time.monotonic() + seconds)))


@settings(deadline=None, max_examples=60)
@given(
    arrivals=st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0, 0, 0, 1, 2, 5])), min_size=1, max_size=25),
    rows=st.integers(1, 5),
    sessions=st.integers(1, 3),
    delay=st.sampled_from([0.0, 0.001]),
)
def test_every_call_gets_its_own_rows(arrivals: list[tuple[int, int]], rows: int, sessions: int, delay: float) -> None:
    """Whenever they come (turns of the loop between them), with however many samples."""

    async def go() -> None:
        workers = [Scales() for _ in range(sessions)]
        runner = batcher(*workers, rows=rows, delay=delay)
        calls, value = [], 0
        for count, turns in arrivals:
            wanted = [float(value + i) for i in range(count)]
            value += count
            calls.append((wanted, asked(runner, *wanted)))
            for _ in range(turns):
                await asyncio.sleep(0)
        for wanted, call in calls:
            assert np.array_equal((await call)["y"], samples(*wanted)["x"] * 2)
        seen = sorted(value for worker in workers for run in worker.seen for value in run)
        assert seen == [float(i) for i in range(value)]
        assert all(len(run) <= rows for worker in workers for run in worker.seen)
        assert runner.waiting == 0
        runner.close()

    asyncio.run(go())


def test_what_waits_for_a_session_shares_the_next_run_in_order() -> None:
    """And what does not fit any more goes first in the one after."""

    async def go() -> None:
        session = Scales(gated=True)
        runner = batcher(session)
        first = asked(runner, 0)
        await session.is_entered()
        rest = [asked(runner, *values) for values in ((1,), (2, 3), (4, 5), (6,))]
        await asyncio.sleep(0)
        assert (runner.size, runner.busy, runner.waiting) == (1, 1, 4)
        for _ in range(3):
            session.gate.release()
        await asyncio.gather(first, *rest)
        assert session.seen == [[0], [1, 2, 3], [4, 5, 6]]
        runner.close()

    asyncio.run(go())


def test_a_call_notes_how_many_ran_with_it_and_how_long_it_waited() -> None:
    """For the metrics."""

    async def go() -> None:
        runner, calls = batcher(Scales()), [Call() for _ in range(3)]
        await asyncio.gather(*(runner.run(samples(i), call) for i, call in enumerate(calls)))
        assert [call.batch for call in calls] == [3, 3, 3]
        assert all(call.queue_seconds > 0 and call.engine_seconds > 0 for call in calls)
        runner.close()

    asyncio.run(go())


def test_a_bad_call_fails_alone() -> None:
    """The others of its run are run again, each for itself."""

    async def go() -> None:
        session = Scales()
        runner = batcher(session)
        results = await asyncio.gather(*(asked(runner, v) for v in (1, POISON, 3)), return_exceptions=True)
        assert session.seen == [[1, POISON, 3], [1], [POISON], [3]]
        assert isinstance(results[1], ContentError)
        for found, value in ((results[0], 1), (results[2], 3)):
            assert isinstance(found, dict)
            assert np.array_equal(found["y"], samples(value)["x"] * 2)
        runner.close()

    asyncio.run(go())


def test_a_session_whose_answers_have_no_rows_answers_one_by_one() -> None:
    """It was thought to take batches, and does not."""

    async def go() -> None:
        session = Scales()
        session.run = lambda tensors: {"y": tensors["x"].sum(0, keepdims=True)}  # type: ignore[method-assign]
        runner = batcher(session)
        answers = await asyncio.gather(*(asked(runner, v) for v in (1, 2)))
        assert [float(answer["y"][0, 0]) for answer in answers] == [1, 2]
        runner.close()

    asyncio.run(go())


def test_what_nobody_expected_is_told_to_all_of_the_run() -> None:
    """Nobody is left to wait for the deadline."""

    async def go() -> None:
        session = Scales()
        session.run = lambda _: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        runner = batcher(session)
        results = await asyncio.gather(*(asked(runner, v) for v in (1, 2)), return_exceptions=True)
        assert [type(found) for found in results] == [ZeroDivisionError, ZeroDivisionError]
        runner.close()

    asyncio.run(go())


def test_each_call_of_a_run_keeps_its_own_deadline() -> None:
    """One is late, one hangs up; the third gets its answer."""

    async def go() -> None:
        session = Scales(gated=True)
        runner = batcher(session)
        late, gone, patient = asked(runner, 1, seconds=0.05), asked(runner, 2), asked(runner, 3)
        await session.is_entered()
        assert session.seen == [[1, 2, 3]]
        gone.cancel()
        with pytest.raises(CallerError) as caught:
            await late
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        session.gate.release()
        assert np.array_equal((await patient)["y"], samples(3)["x"] * 2)
        assert gone.cancelled()
        runner.close()

    asyncio.run(go())


def test_who_hung_up_while_waiting_is_not_run() -> None:
    """Work that nobody waits for is dropped, and so is its place in the queue."""

    async def go() -> None:
        session = Scales(gated=True)
        runner = batcher(session)
        first = asked(runner, 1)
        await session.is_entered()
        late, gone, patient = asked(runner, 2, seconds=0.02), asked(runner, 3), asked(runner, 4)
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(late, gone, return_exceptions=True)
        assert runner.waiting == 1
        session.gate.release()
        session.gate.release()
        await asyncio.gather(first, patient)
        assert session.seen == [[1], [4]]
        runner.close()

    asyncio.run(go())


def test_a_full_queue_answers_at_once() -> None:
    """Also where all come in the same turn of the loop: two wait, one run of four is on."""

    async def go() -> None:
        session = Scales(gated=True)
        runner = batcher(session, max_waiting=2)
        calls = [asked(runner, i) for i in range(10)]
        await session.is_entered()
        refused = [call for call in calls if call.done()]
        assert len(refused) == 4
        for call in refused:
            error = call.exception()
            assert isinstance(error, CallerError)
            assert error.code is Code.OVERLOADED
        for _ in range(3):
            session.gate.release()
        await asyncio.gather(*(call for call in calls if call not in refused))
        assert [len(run) for run in session.seen] == [4, 2]
        runner.close()

    asyncio.run(go())


def test_it_waits_for_more_only_as_long_as_allowed_and_only_where_more_came_before() -> None:
    """A lone caller never waits; after a run of three, one sample waits for the others, at most the delay."""

    async def go() -> None:
        session = Scales()
        runner = batcher(session, delay=5.0)
        await asyncio.wait_for(asked(runner, 0), 2)
        await asyncio.gather(*(asked(runner, v) for v in (1, 2, 3)))
        one = asked(runner, 4)
        for _ in range(20):
            await asyncio.sleep(0)
        two = asked(runner, 5)
        await asyncio.sleep(0)
        assert runner.waiting == 2
        three = asked(runner, 6)
        await asyncio.wait_for(asyncio.gather(one, two, three), 2)
        assert session.seen == [[0], [1, 2, 3], [4, 5, 6]]
        runner.close()
        quick = batcher(session, delay=0.01)
        await asyncio.gather(*(asked(quick, v) for v in (1, 2, 3)))
        await asyncio.wait_for(asked(quick, 7), 2)
        assert session.seen[-1] == [7]
        quick.close()

    asyncio.run(go())


@pytest.mark.parametrize("name", ["mlperf_tiny/vww_96_int8", "sensor/magic_wand_float", "audio/micro_speech_quantized"])
def test_real_models_answer_together_as_alone(name: str) -> None:
    """Bit by bit with the fast kernels: open first dimension, or one of 1 that the engine resizes."""
    model = require_shared(f"models/{name}.tflite")
    chosen = engine.choose()
    alone, workers = chosen.open(model, "fast", 1), [chosen.open(model, "fast", 1) for _ in range(2)]
    assert batches.stackable(alone.inputs, alone.outputs)
    (spec,) = alone.inputs
    random = np.random.default_rng(1)
    values = random.integers(-128, 127, (20, *spec.shape[1:])).astype("int8" if spec.datatype == "INT8" else "float32")

    async def go() -> None:
        runner = Batcher(Pool(workers, max_waiting=64, inline_bytes=0), rows=8, delay_seconds=0.001, max_waiting=64)
        notes = [Call() for _ in values]
        answers = await asyncio.gather(
            *(runner.run({spec.name: values[i : i + 1]}, call) for i, call in enumerate(notes))
        )
        for i, answer in enumerate(answers):
            for output, value in alone.run({spec.name: values[i : i + 1]}).items():
                assert np.array_equal(answer[output], value)
        assert max(call.batch for call in notes) == 8
        runner.close()

    asyncio.run(go())
