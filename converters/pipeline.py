"""The conversion from top to bottom: frontend -> quantize -> parity gate -> bundle -> report."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converters import bundling, frontends, golden, parity, quantize, reference, samples
from converters.engine import Model, Tensors
from converters.errors import ConvertError
from converters.frontends import Source
from converters.quantize import Scheme
from converters.samples import Samples
from edge_runtime.contract import bundle, names, signing
from edge_runtime.contract.manifest import InputDeclaration, Manifest, Parity, Task


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; `task` and `input` None: not declared."""

    source: Path
    output: Path
    name: str
    version: str
    scheme: Scheme = "int8"
    calibrate: Path | None = None
    evaluate: Path | None = None
    task: Task | None = None
    labels: Path | None = None
    input: InputDeclaration | None = None
    key: Path | None = None
    max_drop: float = 0.02
    force: bool = False


@dataclass(frozen=True)
class Data:
    """The samples of a conversion, and where the evaluation samples come from."""

    calibration: Samples | None
    evaluation: Samples
    evaluation_source: str


@dataclass(frozen=True)
class Measured:
    """What the gate and the bundle need to know of the converted model.

    `builtin` and `fast` are its real outputs on the evaluation samples, by kernels.
    """

    task: Task
    comparison: parity.Comparison
    parity: Parity
    builtin: Tensors
    fast: Tensors
    latency_before_ms: float
    latency_after_ms: float


@dataclass(frozen=True)
class Outcome:
    """What came of it: `facts` repeat for the same input, `timing` does not; `bundle` is None if the gate refused."""

    facts: dict[str, Any]
    timing: dict[str, Any]
    bundle: bytes | None
    vectors: int = 0


def convert(options: Options) -> Outcome:
    """Convert a source into the bytes of a bundle; nothing is written.

    Raises:
        ConvertError: a source, sample data, labels or a key that cannot be used; the message says which and why.
        ContractError: a name, version or key that breaks the contract.
    """
    key = signing.load_private(options.key) if options.key else None
    labels = bundling.read_labels(options.labels) if options.labels else None
    source = frontends.load(options.source)
    model = Model(source.content)
    _check_declared(options, model, labels)
    data = _load_data(options, model)
    converted = quantize.quantize(source.content, options.scheme, data.calibration)
    measured = _measure(options, model, source.content, converted, data)
    passed = measured.comparison.drop <= options.max_drop
    facts = _facts(options, source, converted, data, measured)
    timing = {"before": measured.latency_before_ms, "after": measured.latency_after_ms}
    if not passed and not options.force:
        return Outcome(facts, timing, None)
    chosen = golden.choose(measured.task, data.evaluation, measured.builtin, measured.fast)
    content = _content(converted, labels, data, chosen, facts)
    manifest = _manifest(options, source, data, measured, content)
    return Outcome(facts, timing, bundling.build(manifest, content, key), len(chosen))


def _check_declared(options: Options, model: Model, labels: list[str] | None) -> None:
    for spec in model.inputs:
        if -1 in spec.shape[1:]:
            raise ConvertError(f"input {spec.name!r} has open dimensions {spec.shape}: export it with a fixed shape")
    shape = model.inputs[0].shape
    channels = shape[-1] if len(shape) > 1 else 1
    declared = options.input or InputDeclaration()
    for flag, values in (("--mean", declared.mean), ("--std", declared.std)):
        if len(values) not in (1, channels):
            raise ConvertError(
                f"{flag} has {len(values)} values, but the input has {channels} channels: give 1 or {channels}"
            )
    if declared.kind == "image" and (len(shape) != 4 or channels not in (1, 3)):
        raise ConvertError(f"--input image: the model takes {shape}, which is no picture (1, height, width, 1 or 3)")
    classes = model.outputs[0].shape[-1] if model.outputs[0].shape else 1
    if labels is not None and options.task in (None, "classification") and len(labels) != classes:
        raise ConvertError(f"{options.labels}: {len(labels)} labels, but the model has {classes} classes")


