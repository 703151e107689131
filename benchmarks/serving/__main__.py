"""Serving beside its peers, in one run on the same models. See docs/benchmarks.md."""

import argparse
import dataclasses
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.serving import contestants, environments, meters, report, resting, scenarios, steady
from benchmarks.serving.turns import Plan, Row

EVERYONE = (*contestants.SERVERS, "bare")
SCENARIOS: dict[str, Callable[[Plan], list[Row]]] = {
    "tiny-json": scenarios.tiny_json,
    "tiny-binary": scenarios.tiny_binary,
    "tiny-grpc": scenarios.tiny_grpc,
    "large": scenarios.large,
    "connections": scenarios.connections,
    "more-models": scenarios.more_models,
    "swaps": scenarios.swaps,
    "steady": steady.at_seventy_percent,
    "beside-large": steady.beside_large,
    "overload": steady.overload,
    "resting": resting.resting,
}


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    result.add_argument("--only", type=_some_of(EVERYONE), default=EVERYONE, help=f"of {', '.join(EVERYONE)}")
    result.add_argument("--scenarios", type=_some_of(tuple(SCENARIOS)), default=tuple(SCENARIOS))
    result.add_argument("--seconds", type=float, default=5.0, help="of load in each round (5)")
    result.add_argument("--rounds", type=int, default=5, help="of which medians are taken (5)")
    result.add_argument("--json", action="store_true", help="print the results as JSON")
    result.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its plot")
    kept = environments.CACHE / "results.json"
    result.add_argument("--keep", type=Path, default=kept, help="where results are kept (.bench/results.json)")
    result.add_argument("--from", dest="source", type=Path, help="do not measure: the results that --json printed")
    return result


def _some_of(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        return names

    return parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for, and print or write it."""
    options = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers are stopped on the way out
    if options.source:
        results = _read(options.source)
        if not options.json:
            print("\n\n".join(report.tables(results)))
    else:
        results = _measure(options)
    if options.json:
        print(_as_json(results))
    else:
        print(report.promises(results))
        print(f"\n{results.machine}. {results.disturbance}")
    if options.write:
        report.write(results)
    return 0


def _measure(options: argparse.Namespace) -> report.Results:
    """Scenario by scenario; what is known so far is kept, in case that a later one fails."""
    environments.require_wrk()
    how = f"--seconds {options.seconds:g} --rounds {options.rounds}"
    results = report.Results(report.machine(), "", {}, how, [])
    disturbance = meters.Disturbance()
    for name in options.scenarios:
        with tempfile.TemporaryDirectory() as folder:
            plan = Plan(options.only, options.seconds, options.rounds, Path(folder), results.absent)
            results.rows += SCENARIOS[name](plan)
        results.versions = environments.versions(set(options.only) - set(results.absent))
        results.disturbance = report.disturbance(*disturbance.shares())
        options.keep.write_text(_as_json(results))
        if not options.json:
            print(report.tables(results)[-1] + "\n", flush=True)
    return results


def _as_json(results: report.Results) -> str:
    return json.dumps(dataclasses.asdict(results), indent=1)


def _read(path: Path) -> report.Results:
    document = json.loads(path.read_text())
    rows = [Row(**row) for row in document.pop("rows")]
    return report.Results(**document, rows=rows)


if __name__ == "__main__":
    sys.exit(main())
