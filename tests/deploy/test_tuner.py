"""The tuner with its real child processes and real engines; and what it makes of children that die."""

import asyncio
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benches import Bench
from bundles import digits
from peers import require_shared

from edge_runtime.config import DeployConfig, EngineConfig, ModelConfig
from edge_runtime.contract import bundle, strict
from edge_runtime.contract.manifest import Manifest, Parity
from edge_runtime.deploy import child, tune_child
from edge_runtime.deploy.child import Ended
from edge_runtime.deploy.probe import Job
from edge_runtime.deploy.probe_child import examine
from edge_runtime.deploy.tuner import Tuner
from edge_runtime.deploy.tuning_job import Line, TuningJob
from edge_runtime.errors import ContentError
from edge_runtime.inference import engine
from edge_runtime.inference.tuning import Tuning
from edge_runtime.system import cpu
from edge_runtime.system.cpu import Cpu

QUICK = EngineConfig(tune_seconds=0.3)
DEPLOY = DeployConfig()


def job_of(folder: Path, content: dict[str, bytes], config: EngineConfig = QUICK, **more: object) -> TuningJob:
    """What a child is asked about a bundle of these members; the probe has looked at it."""
    for name, data in content.items():
        (folder / name).write_bytes(data)
    manifest = Manifest("m", "1.0.0", {name: bundle.entry(data) for name, data in content.items()}, **more)  # type: ignore[arg-type]
    text, model = manifest.canonical().decode(), str(folder / bundle.MODEL)
    golden = str(folder / bundle.GOLDEN) if bundle.GOLDEN in content else None
    description = examine(Job(model, text, engine.choose().name, "auto", 1, 2**40, 1000, golden=golden))
    return TuningJob(model, text, description, config, "a CPU", 2, 2**40, 1000, golden=golden)


def tuned(job: TuningJob) -> Tuning:
    """What is measured, in this process."""
    return tune_child.tune(job, lambda _: None)


def dropped(tuning: Tuning) -> str:
    """All reasons."""
    return "\n".join(sorted({measurement.dropped for measurement in tuning.measurements}))


def model_bytes(name: str) -> dict[str, bytes]:
    """A bundle's only member."""
    return {bundle.MODEL: require_shared(f"models/{name}.tflite").read_bytes()}


def golden_of(content: dict[str, bytes], folder: Path) -> bytes:
    """Answers of the built-in kernels to random inputs."""
    path = folder / "golden-source.tflite"
    path.write_bytes(content[bundle.MODEL])
    session = engine.choose().open(path, "builtin", 1)
    (given,), (found,) = session.inputs, session.outputs
    random = np.random.default_rng(0)
    inputs = random.integers(-128, 127, (8, 1, *given.shape[1:])).astype(np.int8)
    outputs = np.stack([session.run({given.name: row})[found.name] for row in inputs])
    file = io.BytesIO()
    np.savez(file, **{f"input/{given.name}": inputs, f"output/{found.name}": outputs})  # type: ignore[arg-type]
    return file.getvalue()


def test_kernels_that_are_not_faithful_are_dropped_with_the_numbers(tmp_path: Path) -> None:
    """ResNet-8 in int8: the fast kernels are steps away from the built-in ones (DESIGN.md, decision 2)."""
    content = model_bytes("mlperf_tiny/ic_resnet8_int8")
    content[bundle.GOLDEN] = golden_of(content, tmp_path)
    job = job_of(tmp_path, content, parity=Parity(tolerance=0.001))
    if engine.choose().name == "litert":
        assert job.description.kernels == "builtin"  # the probe saw it, too
    tuning = tuned(job)
    assert "not faithful to the golden vectors" in dropped(tuning)
    assert "largest difference" in dropped(tuning)
    assert all(m.setup.kernels == "builtin" for m in tuning.measurements if not m.dropped)
    assert tuning.inputs == "golden"
    best = tuning.best("throughput")
    assert best is not None
    assert best.setup.kernels == "builtin"


