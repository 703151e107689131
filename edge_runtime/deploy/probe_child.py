"""The child process of the probe: limits itself, opens the model, runs it, and answers with a description.

It is started as `python -m edge_runtime.deploy.probe_child` with a job (JSON) on standard input.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import manifest as manifests
from edge_runtime.contract import outputs as outputs_contract
from edge_runtime.contract import strict, tflite_metadata
from edge_runtime.contract.manifest import InputDeclaration, Manifest, OutputDeclaration, Task
from edge_runtime.contract.quantization import dequantize
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.deploy.probe import Job
from edge_runtime.errors import ContentError, EdgeError
from edge_runtime.inference import engine as engines
from edge_runtime.inference import postprocess, preprocess
from edge_runtime.inference.description import Description, is_detection, undeclared_input, with_full_range
from edge_runtime.inference.engine import Engine, Kernels, Session
from edge_runtime.inference.neutral import neutral_inputs
from edge_runtime.inference.postprocess import Question
from edge_runtime.system import memory

_ENGINE_DOES_NOT_COUNT_BYTES = 64 * 1024 * 1024
_LOG_LIMIT_BYTES = 1024 * 1024
_TIMED_RUNS = 5
_TIMED_SECONDS = 2.0
_PROBABILITY_SCALE = 1 / 256  # how TFLite quantizes a softmax or logistic output to 8 bits


def main() -> int:
    """Answer the job on standard input; the answer goes to standard output, everything else to standard error."""
    with answer_pipe() as answer:
        job = strict.decode(Job, json.loads(sys.stdin.buffer.read()))
        # Drivers keep what they compile in files, if only in nameless ones.
        file_bytes = job.memory_bytes if job.delegate.name else _LOG_LIMIT_BYTES
        limit(job.memory_bytes, job.cpu_seconds, file_bytes)
        try:
            document: dict[str, Any] = {"description": strict.encode(examine(job))}
        except (EdgeError, ValueError, MemoryError) as error:
            document = {"error": str(error) or type(error).__name__}
        answer.write(json.dumps(document))
    return 0


@contextmanager
def answer_pipe() -> Iterator[Any]:
    """Standard output for us alone: what an engine prints must not get into the answer."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        os.dup2(2, 1)
        yield answer


