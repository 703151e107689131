"""Measuring in turns: every round loads each lane once, so that what slows the machine down slows all of them."""

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving import load, meters
from benchmarks.serving.contestants import Server, bare
from benchmarks.serving.load import Load
from benchmarks.serving.questions import Encoder, Questions, oip_binary


@dataclass(frozen=True)
class Plan:
    """What the options ask for; `folder` is for what lives as long as the scenario; `absent` says why a peer is."""

    only: tuple[str, ...]
    seconds: float
    rounds: int
    folder: Path
    absent: dict[str, str] = field(default_factory=dict)

    def room(self, name: str) -> Path:
        """A folder of its own for one server."""
        path = self.folder / name
        path.mkdir()
        return path


@dataclass
class Row:
    """What one lane did in one scenario: medians over the rounds, and what went wrong in all of them.

    Attributes:
        measures: per_second, p50_ms, p99_ms, failed, wrong, cpu_us (of the server, for one answer), memory_mb, and
            what else a scenario has to tell; absent where it says nothing.
        rounds: right answers a second in each round.
    """

    scenario: str
    lane: str
    measures: dict[str, float]
    rounds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Lane:
    """One thing that is measured in each round."""

    name: str
    load: Callable[[], Load]
    server: Server | None = None


def take_turns(plan: Plan, scenario: str, lanes: Sequence[Lane]) -> list[Row]:
    """Load each lane in every round."""
    seen: dict[str, list[tuple[Load, float]]] = {lane.name: [] for lane in lanes}
    for number in range(plan.rounds):
        for lane in lanes:
            tell(f"{scenario}: round {number + 1} of {plan.rounds}: {lane.name}")
            before = _cpu_seconds(lane)
            result = lane.load()
            seen[lane.name].append((result, _cpu_seconds(lane) - before))
    return [_row(scenario, lane, seen[lane.name]) for lane in lanes]


def _cpu_seconds(lane: Lane) -> float:
    return meters.cpu_seconds(lane.server.process.pid) if lane.server else 0.0


def _row(scenario: str, lane: Lane, seen: Sequence[tuple[Load, float]]) -> Row:
    loads = [one for one, _ in seen]
    measures = {"per_second": statistics.median(one.per_second for one in loads)}
    if lane.server is None:
        measures["cpu_us"] = statistics.median(one.cpu_us for one in loads)
    else:
        measures |= {
            "p50_ms": statistics.median(one.p50_ms for one in loads),
            "p99_ms": statistics.median(one.p99_ms for one in loads),
            "failed": sum(one.failed for one in loads),
            "wrong": sum(one.wrong for one in loads),
            "answered": sum(one.answered for one in loads),
            "cpu_us": statistics.median(cpu / max(1, one.answered) * 1e6 for one, cpu in seen),
            "memory_mb": meters.memory_mb(lane.server.process.pid),
        }
    return Row(scenario, lane.name, measures, [one.per_second for one in loads])


def json_lane(
    server: Server, asked: Questions, seconds: float, cores: Sequence[int], connections: int = 8, name: str = ""
) -> Lane:
    """Wrk with the contestant's own JSON."""
    return _wrk_lane(server, asked, server.encode, "data", seconds, cores, connections, name or server.name)


def binary_lane(server: Server, asked: Questions, seconds: float, cores: Sequence[int], name: str = "") -> Lane:
    """Wrk with the binary tensor data extension both ways, 8 connections."""
    return _wrk_lane(server, asked, oip_binary, "", seconds, cores, 8, name or server.name)


def _wrk_lane(
    server: Server,
    asked: Questions,
    encode: Encoder,
    key: str,
    seconds: float,
    cores: Sequence[int],
    connections: int,
    name: str,
) -> Lane:
    def measure() -> Load:
        url = server.url(asked.model)
        return load.ask(url, asked, encode, key=key, connections=connections, seconds=seconds, cores=cores)

    return Lane(name, measure, server)


def bare_lane(path: Path, seconds: float, cores: Sequence[int]) -> Lane:
    """The engine with nothing around it, a process on each of these cores."""
    return Lane("bare", lambda: bare(path, seconds, cores))


def tell(text: str) -> None:
    """Progress, to stderr."""
    print(text, file=sys.stderr, flush=True)
