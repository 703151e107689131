"""A caller's batch is answered whatever the engine takes at once: row by row what single runs give."""

import asyncio
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import DIGITS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.config import EngineConfig
from edge_runtime.contract.bundle import MODEL, BundleReader
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference import engine
from edge_runtime.inference.admission import Admission
from edge_runtime.inference.call import Call
from edge_runtime.inference.description import Description
from edge_runtime.inference.loader import Loader
from edge_runtime.inference.pool import Pool
from edge_runtime.inference.splitter import Splitter

ONE = TensorSpec("x", "FP32", (1, 2))


def soon() -> float:
    """A deadline that a test does not reach."""
    return time.monotonic() + 10


def numbered(samples: int) -> dict[str, NDArray[Any]]:
    """As many different samples."""
    return {"x": np.arange(2 * samples, dtype=np.float32).reshape(samples, 2)}


class OneByOne:
    """A session that takes up to `rows` samples, squares them, and can be made to wait before each run."""

    inputs = outputs = (ONE,)
    sample_bytes = 100

    def __init__(self, rows: int = 1) -> None:
        self.rows = rows
        self.sizes: list[int] = []
        self.entered = threading.Semaphore(0)
        self.let = threading.Semaphore(1_000_000)

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Squares."""
        self.sizes.append(len(tensors["x"]))
        assert self.sizes[-1] <= self.rows
        self.entered.release()
        assert self.let.acquire(timeout=10)
        return {"y": tensors["x"] ** 2}


@settings(deadline=None, max_examples=50)
@given(samples=st.integers(1, 40), rows=st.integers(1, 8), sessions=st.integers(1, 4))
def test_a_batch_is_answered_row_by_row(samples: int, rows: int, sessions: int) -> None:
    """However many sessions share it, and in whatever portions."""

    async def go() -> None:
        workers = [OneByOne(rows) for _ in range(sessions)]
        splitter = Splitter(Pool(workers, max_waiting=0, inline_bytes=0), rows)
        answer = await splitter.run(numbered(samples), Call(deadline=soon()))
        assert np.array_equal(answer["y"], numbered(samples)["x"] ** 2)
        assert sum(sum(worker.sizes) for worker in workers) == samples
        assert (splitter.size, splitter.busy, splitter.waiting) == (sessions, 0, 0)
        splitter.close()

    asyncio.run(go())


def test_a_batch_that_nobody_waits_for_is_not_run_to_its_end() -> None:
    """Its caller's deadline passes during the first of a thousand samples."""

    async def go() -> None:
        session = OneByOne()
        session.let = threading.Semaphore(0)
        splitter = Splitter(Pool([session], max_waiting=1, inline_bytes=0), 1)
        with pytest.raises(CallerError) as caught:
            await splitter.run(numbered(1000), Call(deadline=time.monotonic() + 0.05))
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        for _ in range(1000):
            session.let.release()
        await splitter.run(numbered(1), Call(deadline=soon()))
        assert session.sizes == [1, 1]
        splitter.close()

    asyncio.run(go())


def test_outputs_without_rows_are_told_and_not_guessed() -> None:
    """An output that does not grow with the samples cannot be cut up."""

    async def go() -> None:
        session = OneByOne()
        session.run = lambda tensors: {"y": np.float32(1)}  # type: ignore[assignment,method-assign,return-value]
        splitter = Splitter(Pool([session], max_waiting=0, inline_bytes=0), 1)
        with pytest.raises(CallerError, match="one by one"):
            await splitter.run(numbered(2), Call(deadline=soon()))
        splitter.close()

    asyncio.run(go())


def admission(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Admission:
    """Of a model with these tensors, and 10 samples at most."""
    description = Description("e", "1", "fast", "raw", inputs, outputs, sample_bytes=100)
    return Admission(description, EngineConfig(max_batch_bytes=1000))


def test_what_batches_are_admitted_for_a_model_of_one_sample() -> None:
    """As many as the bound allows, where every answer can be told from the next; else the reason."""
    takes = admission((ONE,), (ONE,))
    takes.check(numbered(10))
    for tensors, message in (
        (numbered(11), "send them in parts"),
        (numbered(0), "must have the shape"),
        ({"x": np.zeros((2, 3), np.float32)}, "must have the shape"),
    ):
        with pytest.raises(CallerError, match=message):
            takes.check(tensors)
    two = admission((ONE, TensorSpec("z", "FP32", (1,))), (ONE,))
    with pytest.raises(CallerError, match="same number of samples"):
        two.check(numbered(2) | {"z": np.zeros(3, np.float32)})
    grid = admission((ONE,), (TensorSpec("grid", "FP32", (20, 4)),))
    grid.check(numbered(1))
    with pytest.raises(CallerError, match="'grid' of this model has no dimension for samples"):
        grid.check(numbered(2))


@pytest.mark.parametrize("name", engine.available())
def test_the_digits_model_of_one_sample_answers_a_batch(name: str, tmp_path: Path) -> None:
    """A real model that no engine can resize (its Reshape is fixed)."""
    model = tmp_path / MODEL
    with BundleReader(DIGITS) as reader:
        model.write_bytes(reader.read_member(MODEL))
    loader = Loader(EngineConfig(name=name, instances=2))  # type: ignore[arg-type]
    session = loader.engine.open(model, "builtin", 1)
    description = Description(name, "1", "builtin", "raw", session.inputs, session.outputs, sample_bytes=1)
    served = loader.load(Manifest("digits", "1", {}), description, model)
    (spec,) = session.inputs
    values = np.random.default_rng(0).integers(-128, 127, (7, *spec.shape[1:])).astype(spec.datatype.lower())

    async def go() -> None:
        served.admission.check({spec.name: values})
        together = await served.runner.run({spec.name: values}, Call(deadline=soon()))
        for i in range(7):
            alone = session.run({spec.name: values[i : i + 1]})
            for output, rows in together.items():
                assert np.array_equal(rows[i : i + 1], alone[output])
        served.retire()

    asyncio.run(go())
