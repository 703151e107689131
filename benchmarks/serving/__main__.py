"""Serving beside its peers, in one run on the same models.

Usage: python -m benchmarks.serving [--only ours,triton] [--scenarios tiny-json,...] [--seconds S] [--rounds N] [--json]
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving import contestants, environments, scenarios


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everyone = (*contestants.SERVERS, "bare")
    result.add_argument("--only", default=",".join(everyone), help=f"contestants, of {', '.join(everyone)}")
    result.add_argument("--scenarios", default=",".join(scenarios.ALL), help=f"of {', '.join(scenarios.ALL)}")
    result.add_argument("--seconds", type=float, default=5.0, help="of load in each round (5)")
    result.add_argument("--rounds", type=int, default=5, help="of which medians are taken (5)")
    result.add_argument("--json", action="store_true", help="print the results as JSON")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for and print it."""
    options = parser().parse_args(argv)
    environments.require_wrk()
    only, chosen = options.only.split(","), options.scenarios.split(",")
    unknown = [*(set(only) - {*contestants.SERVERS, "bare"}), *(set(chosen) - set(scenarios.ALL))]
    if unknown:
        parser().error(f"unknown: {', '.join(unknown)}")
    results = []
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            plan = scenarios.Plan(tuple(only), options.seconds, options.rounds, Path(folder))
            for row in scenarios.ALL[name](plan):
                results.append(row)
                if not options.json:
                    print(row.line(), flush=True)
    if options.json:
        json.dump([dataclasses.asdict(row) for row in results], sys.stdout, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
