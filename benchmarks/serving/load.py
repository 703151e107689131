"""Closed-loop load by wrk: each of its threads asks one question, and every answer is compared with the right one."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.environments import require_wrk
from benchmarks.serving.questions import COUNT, Encoder, Questions

_SCRIPT = Path(__file__).with_name("ask.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """What one round of load saw; latencies in milliseconds, processor time for an answer in microseconds."""

    per_second: float
    answered: int = 0
    failed: int = 0
    wrong: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_us: float = 0.0


def ask(
    url: str,
    questions: Questions,
    encode: Encoder,
    *,
    key: str,
    connections: int,
    seconds: float,
    cores: Sequence[int] | None = None,
) -> Load:
    """Ask for that long; `key` is what the answer calls its numbers, "" where they are binary."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (tensor, answer) in enumerate(zip(questions.inputs, questions.answers, strict=True)):
            headers, body = encode(tensor)
            (folder / f"{number}.body").write_bytes(body)
            (folder / f"{number}.answer").write_text(" ".join(map(str, answer.tolist())))
            (folder / "headers").write_text("".join(f"{k}: {v}\n" for k, v in headers.items()))
        threads = min(COUNT, connections)
        command = [
            *pinned(cores),
            *(require_wrk(), f"-t{threads}", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"),
            *("-s", str(_SCRIPT), url, "--", str(folder), key),
        ]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in {line for line in output.splitlines() if line.startswith("FAILED")}:
        print(f"{url}: {line}", file=sys.stderr, flush=True)
    result = json.loads(output.rpartition("RESULT ")[2])
    return Load(
        per_second=(result["answered"] - result["failed"] - result["wrong"]) / result["seconds"],
        answered=result["answered"],
        failed=result["failed"] + result["lost"],
        wrong=result["wrong"],
        p50_ms=result["p50"] / 1e3,
        p99_ms=result["p99"] / 1e3,
    )


def pinned(cores: Sequence[int] | None) -> list[str]:
    """What to put in front of a command to keep it on these cores."""
    return ["taskset", "-c", ",".join(map(str, cores))] if cores and shutil.which("taskset") else []
