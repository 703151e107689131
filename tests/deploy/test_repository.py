"""Committed versions in and out of memory: at boot, on demand, by the operator; with the real engine."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from benches import ONE, Bench, on_bench
from bundles import digits, digits_content, make
from peers import require_shared
from stateful_models import accumulator

from edge_runtime.contract.bundle import MODEL
from edge_runtime.deploy.repository import IndexEntry
from edge_runtime.deploy.store import State
from edge_runtime.errors import CallerError, Code, DeviceError
from edge_runtime.inference.neutral import neutral_inputs
from edge_runtime.inference.service import Sample
from edge_runtime.system import memory


def model(name: str, **more: object) -> bytes:
    """The example's model under another name."""
    return make({MODEL: digits_content()[MODEL]}, name=name, **more)


def index(bench: Bench) -> list[IndexEntry]:
    """What the repository says."""
    return bench.deployer.repository.index()


def test_what_the_operator_unloads_stays_unloaded_over_a_restart_until_it_is_loaded(tmp_path: Path) -> None:
    """Requests are told what to do; a push of a newer version is meant to be served."""

    async def unload(bench: Bench) -> None:
        assert (await bench.push(digits())).state is State.COMMITTED
        await bench.deployer.repository.unload("digits")
        (entry,) = index(bench)
        assert (entry.state, "by the operator" in entry.reason) == ("UNAVAILABLE", True)

    on_bench(tmp_path, unload)

    async def load(bench: Bench) -> None:
        await bench.deployer.recover()
        await bench.deployer.repository.load_rest()
        with pytest.raises(DeviceError, match="unloaded by the operator; load it") as caught:
            await bench.ask()
        assert caught.value.code is Code.UNAVAILABLE
        await bench.deployer.repository.load("digits")
        assert await bench.ask() == "1.0.0"
        assert index(bench) == [IndexEntry("digits", "1.0.0", "READY", "")]
        await bench.deployer.repository.unload("digits")
        assert (await bench.push(digits("1.1.0"))).state is State.COMMITTED
        assert await bench.ask() == "1.1.0"
        for operation in (bench.deployer.repository.load, bench.deployer.repository.unload):
            with pytest.raises(CallerError, match="not on this box"):
                await operation("nobody")

    on_bench(tmp_path, load)


def test_boot_loads_what_was_used_last_as_far_as_it_fits_and_the_rest_for_a_request(tmp_path: Path) -> None:
    """A box with many models is ready soon; nothing is pushed out only to warm up something else."""
    needed = 0

    async def push(bench: Bench) -> None:
        nonlocal needed
        for name in "abc":
            assert (await bench.push(model(name))).state is State.COMMITTED
        needed = max(bench.residence.loaded_bytes // 3, 1)
        for name in "cab":
            await bench.service.predict(name, Sample(np.zeros((8, 8))))
        await bench.deployer.close()

    on_bench(tmp_path, push)

    async def boot(bench: Bench) -> None:
        bench.residence.budget_bytes = int(needed * 2.9)
        await bench.deployer.recover()
        assert [served.name for served in bench.registry.active() if served.resident] == ["a", "b"]
        await bench.deployer.repository.load_rest()
        assert bench.residence.evictions == 0
        assert all(entry.state == "READY" for entry in index(bench))
        await bench.service.predict("c", Sample(np.zeros((8, 8))))
        assert bench.residence.evictions == 1

    on_bench(tmp_path, boot, engine=replace(ONE, memory_min_resident_seconds=0.0))


def test_a_file_that_broke_while_its_model_was_unloaded_is_found_and_the_version_before_serves(tmp_path: Path) -> None:
    """Just as at boot."""

    async def go(bench: Bench) -> None:
        await bench.push(digits("1.0.0"))
        await bench.push(make(digits_content() | {MODEL: digits_content()[MODEL] + b"\0"}, version="2.0.0"))
        served = bench.registry.find("digits")
        bench.residence.dismiss(served)
        path = bench.store.file(served.manifest)
        assert path is not None
        path.write_bytes(b"\xff" * path.stat().st_size)
        with pytest.raises(DeviceError, match="damaged"):
            await bench.ask()
        assert await bench.ask() == "1.0.0"
        assert "damaged" in (bench.deployer.problem() or "")
        assert [event.kind for event in bench.heard[-2:]] == ["refused", "rolled_back"]

    on_bench(tmp_path, go)


@pytest.mark.parametrize(("isolation", "budget"), [("none", 1000), ("process", 40_000_000)])
def test_a_model_that_alone_exceeds_the_budget_is_refused_with_both_numbers(
    tmp_path: Path, isolation: Literal["none", "process"], budget: int
) -> None:
    """At the push, before it is loaded; what its process takes counts."""

    async def go(bench: Bench) -> None:
        progress = await bench.push(digits())
        assert (progress.state, progress.code) == (State.REFUSED, Code.NO_SPACE)
        assert "engine.memory_budget_bytes" in progress.reason
        assert f"for all models, {budget};" in progress.reason

    on_bench(tmp_path, go, engine=replace(ONE, memory_budget_bytes=budget, isolation=isolation))


def test_an_unloaded_model_gives_its_memory_back_to_the_system(tmp_path: Path) -> None:
    """What counts is what the kernel says."""
    content = require_shared("models/vision/mobilenet_v1_1.0_224_quant.tflite").read_bytes()

    async def go(bench: Bench) -> None:
        assert (await bench.push(make({MODEL: content}, name="big"))).state is State.COMMITTED
        loaded = memory.resident_bytes()
        await bench.deployer.repository.unload("big")
        unloaded = memory.resident_bytes()
        taken = bench.registry.find("big").description.memory_bytes
        assert taken > len(content)
        assert loaded - unloaded > 0.5 * taken
        inputs = neutral_inputs(bench.registry.find("big").description.inputs)
        for _ in range(5):
            await bench.deployer.repository.load("big")
            await bench.service.infer("big", inputs)
            await bench.deployer.repository.unload("big")
        assert memory.resident_bytes() - unloaded < taken

    on_bench(tmp_path, go)


def test_the_probe_finds_what_a_model_keeps_and_what_it_takes(tmp_path: Path) -> None:
    """So that a caller of a model with a resource variable meets nobody else's sum, from the first request on."""

    async def go(bench: Bench) -> None:
        assert (await bench.push(make({MODEL: accumulator()}, name="sum"))).state is State.COMMITTED
        description = bench.registry.find("sum").description
        assert (description.state, description.control_flow) == ("resources", True)
        answers = [await bench.service.infer("sum", {"x": np.float32([2])}) for _ in range(3)]
        assert [float(answer.outputs["sum"][0]) for answer in answers] == [2, 2, 2]

    on_bench(tmp_path, go)
