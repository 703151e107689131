"""Sequences with models that really keep state: nobody meets anybody else's, and every end is defined."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from peers import require_shared
from stateful_models import accumulator

from edge_runtime.config import EngineConfig
from edge_runtime.contract import tflite_metadata
from edge_runtime.contract.manifest import Manifest
from edge_runtime.errors import CallerError, Code, ContentError, EdgeError
from edge_runtime.events import EventBus
from edge_runtime.inference.call import Call, SequenceStep
from edge_runtime.inference.description import Description
from edge_runtime.inference.isolated import IsolatedEngine
from edge_runtime.inference.loader import Loader
from edge_runtime.inference.neutral import neutral_inputs
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.residence import Residence
from edge_runtime.inference.service import InferenceService


@cache
def accumulator_file() -> Path:
    """The model that adds up."""
    path = Path(mkdtemp()) / "sum.tflite"
    path.write_bytes(accumulator())
    return path


class Box:
    """A service with models that keep state."""

    def __init__(self, **config: Any) -> None:
        self.config = EngineConfig(instances=2, memory_budget_bytes=0, **config)
        self.registry, self.residence = Registry(), Residence(self.config)
        self.service = InferenceService(self.registry, EventBus(), self.config, self.residence)
        self.loader = Loader(self.config)

    def add(self, path: Path, version: str = "1", name: str = "m") -> ServedVersion:
        """Serve a model file."""
        state = tflite_metadata.state(path.read_bytes())
        session = self.loader.engine.open(path, "builtin", 1, state)
        specs = session.inputs, session.outputs
        description = Description("e", "1", "builtin", "raw", *specs, latency_ms=1, control_flow=True, state=state)
        served = self.loader.load(Manifest(name, version, {}), description, path)
        self.registry.swap(served)
        self.residence.adopt(served)
        return served

    async def ask(
        self, value: float, who: str = "", *, start: bool = False, end: bool = False, seconds: float = 20.0, **more: Any
    ) -> float:
        """What the accumulator answers."""
        step = SequenceStep(who, start, end) if who else None
        call = Call(deadline=time.monotonic() + seconds, sequence=step)
        inference = await self.service.infer("m", {"x": np.float32([value])}, call=call, **more)
        return float(inference.outputs["sum"][0])


def on_box(go: Callable[[Box], Awaitable[None]], **config: Any) -> None:
    """Run `go` with a box that has the accumulator."""

    async def run() -> None:
        box = Box(**config)
        box.add(accumulator_file())
        try:
            await go(box)
        finally:
            box.service.close()
            box.registry.close()

    asyncio.run(run())


async def until(holds: Callable[[], bool]) -> None:
    """Return when it holds: what is waited for is a look at the clock, which nothing tells of."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.05)


def test_what_a_model_keeps_is_read_from_its_file() -> None:
    """Variables that can be reset, resources that cannot, and nothing; broken files are taken for the worst."""
    assert tflite_metadata.state(accumulator()) == "resources"
    assert tflite_metadata.state(require_shared("models/micro/mnist_lstm_int8.tflite").read_bytes()) == "variables"
    assert tflite_metadata.state(require_shared("models/micro/hello_world_int8.tflite").read_bytes()) == "none"
    assert tflite_metadata.state(b"\xff" * 100) == "resources"


def test_callers_without_a_sequence_never_meet_the_state_of_another() -> None:
    """Not in a resource variable either, which the interpreter's own reset leaves as it is."""

    async def go(box: Box) -> None:
        await box.ask(100, "s", start=True)
        assert await asyncio.gather(*(box.ask(i) for i in range(1, 20))) == [float(i) for i in range(1, 20)]
        assert await box.ask(1, "s") == 101

    on_box(go)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 100)), min_size=1, max_size=25))
