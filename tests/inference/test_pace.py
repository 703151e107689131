"""Who cannot be answered in time is told at once, and the engine works for those who can."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.config import EngineConfig
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.admission import Admission
from edge_runtime.inference.batcher import Batcher
from edge_runtime.inference.call import Call
from edge_runtime.inference.description import Description
from edge_runtime.inference.pace import Pace
from edge_runtime.inference.pool import Pool
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.selfcheck import SelfCheck

RUN_SECONDS = 0.02
SPEC = TensorSpec("x", "FP32", (-1, 1))
TENSORS = {"x": np.zeros((1, 1), np.float32)}


class Slow:
    """A session that always takes as long, whatever it is given, and counts its runs."""

    inputs = outputs = (SPEC,)
    sample_bytes = 4

    def __init__(self) -> None:
        self.runs = 0

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Take the time."""
        self.runs += 1
        time.sleep(RUN_SECONDS)
        return dict(tensors)


def test_the_estimate_follows_what_runs_take() -> None:
    """And without one, or without a deadline, nobody is refused."""
    pace, now = Pace(), time.monotonic()
    pace.check(1000, now + 0.001)
    pace.note(1.0)
    pace.check(1000, float("inf"))
    pace.check(1, now + 10)
    with pytest.raises(CallerError) as caught:
        pace.check(10, now + 10)
    assert caught.value.code is Code.OVERLOADED
    assert (pace.hopeless(now + 0.5), pace.hopeless(now + 5)) == (True, False)
    for _ in range(50):
        pace.note(0.1)
    assert pace.run_seconds == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize("batched", [False, True])
def test_overload_with_a_deadline_wastes_no_run(*, batched: bool) -> None:
    """Of two hundred callers at once, most are refused at once, and each run is for somebody."""

    async def go() -> None:
        session = Slow()
        pool = Pool([session], max_waiting=1000, inline_bytes=0)
        runner = Batcher(pool, rows=2, delay_seconds=0.0, max_waiting=1000) if batched else pool
        await runner.run(TENSORS, Call(deadline=time.monotonic() + 10))  # from now on it is known what a run takes
        began, refused, late = time.monotonic(), [], []

        async def ask() -> int:
            try:
                await runner.run(TENSORS, Call(deadline=began + 30 * RUN_SECONDS))
            except CallerError as error:
                (refused if error.code is Code.OVERLOADED else late).append(time.monotonic() - began)
                return 0
            return 1

        answered = sum(await asyncio.gather(*(ask() for _ in range(200))))
        assert answered >= 10
        assert session.runs - 1 <= answered + 2, "the engine worked for nobody"
        assert len(refused) >= 100
        assert max(refused) < 10 * RUN_SECONDS
        assert answered + len(refused) + len(late) == 200
        await runner.run(TENSORS, Call(deadline=time.monotonic() + 10 * RUN_SECONDS))  # who finds it idle is served
        assert (pool.busy, runner.waiting) == (0, 0)
        runner.close()

    asyncio.run(go())


def test_a_box_that_is_overloaded_is_alive() -> None:
    """The self-check is refused like everybody; that others have their answers is the proof."""

    async def go() -> None:
        session = Slow()
        pool = Pool([session], max_waiting=3, inline_bytes=0)
        description = Description("e", "1", "fast", "raw", (SPEC,), (SPEC,))
        served = ServedVersion(Manifest("m", "1", {}), "d", description, pool, Admission(description, EngineConfig()))
        registry = Registry()
        registry.swap(served)

        async def ask_on_and_on() -> None:
            while True:
                call = Call(deadline=time.monotonic() + 10)
                try:
                    await pool.run(TENSORS, call)
                    served.stats.answered(RUN_SECONDS, call)
                except CallerError:
                    await asyncio.sleep(RUN_SECONDS / 10)

        askers = [asyncio.create_task(ask_on_and_on()) for _ in range(8)]
        await asyncio.sleep(2 * RUN_SECONDS)
        assert [await SelfCheck(registry).run() for _ in range(5)] == [None] * 5
        for asker in askers:
            asker.cancel()
        await asyncio.gather(*askers, return_exceptions=True)
        registry.close()

    asyncio.run(go())