def test_a_quick_model_runs_on_the_loop_and_a_slow_one_never(tmp_path: Path) -> None:
    """Handing a call over costs more than this one takes; the other would hold up everybody."""
    best = tuned(job_of(tmp_path, model_bytes("micro/hello_world_int8"))).best("latency")
    assert best is not None
    assert best.setup.inline
    slow = tuned(job_of(tmp_path, model_bytes("vision/mobilenet_v1_1.0_224_quant")))
    assert not any(m.setup.inline for m in slow.measurements if not m.dropped)
    assert "hold up the event loop" in dropped(slow)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vision/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29", "no batches: "),  # a Reshape to a fixed size
        ("micro/mnist_lstm_int8", "no batches: the model keeps state"),
        ("micro/hello_world_int8", ""),
    ],
)
def test_batches_are_measured_only_where_rows_are_proven_to_be_those_of_single_runs(
    tmp_path: Path, name: str, reason: str
) -> None:
    """Or the reason is told."""
    tuning = tuned(job_of(tmp_path, model_bytes(name)))
    batched = [m for m in tuning.measurements if m.setup.batch > 1 and not m.dropped]
    assert bool(batched) == (not reason)
    assert reason in dropped(tuning)


def test_too_little_time_leaves_what_is_usual(tmp_path: Path) -> None:
    """It is measured, whatever it takes; the rest is said not to be."""
    job = job_of(tmp_path, model_bytes("vision/mobilenet_v1_1.0_224_quant"), EngineConfig(tune_seconds=0.001))
    tuning = tuned(job)
    best = tuning.best("throughput")
    assert best is not None
    assert best.setup == tuning.usual
    assert "tune_seconds" in dropped(tuning)


def test_what_killed_a_child_before_is_left_out(tmp_path: Path) -> None:
    """Kernels, a batch or one setup."""
    job = job_of(tmp_path, model_bytes("micro/hello_world_int8"), replace(QUICK, tune_seconds=0.1))
    died = {"fast kernels, 1 thread(s)": "SIGSEGV", "a batch": "SIGFPE", "1 x 2 threads, builtin kernels": "SIGABRT"}
    tuning = tuned(replace(job, crashed=died))
    assert all(f"crashed: the engine died with {name}" in dropped(tuning) for name in died.values())
    assert {m.setup.kernels for m in tuning.measurements if not m.dropped} == {"builtin"}


# The daemon's side


class Box:
    """A tuner on a bench with the digits model committed."""

    def __init__(self, folder: Path, *models: ModelConfig) -> None:
        self.bench = Bench(folder)
        self.models = models
        asyncio.run(self._push())
        served = self.bench.store.served("digits")
        assert served
        known = self.bench.store.version(served[0])
        assert known
        assert known.description
        self.manifest, self.description = known.manifest, known.description

    async def _push(self) -> None:
        await self.bench.push(digits())

    def tuner(self, config: EngineConfig = QUICK) -> Tuner:
        """As one daemon would have it."""
        return Tuner(DEPLOY, config, self.models, self.bench.store)

    def measured(self, tuner: Tuner | None = None, **more: object) -> Tuning:
        """By real children, unless they are replaced."""
        return asyncio.run((tuner or self.tuner()).measure(self.manifest, self.description, **more))  # type: ignore[arg-type]


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """See above."""
    return Box(tmp_path)