def test_interleaved_sequences_answer_as_each_alone(steps: Sequence[tuple[str, int]]) -> None:
    """However they are interleaved, and all of them sent at once."""
    totals, expected, seen = dict.fromkeys("abc", 0), [], set()
    for who, value in steps:
        totals[who] += value
        expected.append(float(totals[who]))

    async def go(box: Box) -> None:
        asked = []
        for who, value in steps:
            asked.append(asyncio.create_task(box.ask(value, who, start=who not in seen)))
            seen.add(who)
        assert await asyncio.gather(*asked) == expected

    on_box(go)


def test_start_begins_anew_and_end_is_the_end() -> None:
    """And a step of nobody's sequence says what to do."""

    async def go(box: Box) -> None:
        assert await box.ask(1, "s", start=True) == 1
        assert await box.ask(1, "s", start=True) == 1
        assert await box.ask(1, "s", end=True) == 2
        assert box.service.sequences.live == 0
        with pytest.raises(CallerError, match="send its first step with sequence_start") as caught:
            await box.ask(1, "s")
        assert caught.value.code is Code.INVALID_INPUT
        assert await box.ask(5, "s", start=True, end=True) == 5
        answers = await asyncio.gather(
            *(box.ask(1, "t", start=True), box.ask(1, "t", end=True), box.ask(7, "t", start=True), box.ask(1, "t"))
        )
        assert answers == [1, 2, 7, 8]
        assert box.registry.find("m").leases == 1

    on_box(go)


def test_slots_are_bounded_and_idle_sequences_give_theirs_back() -> None:
    """Refused at once, with a hint."""

    async def go(box: Box) -> None:
        await box.ask(1, "a", start=True)
        await box.ask(1, "b", start=True)
        with pytest.raises(CallerError, match="2 sequences, as many as it may") as caught:
            await box.ask(1, "c", start=True)
        assert caught.value.code is Code.OVERLOADED
        assert await box.ask(1, "a") == 2
        await until(lambda: not box.service.sequences.live)
        assert await box.ask(1, "c", start=True) == 1
        with pytest.raises(CallerError, match="had no step for"):
            await box.ask(1, "a")

    on_box(go, sequences_max=2, sequence_idle_seconds=0.3)