def limit(memory_bytes: int, cpu_seconds: int, file_bytes: int = _LOG_LIMIT_BYTES) -> None:
    """Bound this process: address space, CPU time, and what it may write to a file."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def examine(job: Job) -> Description:
    """Open the model with the best kernels that are faithful, and describe it.

    Raises:
        ContentError: the engine refuses it, it fails to run, or no kernels agree with the golden vectors.
    """
    manifest = manifests.parse(job.manifest.encode())
    engine = engines.choose(job.engine).with_delegate(job.delegate)
    choices: tuple[Kernels, ...] = ("fast", "builtin") if job.kernels == "auto" else (_kernels(job.kernels),)
    reasons: list[tuple[Kernels, str]] = []
    for kernels in choices:
        try:
            session, memory_bytes = _measured(partial(_open, engine, job, kernels))
            outputs, latency_ms = _smoke(session)
            description = describe(
                manifest, session, outputs, Path(job.model), Path(job.labels) if job.labels else None
            )
            _check_declarations(description, manifest, outputs)
            if job.golden:
                check_golden(Path(job.golden), session, description, manifest)
        except ContentError as error:
            reasons.append((kernels, str(error)))
            continue
        return replace(
            description,
            engine=engine.name,
            engine_version=engine.version,
            kernels=kernels,
            latency_ms=round(latency_ms, 4),
            memory_bytes=memory_bytes,
            sample_bytes=session.sample_bytes,
            delegate=job.delegate.name,
            runs_on=session.runs_on,
            control_flow=tflite_metadata.has_control_flow(Path(job.model).read_bytes()),
            state=tflite_metadata.state(Path(job.model).read_bytes()),
        )
    raise ContentError(_summary(reasons))


def _summary(reasons: list[tuple[Kernels, str]]) -> str:
    """Both kernels usually say the same: once is enough."""
    if len({text for _, text in reasons}) == 1:
        return reasons[0][1]
    return "; ".join(f"{kernels} kernels: {text}" for kernels, text in reasons)


def _kernels(name: str) -> Kernels:
    return "builtin" if name == "builtin" else "fast"


def _open(engine: Engine, job: Job, kernels: Kernels) -> Session:
    state = tflite_metadata.state(Path(job.model).read_bytes())
    session = engine.open(Path(job.model), kernels, job.threads, state)
    session.run(neutral_inputs(session.inputs))
    memory.release_file_pages(Path(job.model))
    return session


def _measured(opened: Callable[[], Session]) -> tuple[Session, int]:
    """A session that has run, and how many bytes one more of it adds to the resident memory.

    The first one also brings in what belongs to the engine. Where it is so large that this does not count, a second
    one is not tried: the limit of the address space is for one.
    """
    before = memory.resident_bytes()
    session = opened()
    first = memory.resident_bytes()
    if first - before > _ENGINE_DOES_NOT_COUNT_BYTES:
        return session, first - before
    another = opened()
    added = memory.resident_bytes() - first
    del another
    return session, max(0, added)


def _smoke(session: Session) -> tuple[dict[str, NDArray[Any]], float]:
    """Run zeros (strings: empty ones) a few times; returns the outputs and the median latency in milliseconds."""
    tensors = neutral_inputs(session.inputs)
    latencies: list[float] = []
    outputs: dict[str, NDArray[Any]] = {}
    while len(latencies) < _TIMED_RUNS and sum(latencies) < _TIMED_SECONDS * 1000:
        started = time.perf_counter()
        outputs = session.run(tensors)
        latencies.append((time.perf_counter() - started) * 1000)
    return outputs, median(latencies)


def describe(
    manifest: Manifest, session: Session, outputs: Mapping[str, NDArray[Any]], model: Path, labels: Path | None
) -> Description:
    """What manifest, metadata and the model itself say, in this order of precedence."""
    metadata = tflite_metadata.read(model.read_bytes())
    names = tuple(labels.read_text(encoding="utf-8").rstrip("\n").splitlines()) if labels else metadata.labels
    task = manifest.task or outputs_contract.implied_task(manifest.output) or _task(session, outputs, names)
    _check_labels(task, _read_output(session, manifest), outputs, names)
    return Description(
        engine="",
        engine_version="",
        kernels="fast",
        task=task,
        inputs=session.inputs,
        outputs=session.outputs,
        input=manifest.input
        or _metadata_input(metadata.input, session.inputs[0])
        or undeclared_input(session.inputs[0]),
        labels=names,
        output=outputs_contract.completed(task, manifest.output, _metadata_output(metadata.output, session)),
    )


def _check_declarations(description: Description, manifest: Manifest, outputs: Mapping[str, NDArray[Any]]) -> None:
    """Go through what was declared once, from raw numbers to the answer: what cannot work must not be committed."""
    spec, output = description.inputs[0], description.output or manifest.output
    try:
        outputs_contract.check_task(description.task, output)
        preprocess.check_declaration(spec, description.input)
        postprocess.read_answer(outputs, description, output, Question(neutral_inputs(description.inputs)))
    except (EdgeError, ValueError, TypeError, IndexError) as error:
        raise ContentError(f"what is declared does not fit the model (task {description.task!r}): {error}") from error


def _read_output(session: Session, manifest: Manifest) -> TensorSpec:
    """The output that a task of one output reads; the first where the declared one does not exist: told later."""
    return next((spec for spec in session.outputs if spec.name == manifest.output.tensor), session.outputs[0])


def _metadata_output(declared: OutputDeclaration | None, session: Session) -> OutputDeclaration | None:
    """Metadata that tell of another number of outputs are not those of this model."""
    roles = declared.boxes.roles if declared else ()
    return declared if len(roles) in (0, len(session.outputs)) else None


def _metadata_input(declared: InputDeclaration | None, spec: TensorSpec) -> InputDeclaration | None:
    """Metadata that cannot be true of the input are no reason to refuse a model: then nothing is declared."""
    return with_full_range(declared, spec) if declared and preprocess.fits(spec, declared) else None


def _task(session: Session, outputs: Mapping[str, NDArray[Any]], labels: tuple[str, ...]) -> Task:
    """What an undeclared model seems to be: boxes, scores of classes, one value, or nothing known."""
    if is_detection(session.outputs):
        return "detection"
    if len(session.outputs) > 1:
        return "raw"
    spec = session.outputs[0]
    values = outputs[spec.name]
    if values.dtype == object:
        return "raw"
    if values.size == 1:
        return "regression"
    if values.ndim <= 2 and (labels or _looks_like_scores(values, spec)):
        return "classification"
    return "raw"


def _looks_like_scores(values: NDArray[Any], spec: TensorSpec) -> bool:
    if spec.quantized:
        return abs(spec.scale - _PROBABILITY_SCALE) < 1e-6 and spec.zero_point in (0, -128)
    return bool(np.all(values >= 0) and abs(float(values.sum()) - 1) < 1e-3)


def _check_labels(task: Task, spec: TensorSpec, outputs: Mapping[str, NDArray[Any]], labels: tuple[str, ...]) -> None:
    classes = outputs[spec.name].shape[-1] if outputs[spec.name].ndim else 1
    if task in ("classification", "multilabel") and labels and len(labels) != classes:
        raise ContentError(
            f"there are {len(labels)} labels, but the model has {classes} classes; "
            "is a background class missing or extra?"
        )


def check_golden(path: Path, session: Session, description: Description, manifest: Manifest) -> None:
    """Run every golden input and compare by the task, within what the manifest allows; see `manifest.Parity`.

    Raises:
        ContentError: broken vectors, or answers that are too far off (with the numbers).
    """
    golden = load_golden(path, session)
    count = len(next(iter(golden.values())))
    worst, agreed = 0.0, 0
    for i in range(count):
        outputs = session.run({spec.name: golden[f"input/{spec.name}"][i] for spec in session.inputs})
        same = True
        for spec in session.outputs:
            expected, found = golden[f"output/{spec.name}"][i], outputs[spec.name]
            if expected.shape != found.shape:
                raise ContentError(
                    f"golden output {spec.name!r} has the shape {expected.shape}, the model {found.shape}"
                )
            real, wanted = dequantize(found, spec), dequantize(expected, spec)
            worst = max(worst, float(np.max(np.abs(real - wanted), initial=0.0)))
            same = same and bool(real.size == 0 or np.argmax(real) == np.argmax(wanted))
        agreed += same
    parity = manifest.parity
    # The comparison is written so that NaN fails it.
    if not worst <= parity.tolerance or (
        description.task == "classification" and agreed < parity.top1_agreement * count
    ):
        raise ContentError(
            f"not faithful to the golden vectors: same best class in {agreed} of {count} "
            f"(needs {parity.top1_agreement:.0%}), largest difference {worst:.4g} (allowed {parity.tolerance:g})"
        )


def load_golden(path: Path, session: Session) -> dict[str, NDArray[Any]]:
    """Golden vectors by "input/NAME" and "output/NAME": arrays (n, ...) of n tensors each.

    Raises:
        ContentError: the file is broken, lacks a tensor, or its arrays have different lengths.
    """
    wanted = [f"input/{spec.name}" for spec in session.inputs] + [f"output/{spec.name}" for spec in session.outputs]
    try:
        with np.load(path, allow_pickle=False) as archive:
            golden = {name: archive[name] for name in wanted}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ContentError(f"golden.npz is not usable: {error} (needs {', '.join(wanted)})") from error
    lengths = {len(array) if array.ndim else 0 for array in golden.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ContentError(f"golden.npz has arrays of different or no length: {sorted(lengths)}")
    return golden


if __name__ == "__main__":
    sys.exit(main())