def test_it_is_measured_once_for_this_model_engine_and_processor(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another daemon finds it; another board, engine or fixed setting does not."""
    progress: list[float] = []
    assert box.tuner().wanted(box.manifest, box.description)
    tuning = box.measured(progress=progress.append)
    assert tuning.cpu == cpu.identity().model
    assert progress == sorted(progress)
    assert progress[-1] == 1
    assert box.tuner().known(box.manifest, box.description) == tuning
    assert not box.tuner().wanted(box.manifest, box.description)
    updated = replace(box.description, engine_version="99")
    assert box.tuner().wanted(box.manifest, updated)
    assert box.tuner(replace(QUICK, threads=2)).wanted(box.manifest, box.description)
    assert not box.tuner(replace(QUICK, objective="latency")).wanted(box.manifest, box.description)
    assert not box.tuner(replace(QUICK, delegate="lib.so", threads=2)).wanted(box.manifest, box.description)
    assert not box.tuner(replace(QUICK, tune_seconds=0, threads=2)).wanted(box.manifest, box.description)
    monkeypatch.setattr(cpu, "identity", lambda: Cpu("another board", 4))
    assert box.tuner().wanted(box.manifest, box.description)


def test_what_the_configuration_of_a_model_fixes_is_said(box: Box) -> None:
    """And kept."""
    box.models = (ModelConfig("digits", threads=2, instances=1),)
    tuning = box.measured()
    assert tuning.fixed == ("instances = 1", "threads = 2")
    assert {(m.setup.instances, m.setup.threads) for m in tuning.measurements if not m.dropped} == {(1, 2)}


def scripted(*ends: Callable[[TuningJob], Ended]) -> Callable[..., object]:
    """In place of `child.run`: children that end so, one after the other."""
    left = list(ends)

    async def run(_: str, job: bytes, *, heard: Callable[[bytes], None], **__: object) -> Ended:
        ended = left.pop(0)(strict.decode(TuningJob, json.loads(job)))
        heard(ended.answer)
        return ended

    return run


def _raise(error: Exception) -> Ended:
    raise error


def line(**more: object) -> bytes:
    """As a child writes it."""
    return json.dumps(strict.encode(Line(**more))).encode() + b"\n"  # type: ignore[arg-type]


def test_a_child_that_dies_is_followed_by_one_that_leaves_the_step_out(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine prints between the lines is no harm."""
    result = Tuning("c", 1, "e", 0.0, 0.1, 8, "zeros", ())

    def dies(job: TuningJob) -> Ended:
        assert not job.crashed
        return Ended(b"INFO: hello\n" + line(step="one") + line(step="two", done=0.5), -11, "")

    def does(job: TuningJob) -> Ended:
        assert job.crashed == {"two": "SIGSEGV"}
        return Ended(line(step="three") + line(done=1.0, tuning=result), 0, "")

    monkeypatch.setattr(child, "run", scripted(dies, does))
    assert box.measured() == result


def test_three_deaths_are_enough_and_are_not_repeated_at_the_next_start(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model runs as is usual; a push does not fail for it."""
    steps = iter("abc")
    monkeypatch.setattr(child, "run", scripted(*[lambda _: Ended(line(step=next(steps)), -6, "")] * 3))
    asyncio.run(box.tuner().prepare(box.manifest, box.description))
    known = box.tuner().known(box.manifest, box.description)
    assert known is not None
    assert known.best("throughput") is None
    assert not box.tuner().wanted(box.manifest, box.description)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda _: Ended(line(error="out of luck"), 0, ""), "out of luck"),
        (lambda _: Ended(b"", 1, "Last words: no module"), "no module"),
        (lambda _: _raise(TimeoutError()), "no answer within"),
    ],
)
def test_why_nothing_could_be_measured_is_told(
    box: Box, monkeypatch: pytest.MonkeyPatch, end: Callable[[TuningJob], Ended], message: str
) -> None:
    """By the command, to whoever gave it."""
    monkeypatch.setattr(child, "run", scripted(end))
    with pytest.raises(ContentError, match=message):
        box.measured()


def test_a_child_that_does_not_end_or_never_stops_talking_is_ended() -> None:
    """In real time."""

    async def go() -> None:
        with pytest.raises(TimeoutError):
            await child.run("edge_runtime.deploy.tune_child", b"", seconds=0.01, max_bytes=10)
        with pytest.raises(child.TooMuchError):
            await child.run("this", b"", seconds=20, max_bytes=10)

    asyncio.run(go())


def test_a_processor_is_named_by_what_the_system_says(tmp_path: Path) -> None:
    """The board first (a Raspberry Pi's processor has no name), then the processor; never nothing."""
    info, board = tmp_path / "cpuinfo", tmp_path / "model"
    assert cpu.identity(info, board).model
    info.write_text("processor\t: 0\nCPU part\t: 0xd08\n")
    assert cpu.identity(info, board).model == "0xd08"
    info.write_text("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nCPU part\t: 1\n")
    assert cpu.identity(info, board).model == "A CPU @ 2 GHz"
    board.write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0")
    assert cpu.identity(info, board) == Cpu("Raspberry Pi 4 Model B Rev 1.4", cpu.cores())