class Slow:
    """A session whose steps take as long as the test wants; its state is how many steps it has run."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.fail = False
        self.steps = 0

    def step(self, _: Mapping[str, NDArray[Any]], *, fresh: bool) -> dict[str, NDArray[Any]]:
        """Count it."""
        self.steps = 1 if fresh else self.steps + 1
        self.entered.release()
        assert self.gate.wait(10)
        if self.fail:
            raise ContentError("the model failed")
        return {"sum": np.float32([self.steps])}


def test_a_late_step_counts_if_the_model_was_running_it_and_else_changes_nothing() -> None:
    """And the error says which of the two."""

    async def go(box: Box) -> None:
        slow = Slow()
        box.registry.find("m").open_session = lambda: slow  # type: ignore[assignment,return-value]
        first = asyncio.create_task(box.ask(0, "s", start=True))
        await asyncio.to_thread(slow.entered.acquire)
        with pytest.raises(CallerError, match="it has changed nothing"):
            await box.ask(0, "s", seconds=0.02)
        gone = asyncio.create_task(box.ask(0, "s"))
        await asyncio.sleep(0)
        gone.cancel()
        slow.gate.set()
        assert await first == 1
        slow.gate.clear()
        with pytest.raises(CallerError, match="it counts") as caught:
            await box.ask(0, "s", seconds=0.1)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        slow.gate.set()
        assert await box.ask(0, "s") == 3
        slow.fail = True
        with pytest.raises(ContentError, match="'s' has ended"):
            await box.ask(0, "s")
        assert box.service.sequences.live == 0

    on_box(go)


def test_waiting_steps_are_bounded() -> None:
    """The queue of a sequence is as long as that of a model."""

    async def go(box: Box) -> None:
        slow = Slow()
        box.registry.find("m").open_session = lambda: slow  # type: ignore[assignment,return-value]
        first = asyncio.create_task(box.ask(0, "s", start=True))
        await asyncio.to_thread(slow.entered.acquire)
        waiting = [asyncio.create_task(box.ask(0, "s")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(CallerError, match="2 steps of sequence 's' are waiting"):
            await box.ask(0, "s")
        slow.gate.set()
        assert await asyncio.gather(first, *waiting) == [1, 2, 3]

    on_box(go, queue_max_requests=2)


def test_a_sequence_stays_on_its_version_until_it_ends_or_has_lingered_long_enough() -> None:
    """A swap does not mix states, and is over some time."""

    async def go(box: Box) -> None:
        old = box.registry.find("m")
        await box.ask(1, "s", start=True)
        await box.ask(1, "t", start=True)
        new = box.add(accumulator_file(), "2")
        assert await box.ask(1, "s") == 2
        with pytest.raises(CallerError, match="runs on version 1 of 'm', not on 2"):
            await box.ask(1, "s", version="2")
        assert await box.ask(1, "t", start=True) == 1
        assert new.leases == 1
        await until(lambda: not old.leases)
        with pytest.raises(CallerError, match="its version was replaced"):
            await box.ask(1, "s")
        assert await box.ask(1, "t") == 2
        box.registry.remove("m")
        await until(lambda: not new.leases)

    on_box(go, sequence_linger_seconds=0.3)


def test_the_sessions_of_sequences_count_in_the_budget() -> None:
    """And are given back."""

    async def go(box: Box) -> None:
        before = box.residence.loaded_bytes
        await box.ask(1, "s", start=True)
        assert box.residence.loaded_bytes > before
        await box.ask(1, "s", end=True)
        assert box.residence.loaded_bytes == before

    on_box(go)


def test_a_recurrent_model_remembers_in_a_sequence_and_only_there() -> None:
    """Variable tensors (an LSTM's) in place of a resource variable; the same picture twice gives another answer."""
    path = require_shared("models/micro/mnist_lstm_float.tflite")

    async def go() -> None:
        box = Box()
        served = box.add(path, name="lstm")
        spec = served.description.inputs[0]
        picture = {spec.name: np.random.default_rng(1).random(spec.shape, np.float32)}

        async def ask(step: SequenceStep | None = None) -> NDArray[Any]:
            inference = await box.service.infer("lstm", picture, call=Call(sequence=step))
            return next(iter(inference.outputs.values()))

        alone = await ask()
        first, second = await ask(SequenceStep("s", start=True)), await ask(SequenceStep("s"))
        np.testing.assert_array_equal(first, alone)
        assert np.abs(second - first).max() > 1e-6
        np.testing.assert_array_equal(await ask(), alone)
        box.service.close()
        box.registry.close()

    asyncio.run(go())


def test_a_sequence_of_a_model_without_state_just_works() -> None:
    """No slot, no start needed."""
    path = require_shared("models/micro/hello_world_float.tflite")

    async def go() -> None:
        box = Box()
        served = box.add(path, name="sine")
        for _ in range(2):
            call = Call(sequence=SequenceStep("s"))
            await box.service.infer("sine", neutral_inputs(served.description.inputs), call=call)
        assert box.service.sequences.live == 0
        box.service.close()
        box.registry.close()

    asyncio.run(go())


def test_the_state_of_a_sequence_in_a_worker_process_is_lost_with_it_and_that_is_told() -> None:
    """Another worker would go on from nothing, as if it were the caller's state."""

    async def go(box: Box) -> None:
        engine = IsolatedEngine(box.loader.engine, box.config)
        session = engine.open(accumulator_file(), "builtin", 1, "resources")
        box.registry.find("m").open_session = lambda: session
        assert await box.ask(2, "s", start=True) == 2
        assert await box.ask(2, "s") == 4
        pid = session.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(EdgeError, match="process"):
            await box.ask(2, "s")
        with pytest.raises(CallerError, match="sequence_start"):
            await box.ask(2, "s")
        assert await box.ask(2, "s", start=True) == 2
        assert await box.ask(2, "s") == 4
        session.close()

    on_box(go)
