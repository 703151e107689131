"""The memory budget: who goes, who stays, who waits, and that a model that went comes back for a request."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.config import EngineConfig
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError, Code, ContentError, DeviceError
from edge_runtime.events import EventBus
from edge_runtime.inference import residence
from edge_runtime.inference.admission import Admission
from edge_runtime.inference.call import Call
from edge_runtime.inference.description import Description
from edge_runtime.inference.pool import Pool
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.residence import Residence
from edge_runtime.inference.selfcheck import SelfCheck
from edge_runtime.inference.service import InferenceService
from edge_runtime.system import memory

SPEC = TensorSpec("x", "FP32", (1,))
TENSORS = {"x": np.zeros(1, np.float32)}
MODEL_BYTES = 1000


class Echo:
    """A session that answers what it was asked, once its gate is open."""

    inputs = outputs = (SPEC,)
    sample_bytes = 4

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.gate = gate

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The input."""
        assert self.gate is None or self.gate.wait(10)
        return dict(tensors)


class Box:
    """Models of 1000 bytes each, and a budget; a model is loaded as soon as `opening` is set."""

    def __init__(self, budget: int, *, pinned: str = "", **config: Any) -> None:
        self.config = EngineConfig(
            **({"memory_budget_bytes": budget, "memory_min_resident_seconds": 0.0} | config)  # type: ignore[arg-type]
        )
        self.registry, self.residence = Registry(), Residence(self.config, frozenset([pinned]))
        self.service = InferenceService(self.registry, EventBus(), self.config)
        self.residence.open = self._open
        self.opened: list[str] = []
        self.opening = asyncio.Event()
        self.opening.set()
        self.error: Exception | None = None

    async def _open(self, served: ServedVersion) -> Pool:
        self.opened.append(served.name)
        await self.opening.wait()
        if self.error:
            raise self.error
        return Pool([Echo()], max_waiting=8, inline_bytes=0)

    def add(self, name: str, version: str = "1", gate: threading.Event | None = None) -> ServedVersion:
        """Serve one more, in memory."""
        description = Description("e", "1", "fast", "raw", (SPEC,), (SPEC,), memory_bytes=MODEL_BYTES)
        pool = Pool([Echo(gate)], max_waiting=8, inline_bytes=0)
        served = ServedVersion(
            Manifest(name, version, {}), f"{name}{version}", description, pool, Admission(description, self.config)
        )
        self.registry.swap(served)
        self.residence.adopt(served)
        return served

    async def ask(self, name: str, seconds: float = 5.0, version: str | None = None) -> None:
        """One request."""
        call = Call(deadline=time.monotonic() + seconds)
        await self.service.infer(name, TENSORS, version=version, call=call)

    def resident(self) -> str:
        """Names of the active models that are in memory."""
        return "".join(served.name for served in self.registry.active() if served.resident)

    async def close(self) -> None:
        """End it."""
        await self.residence.close()
        self.registry.close()
        self.service.close()


def on_box(go: Callable[[Box], Awaitable[None]], budget: int = 2 * MODEL_BYTES, **more: Any) -> None:
    """Run `go` with a box."""

    async def run() -> None:
        box = Box(budget, **more)
        try:
            await go(box)
        finally:
            await box.close()

    asyncio.run(run())


def test_the_least_recently_used_goes_and_comes_back_for_a_request() -> None:
    """Never more than the budget, never an error."""

    async def go(box: Box) -> None:
        a, b, c = (box.add(name) for name in "abc")
        box.residence.dismiss(c)
        await box.ask("b")
        await box.ask("a")
        await box.ask("c")
        assert box.resident() == "ac"
        assert not b.resident
        await box.ask("b")
        assert box.resident() == "bc"
        assert (box.residence.loads, box.residence.evictions) == (2, 2)
        assert box.residence.loaded_bytes == 2 * MODEL_BYTES
        assert a.stats.requests == 1
        assert "memory budget" in box.residence.reason(a)

    on_box(go)


def test_previous_versions_go_before_active_ones_and_are_still_there_to_be_asked_for() -> None:
    """However lately they were used."""

    async def go(box: Box) -> None:
        box.add("a")
        box.add("a", "2")
        other = box.add("b")
        box.residence.dismiss(other)
        await box.ask("a", version="1")
        await box.ask("b")
        assert box.resident() == "ab"
        await box.ask("a", version="1")
        assert box.resident() == "b"

    on_box(go)


