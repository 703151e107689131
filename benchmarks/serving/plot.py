"""Draws the tiny model's answers a second and memory, contestant by contestant; runs in an environment of its own.

Usage: python plot.py TARGET.svg < results.json
"""

import json
import sys

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt


def main() -> None:
    """Two bar charts side by side; what was answered wrong or not at all is written at the bar."""
    rows = [row for row in json.load(sys.stdin)["rows"] if row["scenario"] == "tiny-json" and row["lane"] != "bare"]
    rows.reverse()
    names = [row["lane"] for row in rows]
    mpl.rcParams["svg.hashsalt"] = "edge-runtime"  # the same results give the same file
    mpl.rcParams["svg.fonttype"] = "none"
    figure, (rates, memory) = plt.subplots(1, 2, figsize=(10, 0.6 + 0.5 * len(rows)), sharey=True, layout="constrained")
    colours = ["#d1495b" if name == "ours" else "#8d99ae" for name in names]
    bars = rates.barh(names, [row["measures"]["per_second"] for row in rows], color=colours)
    rates.bar_label(bars, [_label(row["measures"]) for row in rows], padding=3)
    rates.set_xlabel("right answers a second, tiny model, JSON, 8 connections")
    bars = memory.barh(names, [row["measures"]["memory_mb"] for row in rows], color=colours)
    memory.bar_label(bars, fmt="{:.0f}", padding=3)
    memory.set_xlabel("memory of all its processes, MB")
    for axes in (rates, memory):
        axes.margins(x=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(sys.argv[1], metadata={"Date": None})


def _label(measures: dict) -> str:
    bad = (measures["failed"] + measures["wrong"]) / max(1, measures["answered"])
    return f"{measures['per_second']:,.0f}" + (f"  ({bad:.0%} failed or wrong)" if bad else "")


if __name__ == "__main__":
    main()