def _load_data(options: Options, model: Model) -> Data:
    calibration = samples.load(options.calibrate, model) if options.calibrate else None
    if calibration is None and quantize.needs_calibration(options.scheme):
        raise ConvertError(
            f"--quantize {options.scheme} needs sample inputs to learn ranges from: give --calibrate DATA.npz"
        )
    if options.evaluate is not None:
        return Data(calibration, samples.load(options.evaluate, model), "--evaluate")
    if calibration is None or options.calibrate is None:
        raise ConvertError("no sample inputs: parity and golden vectors need --evaluate DATA.npz (or --calibrate)")
    calibration, held_out = samples.split(calibration, options.calibrate)
    return Data(calibration, held_out, "every fifth sample of --calibrate, not used for calibration")


def _measure(options: Options, model: Model, content: bytes, converted: bytes, data: Data) -> Measured:
    float_fast, after_builtin, after_fast = Model(content, "fast"), Model(converted), Model(converted, "fast")
    before = parity.answer(model, data.evaluation, "float model")
    builtin = parity.answer(after_builtin, data.evaluation, "converted, built-in kernels")
    fast = parity.answer(after_fast, data.evaluation, "converted, fast kernels")
    task = options.task or parity.guess_task(model, before)
    return Measured(
        task,
        parity.compare(task, before, builtin, fast, data.evaluation.labels),
        parity.box_parity(task, after_builtin.outputs, builtin, fast),
        builtin,
        fast,
        parity.latency_ms(float_fast, data.evaluation),
        parity.latency_ms(after_fast, data.evaluation),
    )


def _facts(options: Options, source: Source, converted: bytes, data: Data, measured: Measured) -> dict[str, Any]:
    calibration = data.calibration
    passed = measured.comparison.drop <= options.max_drop
    return {
        "name": options.name,
        "version": options.version,
        "scheme": options.scheme,
        "task": measured.task,
        "task_declared": options.task is not None,
        "source_sha256": source.sha256,
        "model_sha256": hashlib.sha256(converted).hexdigest(),
        "size_bytes": {"before": len(source.content), "after": len(converted)},
        "calibration": {"samples": len(calibration), "sha256": calibration.sha256} if calibration else None,
        "evaluation": {
            "samples": len(data.evaluation),
            "sha256": data.evaluation.sha256,
            "from": data.evaluation_source,
            "labelled": data.evaluation.labels is not None,
        },
        "comparison": asdict(measured.comparison),
        "gate": {"max_drop": options.max_drop, "passed": passed, "forced": options.force and not passed},
        "parity": asdict(measured.parity),
        "tools": bundling.tool_versions(),
    }


def _content(
    converted: bytes, labels: list[str] | None, data: Data, chosen: list[int], facts: dict[str, Any]
) -> dict[str, bytes]:
    model = Model(converted)
    seen = data.calibration or data.evaluation
    distributions = reference.distributions(seen.inputs, parity.answer(model, seen, "reference"))
    content = {
        bundle.MODEL: converted,
        bundle.GOLDEN: golden.record(model, data.evaluation, chosen),
        bundle.REFERENCE: bundling.canonical_json(distributions),
        bundle.REPORT: bundling.canonical_json(facts),
    }
    return content | ({bundle.LABELS: ("\n".join(labels) + "\n").encode()} if labels else {})


def _manifest(options: Options, source: Source, data: Data, measured: Measured, content: dict[str, bytes]) -> Manifest:
    gate = "passed" if measured.comparison.drop <= options.max_drop else "forced"
    provenance = {"source_sha256": source.sha256, "scheme": options.scheme, "gate": gate} | bundling.tool_versions()
    if data.calibration is not None:
        provenance["calibration_sha256"] = data.calibration.sha256
    provenance["evaluation_sha256"] = data.evaluation.sha256
    return Manifest(
        name=options.name,
        version=options.version,
        files={name: bundle.entry(member) for name, member in content.items()},
        sequence=names.sequence_of(options.version),
        task=measured.task,
        input=options.input,
        parity=measured.parity,
        provenance=provenance,
    )