def test_models_that_are_held_or_pinned_stay_and_others_are_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full box answers; nobody is thrown out who must not be."""
    monkeypatch.setattr(residence, "_ROOM_SECONDS", 0.7)

    async def go(box: Box) -> None:
        held, _, late = (box.add(name) for name in "abc")
        box.residence.dismiss(late)
        with held.held(), pytest.raises(CallerError, match="of 2000 are taken") as caught:
            await box.ask("c", 20)
        assert caught.value.code is Code.OVERLOADED
        assert box.resident() == "ab"
        await box.ask("c")
        assert box.resident() == "bc"

    on_box(go, pinned="b")


def test_many_callers_wait_for_one_load_each_with_its_own_deadline() -> None:
    """And those who give up do not end it."""

    async def go(box: Box) -> None:
        box.residence.dismiss(box.add("a"))
        box.opening.clear()
        patient = [asyncio.create_task(box.ask("a")) for _ in range(5)]
        with pytest.raises(CallerError, match="not loaded within the deadline") as caught:
            await box.ask("a", 0.01)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        patient.pop().cancel()
        box.opening.set()
        await asyncio.gather(*patient)
        assert box.opened == ["a"]

    on_box(go)


def test_too_many_waiting_callers_are_refused_at_once() -> None:
    """The queue in front of a load is bounded as every other."""

    async def go(box: Box) -> None:
        box.residence.dismiss(box.add("a"))
        box.opening.clear()
        waiting = [asyncio.create_task(box.ask("a")) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(CallerError, match="3 wait for 'a' to be loaded"):
            await box.ask("a")
        box.opening.set()
        await asyncio.gather(*waiting)

    on_box(go, queue_max_requests=3)


def test_a_model_that_cannot_be_loaded_says_why_and_is_not_tried_for_every_request() -> None:
    """Until somebody asks for it in so many words."""

    async def go(box: Box) -> None:
        served = box.add("a")
        box.residence.dismiss(served)
        box.error = ContentError("the engine refuses the model: it is cursed")
        for _ in range(3):
            with pytest.raises(ContentError, match="it is cursed"):
                await box.ask("a")
        assert box.opened == ["a"]
        assert "cursed" in box.residence.reason(served)
        box.error = None
        box.residence.readmit(served)
        await box.ask("a")

    on_box(go)


def test_a_model_that_no_longer_fits_at_all_says_so_and_pushes_nobody_out() -> None:
    """The budget was lowered: to try again later would not help."""

    async def go(box: Box) -> None:
        served = box.add("a")
        box.add("b")
        box.residence.dismiss(served)
        box.residence.budget_bytes = MODEL_BYTES - 1
        with pytest.raises(DeviceError, match=r"takes 1000 bytes .* 999; raise engine\.memory_budget_bytes") as caught:
            await box.ask("a")
        assert caught.value.code is Code.NO_SPACE
        assert "999" in box.residence.reason(served)
        assert (box.opened, box.resident()) == ([], "b")

    on_box(go)


def test_a_model_that_the_operator_unloaded_is_not_loaded_for_a_request() -> None:
    """It answers what to do; what was running is answered."""

    async def go(box: Box) -> None:
        gate = threading.Event()
        served = box.add("a", gate=gate)
        running = asyncio.create_task(box.ask("a"))
        await asyncio.sleep(0)
        box.residence.dismiss(served, "unloaded by the operator")
        with pytest.raises(DeviceError, match="by the operator") as caught:
            await box.ask("a")
        assert caught.value.code is Code.UNAVAILABLE
        gate.set()
        await running
        assert box.opened == []

    on_box(go)


def test_a_model_stays_for_a_while_once_loaded_so_that_two_that_do_not_fit_both_get_work_done() -> None:
    """Thrashing is bounded, and told."""

    async def go(box: Box) -> None:
        box.add("a")
        box.residence.dismiss(box.add("b"))
        until, answers = time.monotonic() + 1.5, {"a": 0, "b": 0}

        async def keep_asking(name: str) -> None:
            while time.monotonic() < until:
                await box.ask(name, 10)
                answers[name] += 1

        await asyncio.gather(*(keep_asking(name) for name in "abab"))
        assert box.residence.loads <= 1.5 / 0.2 + 2
        assert min(answers.values()) > 10

    on_box(go, MODEL_BYTES, memory_min_resident_seconds=0.2)


def test_a_model_that_is_never_idle_makes_room_all_the_same_and_loses_no_request() -> None:
    """Its callers wait for their turn, the calls in it are answered."""

    async def go(box: Box) -> None:
        box.residence.dismiss(box.add("b"))
        box.add("a")
        stop = asyncio.Event()

        async def keep_asking() -> None:
            while not stop.is_set():
                await box.ask("a", 20)

        busy = [asyncio.create_task(keep_asking()) for _ in range(3)]
        await asyncio.sleep(0.01)
        await box.ask("b", 20)
        stop.set()
        await asyncio.gather(*busy)

    on_box(go, MODEL_BYTES)


def test_what_is_larger_than_the_budget_pushes_nobody_out() -> None:
    """It is refused with both numbers."""

    async def go(box: Box) -> None:
        served = box.add("a")
        with pytest.raises(CallerError, match="3000 bytes are needed, more than the budget for all models, 2000"):
            await box.residence.reserve(3 * MODEL_BYTES)
        with pytest.raises(DeviceError, match=r"takes 2001 bytes .* 2000") as caught:
            box.residence.check_fits(served.manifest, 2001)
        assert caught.value.code is Code.NO_SPACE
        assert box.resident() == "a"

    on_box(go)


def test_the_health_check_loads_nothing() -> None:
    """Else it would push out what is in use."""

    async def go(box: Box) -> None:
        box.residence.dismiss(box.add("a"))
        assert await SelfCheck(box.registry).run() is None
        box.add("b")
        assert await SelfCheck(box.registry).run() is None
        assert box.opened == []

    on_box(go)


def test_a_version_that_is_retired_while_it_is_loaded_leaves_nothing_behind() -> None:
    """The request that asked for it is answered."""

    async def go(box: Box) -> None:
        box.residence.dismiss(box.add("a"))
        box.opening.clear()
        asked = asyncio.create_task(box.ask("a"))
        await asyncio.sleep(0)
        box.registry.remove("a")
        box.opening.set()
        await asked
        assert box.residence.loaded_bytes == 0

    on_box(go)


def test_the_memory_of_this_box_is_known() -> None:
    """A control group's limit counts where it is less."""
    assert 2**20 < memory.resident_bytes() < memory.available_bytes() <= 2**50
    assert memory.budget_bytes(0) == 0
    assert memory.budget_bytes(None) == memory.available_bytes() // 2
