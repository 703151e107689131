"""The ratios that the project promises itself (within one run), and whether they hold."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.serving.turns import Row

Rows = dict[tuple[str, str], Row]


@dataclass(frozen=True)
class Target:
    """One promise; `value` gives what was measured, or None where it was not."""

    name: str
    value: Callable[[Rows], float | None]
    bound: float
    at_least: bool
    form: str

    def holds(self, value: float) -> bool:
        """Whether that is good enough."""
        return value >= self.bound if self.at_least else value <= self.bound


def ratio(scenario: str, left: str, right: str) -> Callable[[Rows], float | None]:
    """Answers a second of two lanes: the median over the rounds of each round's own ratio."""

    def value(rows: Rows) -> float | None:
        one, other = rows.get((scenario, left)), rows.get((scenario, right))
        if one is None or other is None or not other.rounds or not all(other.rounds):
            return None
        return statistics.median(a / b for a, b in zip(one.rounds, other.rounds, strict=True))

    return value


def _measure(scenario: str, lane: str, name: str) -> Callable[[Rows], float | None]:
    def value(rows: Rows) -> float | None:
        row = rows.get((scenario, lane))
        return None if row is None else row.measures.get(name)

    return value


def _bad_answers(rows: Rows) -> float | None:
    counts = [
        row.measures.get("failed", 0) + row.measures.get("wrong", 0)
        for row in rows.values()
        if row.lane.startswith("ours") and row.scenario != "overload"
    ]
    return sum(counts) if counts else None


TARGETS = (
    Target("tiny, JSON: ours / Triton", ratio("tiny-json", "ours", "triton"), 1.5, True, "{:.2f} x"),
    Target("tiny, JSON: ours / MLServer", ratio("tiny-json", "ours", "mlserver"), 9, True, "{:.1f} x"),
    Target("failed or wrong answers of ours, overload aside", _bad_answers, 0, False, "{:.0f}"),
    Target("tiny, ours: binary tensors / JSON", ratio("tiny-binary", "ours", "ours, JSON"), 1.2, True, "{:.2f} x"),
    Target("MobileNetV2: ours / bare engine", ratio("large", "ours", "bare"), 0.95, True, "{:.3f} x"),
    Target(
        "256 connections / 8",
        ratio("connections", "ours, 256 connections", "ours, 8 connections"), 0.9, True, "{:.2f} x",
    ),
    Target(
        "51 models / 1", ratio("more-models", "ours, 51 models", "ours, 1 model"), 0.95, True, "{:.2f} x"
    ),
    Target("p99 / p50 at 70 % load", _measure("steady", "ours", "p99_to_p50"), 3, False, "{:.1f} x"),
    Target(
        "p99 of the tiny model beside the busy large one",
        _measure("beside-large", "ours, one core free", "p99_ms"), 5, False, "{:.1f} ms",
    ),
    Target("idle", _measure("resting", "ours", "idle_percent"), 1, False, "{:.2f} % of a core"),
    Target("resident with one 4 MB model", _measure("resting", "ours", "resident_mb"), 80, False, "{:.0f} MB"),
    Target("start to ready", _measure("resting", "ours", "ready_seconds"), 1, False, "{:.2f} s"),
)  # fmt: skip


def judged(rows: Sequence[Row]) -> list[tuple[str, str, str, bool]]:
    """For each target that was measured: its name, what was measured, what was promised, and whether it holds."""
    known = {(row.scenario, row.lane): row for row in rows}
    result = []
    for target in TARGETS:
        value = target.value(known)
        if value is not None:
            promise = ("at least " if target.at_least else "at most ") + target.form.format(target.bound)
            result.append((target.name, target.form.format(value), promise, target.holds(value)))
    return result
