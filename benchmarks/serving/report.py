"""The results as tables, in the terminal and in docs/benchmarks.md."""

import json
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.serving import targets
from benchmarks.serving.environments import python_of
from benchmarks.serving.scenarios import ALL_CORES
from benchmarks.serving.turns import Row

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_PAGE, _PLOT = _DOCS / "benchmarks.md", _DOCS / "benchmarks.svg"
# Between these the page is made by the program; what is outside is written by hand and stays.
_BEGIN, _END = "<!-- made by make bench: begin -->", "<!-- made by make bench: end -->"

_TITLES = {
    "tiny-json": "Tiny model (64-64-10 int8), JSON, 8 connections, server and load on a core each",
    "tiny-binary": "Tiny model, binary tensors",
    "tiny-grpc": "Tiny model, gRPC, 8 connections",
    "large": "MobileNetV2 int8, binary tensors, 8 connections, all cores",
    "connections": "Tiny model, JSON, 8 and 256 connections",
    "more-models": "Tiny model, JSON, alone and beside 50 more",
    "swaps": "Tiny model, JSON, while new versions are pushed without a pause",
    "steady": "Tiny model, JSON, constant rate at 70 % of capacity, 64 connections",
    "beside-large": "Tiny model at 100/s while MobileNetV2 is asked without a pause",
    "overload": "A slow model (64-4096-4096-10 int8, one core left free) at four times its capacity, deadline 250 ms",
    "resting": "At rest, with MobileNetV2 (4 MB) committed",
}
_COLUMNS = {
    "per_second": ("answers/s", "{:,.0f}"),
    "vs": ("ours is", "{}"),
    "vs_cpu": ("by CPU", "{}"),
    "p50_ms": ("p50 ms", "{:.2f}"),
    "p99_ms": ("p99 ms", "{:.2f}"),
    "p99_to_p50": ("p99/p50", "{:.1f}"),
    "failed": ("failed", "{:,.0f}"),
    "wrong": ("wrong", "{:,.0f}"),
    "answered": ("of answers", "{:,.0f}"),
    "swaps": ("versions", "{:.0f}"),
    "large_per_second": ("large answers/s", "{:,.0f}"),
    "cpu_us": ("CPU us/answer", "{:,.0f}"),
    "cpu_percent": ("CPU % of a core", "{:.0f}"),
    "memory_mb": ("memory MB", "{:.0f}"),
    "ready_seconds": ("start to ready s", "{:.2f}"),
    "idle_percent": ("idle % of a core", "{:.2f}"),
    "resident_mb": ("resident MB", "{:.0f}"),
    "resident_after_load_mb": ("resident MB after load", "{:.0f}"),
}


@dataclass
class Results:
    """One run: on what, of what, how, and what came out."""

    machine: str
    disturbance: str
    versions: dict[str, str]
    how: str
    rows: list[Row]
    absent: dict[str, str] = field(default_factory=dict)


def machine() -> str:
    """Processor, cores, memory and system."""
    cpu = re.search(r"model name\s*: (.+)", _contents("/proc/cpuinfo"))
    total = re.search(r"MemTotal:\s+(\d+)", _contents("/proc/meminfo"))
    parts = [cpu[1] if cpu else platform.machine(), f"{len(ALL_CORES)} cores"]
    parts += [f"{int(total[1]) / 1e6:.0f} GB"] if total else []
    return ", ".join([*parts, f"{platform.system()} {platform.release()}", f"Python {platform.python_version()}"])


def disturbance(others: float, stolen: float) -> str:
    """How far the machine was somebody else's meanwhile."""
    return f"Of its processor time, {others:.0%} went to other programs meanwhile and {stolen:.0%} to other machines."


def _contents(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def tables(results: Results) -> list[str]:
    """One table a scenario, as Markdown that is also readable in a terminal."""
    return [
        f"### {_TITLES[scenario]}\n\n{_scenario([row for row in results.rows if row.scenario == scenario])}"
        for scenario in dict.fromkeys(row.scenario for row in results.rows)
    ]


def promises(results: Results) -> str:
    """The targets that were measured, as a table."""
    judged = [
        (name, got, promise, "yes" if good else "no") for name, got, promise, good in targets.judged(results.rows)
    ]
    return "### Targets\n\n" + _grid(("", "measured", "wanted", "holds"), judged)


def _scenario(rows: Sequence[Row]) -> str:
    measures: list[Mapping[str, float | str]] = [row.measures | _versus(row, rows) for row in rows]
    keys = [key for key in _COLUMNS if any(key in one for one in measures)]
    head = ["", *(_COLUMNS[key][0] for key in keys)]
    lines = [
        [row.lane, *(_COLUMNS[key][1].format(one[key]) if key in one else "" for key in keys)]
        for row, one in zip(rows, measures, strict=True)
    ]
    return _grid(head, lines)


def _versus(row: Row, rows: Sequence[Row]) -> dict[str, str]:
    """How many times as many answers ours gave as this peer with the same client: by the clock, by processor time."""
    if row.lane.startswith("ours"):
        return {}
    known = {(one.scenario, one.lane): one for one in rows}
    _, comma, client = row.lane.partition(",")
    partner = "ours" + comma + client
    value = targets.ratio(row.scenario, partner, row.lane)(known)
    if value is None:
        return {}
    cost, own = row.measures["cpu_us"], known[row.scenario, partner].measures["cpu_us"]
    return {"vs": f"{value:.2f} x"} | ({"vs_cpu": f"{cost / own:.2f} x"} if own else {})


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]

    def one(line: Sequence[str]) -> str:
        numbers = [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        return "| " + " | ".join([line[0].ljust(widths[0]), *numbers]) + " |"

    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    return "\n".join([one(head), rule, *map(one, lines)])


def write(results: Results) -> None:
    """Put the results into docs/benchmarks.md, and draw docs/benchmarks.svg."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    absent = "".join(f"Left out here: {name} ({why}).\n\n" for name, why in results.absent.items())
    scenarios = "\n\n".join(tables(results))
    made = (
        f"{_BEGIN}\n\nMeasured on: {results.machine}. {results.disturbance}\n\nVersions: {versions}.\n\n{absent}"
        f'Command: `make bench BENCH="{results.how} --write"`.\n\n'
        f"![Answers a second and memory, tiny model over JSON]({_PLOT.name})\n\n"
        f"{promises(results)}\n\n{scenarios}\n\n{_END}"
    )
    before, _, rest = _PAGE.read_text().partition(_BEGIN)
    _PAGE.write_text(before + made + rest.partition(_END)[2])
    plot = Path(__file__).with_name("plot.py")
    subprocess.run(
        [str(python_of("plot")), str(plot), str(_PLOT)], input=json.dumps(asdict(results)).encode(), check=True
    )
