"""What the user reads: a table, or the same as one JSON document."""

import hashlib
from pathlib import Path
from typing import Any

from converters.pipeline import Outcome

FEW_SAMPLES = 20
_METRICS = {
    "accuracy": "accuracy",
    "agreement": "best class as the float model",
    "error": "mean error / output range",
}


def document(outcome: Outcome, output: Path, signer: str | None) -> dict[str, Any]:
    """All numbers of a conversion as plain data; `signer` is the id of the signing key."""
    written = None
    if outcome.bundle is not None:
        written = {
            "path": str(output),
            "size_bytes": len(outcome.bundle),
            "sha256": hashlib.sha256(outcome.bundle).hexdigest(),
            "golden_vectors": outcome.vectors,
            "signed_by": signer,
        }
    latency = {**outcome.timing, "where": "this host, median, 1 thread, fast kernels"}
    return {**outcome.facts, "latency_ms": latency, "bundle": written}


def table(facts: dict[str, Any]) -> str:
    """The document as a table: before, after and the change."""
    comparison, size, latency = facts["comparison"], facts["size_bytes"], facts["latency_ms"]
    metric = _METRICS[comparison["metric"]]
    rows = [
        (f"{facts['name']} {facts['version']}", "float", facts["scheme"], "change"),
        ("size", f"{size['before']:,} B", f"{size['after']:,} B", _percent(size)),
        _quality(f"{metric}, built-in kernels", comparison, "after"),
        _quality(f"{metric}, fast kernels", comparison, "after_fast"),
        ("largest output difference", "", f"{comparison['max_error']:.4g}", ""),
        ("latency (this host, median, 1 thread)", _ms(latency["before"]), _ms(latency["after"]), _percent(latency)),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(_align(cell, width, i) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(line.rstrip() for line in [*lines, *_notes(facts)])


def refusal(facts: dict[str, Any]) -> str:
    """Why the gate refused, with the numbers."""
    comparison, limit = facts["comparison"], facts["gate"]["max_drop"]
    lost = {"accuracy": "accuracy fell", "agreement": "the best class changed", "error": "the outputs moved"}
    return (
        f"{facts['scheme']}: {lost[comparison['metric']]} by {comparison['drop']:.4f}, more than --max-drop {limit:g};"
        " no bundle was written (another --quantize, more calibration data, or --force)"
    )


def _notes(facts: dict[str, Any]) -> list[str]:
    evaluation, calibration = facts["evaluation"], facts["calibration"]
    notes = [f"evaluated on {evaluation['samples']} samples ({evaluation['from']})"]
    if calibration:
        notes[0] += f"; calibrated on {calibration['samples']}"
    if facts["scheme"] == "int4":
        notes.append("int4 runs on LiteRT; a box with tflite-runtime 2.14 refuses it")
    if evaluation["samples"] < FEW_SAMPLES:
        notes.append(f"{evaluation['samples']} samples are few: take the comparison as a hint")
    notes += _taken_over(facts)
    if not facts["task_declared"]:
        notes.append(f"task {facts['task']}: guessed from the outputs; --task says otherwise")
    parity = facts["parity"]
    agree = f" and must agree on {parity['top1_agreement']:.0%} of best classes" if parity["top1_agreement"] else ""
    notes.append(f"a box's answers to the golden inputs may differ by {parity['tolerance']:g}{agree}")
    bundle = facts["bundle"]
    if bundle:
        signed = f"signed by {bundle['signed_by']}" if bundle["signed_by"] else "not signed"
        notes.append(
            f"{bundle['path']}: {bundle['size_bytes']:,} B, {bundle['golden_vectors']} golden vectors, {signed}"
        )
    return notes


def _taken_over(facts: dict[str, Any]) -> list[str]:
    """What became of the source's TFLite Metadata, if it has any."""
    labels, notes = facts["labels"], []
    if labels and labels["from_metadata"]:
        notes.append(f"{labels['count']} labels: taken over from the source's TFLite Metadata")
    if facts["input_from_metadata"]:
        notes.append("input normalization: taken over from the source's TFLite Metadata; --input, --mean say otherwise")
    if facts["files_left_out"]:
        names = ", ".join(facts["files_left_out"])
        why = "--labels is given" if labels else "its metadata name no labels; give --labels if these are"
        notes.append(f"not taken over, of the files in the source: {names} ({why})")
    return notes


def _quality(label: str, comparison: dict[str, Any], column: str) -> tuple[str, str, str, str]:
    before, after = comparison["before"], comparison[column]
    return label, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"


def _percent(pair: dict[str, Any]) -> str:
    return f"{(pair['after'] / pair['before'] - 1) * 100:+.1f} %"


def _ms(value: float) -> str:
    return f"{value:.3f} ms"


def _align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)
