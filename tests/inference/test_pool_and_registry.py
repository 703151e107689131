"""Bounded, fair, and never a session lost: the pool; leases and atomic swaps: the registry."""

import asyncio
import threading
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.config import EngineConfig
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError, Code, ContentError, DeviceError
from edge_runtime.inference.admission import Admission
from edge_runtime.inference.call import Call
from edge_runtime.inference.description import Description
from edge_runtime.inference.pool import Pool
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.workers import Workers

SPEC = TensorSpec("x", "FP32", (1,))
TENSORS = {"x": np.zeros(1, np.float32)}


class Gate:
    """A session that answers when it is let through, and notes whether two calls ever met in it."""

    inputs = outputs = (SPEC,)

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.busy = threading.Lock()
        self.fail = False

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Wait for the gate."""
        assert self.busy.acquire(blocking=False), "two calls in one session"
        try:
            self.entered.release()
            assert self.open.wait(10)
            if self.fail:
                raise ContentError("broken")
            return dict(tensors)
        finally:
            self.busy.release()


def soon() -> float:
    """A deadline that a test does not reach."""
    return time.monotonic() + 10


def test_calls_wait_for_a_session_and_each_gets_its_answer() -> None:
    """Ten callers, one session, never two calls in it."""

    async def go() -> None:
        gate = Gate()
        pool = Pool([gate], max_waiting=10, inline_bytes=0)
        calls = [asyncio.create_task(pool.run({"x": np.float32([i])}, Call(deadline=soon()))) for i in range(10)]
        await asyncio.to_thread(gate.entered.acquire)
        gate.open.set()
        assert [float(answer["x"][0]) for answer in await asyncio.gather(*calls)] == list(range(10))
        assert (pool.busy, pool.waiting) == (0, 0)
        pool.close()

    asyncio.run(go())


def test_a_full_queue_answers_at_once() -> None:
    """Overload is an answer, not a longer queue."""

    async def go() -> None:
        gate = Gate()
        pool = Pool([gate], max_waiting=1, inline_bytes=0)
        calls = [asyncio.create_task(pool.run(TENSORS, Call(deadline=soon()))) for _ in range(2)]
        await asyncio.to_thread(gate.entered.acquire)
        with pytest.raises(CallerError) as caught:
            await pool.run(TENSORS, Call(deadline=soon()))
        assert caught.value.code is Code.OVERLOADED
        gate.open.set()
        await asyncio.gather(*calls)
        pool.close()

    asyncio.run(go())


def test_a_late_call_is_dropped_and_its_session_comes_back() -> None:
    """Whether it waited for a session or was running in one."""

    async def go() -> None:
        gate = Gate()
        pool = Pool([gate], max_waiting=5, inline_bytes=0)
        late = [asyncio.create_task(pool.run(TENSORS, Call(deadline=time.monotonic() + 0.05))) for _ in range(2)]
        for result in await asyncio.gather(*late, return_exceptions=True):
            assert isinstance(result, CallerError)
            assert result.code is Code.DEADLINE_EXCEEDED
        assert pool.waiting == 0
        gate.open.set()
        await pool.run(TENSORS, Call(deadline=soon()))
        assert pool.busy == 0
        pool.close()

    asyncio.run(go())


def test_a_cancelled_caller_loses_no_session() -> None:
    """Callers hang up at every point."""

    async def go() -> None:
        gate = Gate()
        pool = Pool([gate], max_waiting=5, inline_bytes=0)
        calls = [asyncio.create_task(pool.run(TENSORS, Call(deadline=soon()))) for _ in range(3)]
        await asyncio.to_thread(gate.entered.acquire)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        gate.open.set()
        await pool.run(TENSORS, Call(deadline=soon()))
        assert (pool.busy, pool.waiting) == (0, 0)
        pool.close()

    asyncio.run(go())


def test_a_failing_model_gives_its_session_back() -> None:
    """An error is an answer, too."""

    async def go() -> None:
        gate = Gate()
        gate.fail = True
        gate.open.set()
        for inline_bytes in (0, 100):
            pool = Pool([gate], max_waiting=0, inline_bytes=inline_bytes)
            for _ in range(3):
                with pytest.raises(ContentError):
                    assert pool.run_now(TENSORS) or await pool.run(TENSORS, Call(deadline=soon()))
            assert pool.busy == 0
            pool.close()

    asyncio.run(go())


def test_a_box_that_can_start_no_thread_loses_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is told, and the next one is answered; nobody runs what was given up."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def go() -> None:
        gate, workers = Gate(), Workers(0)
        gate.open.set()
        pool = Pool([gate], max_waiting=1, inline_bytes=0)
        monkeypatch.setattr("edge_runtime.inference.pool._THREADS", ThreadPoolExecutor(1))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(DeviceError, match="no thread") as caught:
                await pool.run(TENSORS, Call())
            for _ in range(20):
                with pytest.raises(RuntimeError):
                    await workers.run(10**6, time.monotonic)
        assert caught.value.code is Code.OVERLOADED
        assert pool.busy == 0
        await pool.run(TENSORS, Call(deadline=soon()))
        assert gate.entered.acquire(timeout=10)
        assert not gate.entered.acquire(blocking=False)
        assert workers._inside == 0

    asyncio.run(go())


def test_models_that_are_used_in_turn_share_their_threads() -> None:
    """Fifty models do not keep fifty threads."""

    async def go() -> None:
        before, gate = threading.active_count(), Gate()
        gate.open.set()
        pools = [Pool([gate], max_waiting=1, inline_bytes=0) for _ in range(50)]
        for pool in pools:
            await pool.run(TENSORS, Call(deadline=soon()))
        assert threading.active_count() <= before + 2
        for pool in pools:
            pool.close()

    asyncio.run(go())


def test_a_closed_pool_answers_whoever_is_inside_and_keeps_no_session() -> None:
    """Those who wait for a session, too."""

    async def go() -> None:
        gate = Gate()
        kept = weakref.ref(gate)
        pool = Pool([gate], max_waiting=1, inline_bytes=0)
        calls = [asyncio.create_task(pool.run(TENSORS, Call(deadline=soon()))) for _ in range(2)]
        await asyncio.to_thread(gate.entered.acquire)
        pool.close()
        gate.open.set()
        assert len(await asyncio.gather(*calls)) == 2
        del gate, calls
        async with asyncio.timeout(5):
            while kept() is not None:  # noqa: ASYNC110 - the thread that ran it lets go of it a moment later
                await asyncio.sleep(0.01)

    asyncio.run(go())


class ClosingPool(Pool):
    """A pool that says when it was closed."""

    closed = False

    def close(self) -> None:
        """Note it."""
        self.closed = True
        super().close()


def served(version: str, name: str = "m") -> ServedVersion:
    """A version with a pool of one gate."""
    description = Description("e", "1", "fast", "raw", (SPEC,), (SPEC,))
    pool = ClosingPool([Gate()], max_waiting=1, inline_bytes=0)
    admission = Admission(description, EngineConfig())
    return ServedVersion(Manifest(name, version, {}), f"digest-{version}", description, pool, admission)


def closed(version: ServedVersion) -> bool:
    """Whether its pool was closed."""
    assert isinstance(version.runner, ClosingPool)
    return version.runner.closed


def test_a_swap_keeps_the_old_version_warm_and_closes_the_one_before() -> None:
    """One step back is always possible at once."""
    registry, (one, two, three) = Registry(), [served(v) for v in ("1", "2", "3")]
    assert registry.swap(one) is None
    assert registry.swap(two) is one
    registry.swap(three)
    assert closed(one)
    assert not closed(two)
    assert registry.find("m").version == "3"
    assert registry.find("m", "2") is two


def test_a_leased_version_stays_until_its_last_lease_ends() -> None:
    """Requests in flight finish on the version they began with."""
    registry, (one, two, three) = Registry(), [served(v) for v in ("1", "2", "3")]
    registry.swap(one)
    with registry.lease("m") as held:
        registry.swap(two)
        registry.swap(three)
        assert held is one
        assert not closed(one)
    assert closed(one)


def test_swapping_back_restores_the_warm_version_or_removes_the_model() -> None:
    """A failed trial leaves what was there before, which may be nothing."""
    registry, (one, two) = Registry(), [served(v) for v in ("1", "2")]
    registry.swap(one)
    registry.swap(two)
    assert registry.swap_back("m") is one
    assert closed(two)
    assert registry.swap_back("m") is None
    with pytest.raises(CallerError, match="not on this box"):
        registry.find("m")


def test_close_retires_everything() -> None:
    """Nothing stays loaded at the end."""
    registry, versions = Registry(), [served("1", "a"), served("1", "b")]
    for version in versions:
        registry.swap(version)
    registry.close()
    assert all(map(closed, versions))
    assert registry.active() == ()
