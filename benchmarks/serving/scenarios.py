"""What is measured: every scenario starts its servers, loads them in turn, and gives one row a contestant."""

import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving import contestants, load, meters, models, questions
from benchmarks.serving.environments import CACHE

# Server and load on a core each: they do not take time from each other, and a round differs less from the next.
SERVER_CORES, LOAD_CORES = (0,), (1,)


@dataclass(frozen=True)
class Plan:
    """What the options ask for."""

    only: tuple[str, ...]
    seconds: float
    rounds: int
    folder: Path


@dataclass
class Row:
    """One contestant in one scenario; medians over the rounds."""

    scenario: str
    contestant: str
    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    wrong: int
    cpu_us: float
    memory_mb: float

    def line(self) -> str:
        """For the terminal."""
        return (
            f"{self.scenario:12} {self.contestant:10} {self.per_second:9.0f}/s  p50 {self.p50_ms:7.2f} ms  "
            f"p99 {self.p99_ms:7.2f} ms  failed {self.failed}  wrong {self.wrong}  "
            f"CPU {self.cpu_us:6.0f} us/answer  {self.memory_mb:5.0f} MB"
        )


def tell(text: str) -> None:
    """Progress, to stderr."""
    print(text, file=sys.stderr, flush=True)


def tiny_json(plan: Plan) -> Iterator[Row]:
    """The tiny model over JSON with 8 connections, everyone."""
    path = models.model_file("tiny", CACHE / "models")
    asked = questions.ask_engine("tiny", path)
    with ExitStack() as stack:
        servers = []
        for name in contestants.SERVERS:
            if name in plan.only:
                tell(f"starting {name}")
                folder = plan.folder / name
                folder.mkdir()
                servers.append(stack.enter_context(contestants.SERVERS[name]({"tiny": path}, folder, SERVER_CORES)))
        seen: dict[str, list[tuple[load.Load, float]]] = {server.name: [] for server in servers}
        bare = []
        for number in range(plan.rounds):
            tell(f"tiny-json: round {number + 1} of {plan.rounds}")
            for server in servers:
                before = meters.cpu_seconds(server.process.pid)
                result = load.ask(
                    server.url("tiny"), asked, server.encode, key="data", connections=8, seconds=plan.seconds,
                    cores=LOAD_CORES,
                )  # fmt: skip
                seen[server.name].append((result, meters.cpu_seconds(server.process.pid) - before))
            if "bare" in plan.only:
                bare.append(contestants.bare_per_second(path, plan.seconds, SERVER_CORES))
        for server in servers:
            loads = [one for one, _ in seen[server.name]]
            yield Row(
                "tiny-json", server.name,
                statistics.median(one.per_second for one in loads),
                statistics.median(one.p50_ms for one in loads),
                statistics.median(one.p99_ms for one in loads),
                sum(one.failed for one in loads), sum(one.wrong for one in loads),
                statistics.median(cpu / max(1, one.answered) * 1e6 for one, cpu in seen[server.name]),
                meters.memory_mb(server.process.pid),
            )  # fmt: skip
        if bare:
            yield Row("tiny-json", "bare", statistics.median(bare), 0, 0, 0, 0, 1e6 / statistics.median(bare), 0)


ALL: dict[str, Callable[[Plan], Iterator[Row]]] = {"tiny-json": tiny_json}
