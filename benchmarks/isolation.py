"""What a worker process costs: one call in it beside one in this process, and its memory.

python benchmarks/isolation.py [MODEL.tflite ...]
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from edge_runtime.config import EngineConfig
from edge_runtime.contract.bundle import MODEL, BundleReader
from edge_runtime.inference import engine as engines
from edge_runtime.inference.engine import Session
from edge_runtime.inference.isolated import IsolatedEngine
from edge_runtime.inference.neutral import neutral_inputs

DIGITS = Path(__file__).parent.parent / "tests" / "data" / "digits-1.0.0.edgemodel"
_SECONDS = 2.0
_ROUND = 20


def main() -> int:
    """Print a line for each model."""
    engine = engines.choose()
    with tempfile.TemporaryDirectory() as folder:
        for path in [Path(argument) for argument in sys.argv[1:]] or [_digits(Path(folder))]:
            here = engine.open(path, "fast", 1)
            there = IsolatedEngine(engine, EngineConfig()).open(path, "fast", 1)
            inside, outside = _medians(here, there)
            memory = ", ".join(f"{name} {_memory(there.pid or 0, name) / 1024:.0f} MiB" for name in ("Rss", "Pss"))
            print(
                f"{path.name}: {inside * 1e6:.0f} us in the daemon's process, {outside * 1e6:.0f} us in a worker "
                f"(+{(outside - inside) * 1e6:.0f} us, x {outside / inside:.2f}); worker: {memory}"
            )
            there.close()
    return 0


def _medians(here: Session, there: Session) -> tuple[float, float]:
    """Seconds of a call in either, measured in turns, so that both see the same box."""
    tensors, seconds = neutral_inputs(here.inputs), ([], [])
    ends = time.monotonic() + _SECONDS
    while time.monotonic() < ends:
        for session, found in zip((here, there), seconds, strict=True):
            for _ in range(_ROUND):
                started = time.perf_counter()
                session.run(tensors)
                found.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def _memory(pid: int, name: str) -> int:
    """KiB of a process (proc_pid_smaps(5); Pss counts what is shared by its share)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _digits(folder: Path) -> Path:
    path = folder / "digits.tflite"
    with BundleReader(DIGITS) as reader:
        path.write_bytes(reader.read_member(MODEL))
    return path


if __name__ == "__main__":
    sys.exit(main())
