"""The conversion from top to bottom: frontend -> quantize -> parity gate -> bundle -> report."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from converters import bundling, declarations, frontends, golden, parity, quantize, reference, samples
from converters.declarations import METADATA, Declared
from converters.engine import Model, Tensors
from converters.errors import ConvertError
from converters.frontends import Source
from converters.quantize import Scheme
from converters.samples import Samples
from edge_runtime.contract import bundle, names, outputs, signing
from edge_runtime.contract.manifest import InputDeclaration, Manifest, OutputDeclaration, Parity, Task


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; `task` and `input` None: not declared. `answer`: how a box reads the outputs."""

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
    answer: OutputDeclaration = field(default_factory=OutputDeclaration)
    key: Path | None = None
    max_drop: float = 0.02
    force: bool = False


@dataclass(frozen=True)
class Data:
    """The samples of a conversion, where the evaluation samples come from, and what is odd about them."""

    calibration: Samples | None
    evaluation: Samples
    evaluation_source: str
    warnings: tuple[str, ...]


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
    key = _key(options.key)
    source = frontends.load(options.source)
    model = Model(source.content)
    declared = _declared(options, source, model)
    declarations.check(declared, model)
    data = _load_data(options, model, declared)
    converted = quantize.quantize(source.content, options.scheme, data.calibration)
    measured = _measure(declared, model, source.content, converted, data)
    passed = measured.comparison.drop <= options.max_drop
    facts = _facts(options, source, converted, data, measured) | _said(declared, source, data)
    timing = {"before": measured.latency_before_ms, "after": measured.latency_after_ms}
    if not passed and not options.force:
        return Outcome(facts, timing, None)
    chosen = golden.choose(measured.task, data.evaluation, measured.builtin, measured.fast)
    content = _content(converted, declared.labels, data, chosen, facts)
    manifest = _manifest(options, source, declared.input, data, measured, content)
    return Outcome(facts, timing, bundling.build(manifest, content, key), len(chosen))


def _key(path: Path | None) -> Ed25519PrivateKey | None:
    if path is not None and not path.exists():
        raise ConvertError(f"{path}: there is no such file (`edgectl keygen` makes a key pair)")
    return signing.load_private(path) if path else None


def _declared(options: Options, source: Source, model: Model) -> Declared:
    """What the options say; what they leave open, the source's TFLite Metadata say."""
    labels, labels_from = source.metadata.labels or None, METADATA
    if options.labels is not None:
        labels, labels_from = tuple(bundling.read_labels(options.labels)), str(options.labels)
    # Metadata of an 8-bit model tell the normalization of the float model it came from: the box knows what to do.
    known = None if model.inputs[0].datatype in ("UINT8", "INT8") else source.metadata.input
    if options.input is not None:
        return Declared(options.task, options.input, labels, labels_from, "the options", options.answer)
    return Declared(options.task, known, labels, labels_from, METADATA, options.answer)


def _load_data(options: Options, model: Model, declared: Declared) -> Data:
    warnings: list[str] = []

    def load(path: Path, option: str) -> Samples:
        loaded = samples.load(path, model)
        warnings.extend(declarations.check_pixels(declared, loaded.inputs[model.inputs[0].name], path, option))
        return loaded

    calibration = load(options.calibrate, "--calibrate") if options.calibrate else None
    if calibration is None and quantize.needs_calibration(options.scheme):
        raise ConvertError(
            f"--quantize {options.scheme} needs sample inputs to learn ranges from: give --calibrate DATA.npz"
        )
    if options.evaluate is not None:
        evaluation = load(options.evaluate, "--evaluate")
        return Data(calibration, evaluation, "--evaluate", tuple(warnings))
    if calibration is None or options.calibrate is None:
        raise ConvertError("no sample inputs: parity and golden vectors need --evaluate DATA.npz (or --calibrate)")
    calibration, held_out = samples.split(calibration, options.calibrate)
    return Data(calibration, held_out, "every fifth sample of --calibrate, not used for calibration", tuple(warnings))


def _measure(declared: Declared, model: Model, content: bytes, converted: bytes, data: Data) -> Measured:
    float_fast, after_builtin, after_fast = Model(content, "fast"), Model(converted), Model(converted, "fast")
    before = parity.answer(model, data.evaluation, "float model")
    builtin = parity.answer(after_builtin, data.evaluation, "converted, built-in kernels")
    fast = parity.answer(after_fast, data.evaluation, "converted, fast kernels")
    task = (
        declared.task
        or outputs.implied_task(declared.output)
        or parity.guess_task(before, labelled=declared.labels is not None)
    )
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


def _said(declared: Declared, source: Source, data: Data) -> dict[str, Any]:
    """Where labels and normalization come from, what was left behind, and what is odd."""
    labels = len(declared.labels) if declared.labels else 0
    taken = declared.labels_from == METADATA and labels
    return {
        "labels": {"count": labels, "from_metadata": declared.labels_from == METADATA} if labels else None,
        "input_from_metadata": declared.input is not None and declared.input_from == METADATA,
        "files_left_out": [] if taken else list(source.metadata.files),
        "warnings": list(data.warnings),
    }


def _content(
    converted: bytes, labels: tuple[str, ...] | None, data: Data, chosen: list[int], facts: dict[str, Any]
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


def _manifest(
    options: Options,
    source: Source,
    declared: InputDeclaration | None,
    data: Data,
    measured: Measured,
    content: dict[str, bytes],
) -> Manifest:
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
        input=declared,
        output=outputs.completed(measured.task, options.answer, source.metadata.output),
        parity=measured.parity,
        provenance=provenance,
    )
