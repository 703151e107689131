"""What tuning buys: the setup that it finds against the one that is taken where nothing is measured.

python benchmarks/tuning.py [--seconds 4] MODEL.tflite ...
"""

import argparse
from pathlib import Path

from edge_runtime.config import EngineConfig
from edge_runtime.contract import bundle
from edge_runtime.contract.manifest import Manifest
from edge_runtime.deploy.probe import Job
from edge_runtime.deploy.probe_child import examine
from edge_runtime.deploy.tune_child import tune
from edge_runtime.deploy.tuning_job import TuningJob
from edge_runtime.inference import engine
from edge_runtime.inference.tuning import Measurement, Tuning
from edge_runtime.system import cpu

_UNLIMITED = 2**50
_CPU_SECONDS = 3600


def main() -> None:
    """Print a table: usual and found, for both objectives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    box = cpu.identity()
    print(f"{box.model}, {box.cores} cores, {options.seconds:g} s for each model\n")
    print("| model | objective | usual | found | ms | samples/s | ratio | noise |")
    print("|---|---|---|---|---|---|---|---|")
    for model in options.models:
        tuning = measure(model, options.seconds)
        usual = next(m for m in tuning.measurements if m.setup == tuning.usual)
        for objective in ("latency", "throughput"):
            found = tuning.best(objective) or usual
            print(_row(model.stem, objective, usual, found, tuning))


def measure(model: Path, seconds: float) -> Tuning:
    """All setups of a bare model, on zeros."""
    box, manifest = cpu.identity(), Manifest("model", "1.0.0", {bundle.MODEL: bundle.entry(model.read_bytes())})
    text, chosen = manifest.canonical().decode(), engine.choose().name
    description = examine(Job(str(model), text, chosen, "auto", 1, _UNLIMITED, _CPU_SECONDS))
    config = EngineConfig(tune_seconds=seconds)
    job = TuningJob(str(model), text, description, config, box.model, box.cores, _UNLIMITED, _CPU_SECONDS)
    return tune(job, lambda _: None)


def _row(name: str, objective: str, usual: Measurement, found: Measurement, tuning: Tuning) -> str:
    if objective == "latency":
        ratio = usual.latency_ms / found.latency_ms
    elif tuning.busy:
        ratio = found.capacity / usual.capacity
    else:
        ratio = found.per_second / usual.per_second
    said = "the same" if found.setup == usual.setup else str(found.setup)
    numbers = f"{found.latency_ms:.3g} | {found.capacity if tuning.busy else found.per_second:.4g}"
    return f"| {name} | {objective} | {usual.setup} | {said} | {numbers} | {ratio:.2f} | {tuning.noise:.0%} |"


if __name__ == "__main__":
    main()
