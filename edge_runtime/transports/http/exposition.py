"""Metrics as text: Prometheus's format 0.0.4 and OpenMetrics 1.0.

Written here and not by prometheus_client, whose text comes all at once: a scrape shares its core with inference.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from edge_runtime.inference.stats import Histogram

PROMETHEUS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OPENMETRICS_END = "# EOF\n"


def labels(**values: str) -> str:
    """`a="b",c="d"`, with what the format wants escaped."""
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in values.items()])


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@dataclass(slots=True)
class Family:
    """All series of one metric.

    Attributes:
        name: with its unit; without the `_total` of a counter.
        text: what it means.
        values: by labels ("" for none), which are all different.
    """

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    values: dict[str, float] = field(default_factory=dict)

    def lines(self, *, openmetrics: bool) -> Iterator[str]:
        """The text of it, line by line."""
        sample = f"{self.name}_total" if self.kind == "counter" else self.name
        yield from _head(self.name if openmetrics else sample, self.kind, self.text)
        for where, value in self.values.items():
            yield f"{sample}{{{where}}} {_number(value)}\n" if where else f"{sample} {_number(value)}\n"


@dataclass(slots=True)
class HistogramFamily:
    """All series of one histogram; see Family. `values` are read once."""

    name: str
    text: str
    values: Iterable[tuple[str, Histogram]]

    def lines(self, *, openmetrics: bool) -> Iterator[str]:  # noqa: ARG002 - the same in both
        """The text of it, line by line."""
        yield from _head(self.name, "histogram", self.text)
        for where, histogram in self.values:
            start, total = f'{self.name}_bucket{{{where},le="', 0
            for bound, count in zip(_bounds(histogram.bounds), histogram.buckets, strict=True):
                total += count
                yield f'{start}{bound}"}} {total}\n'
            yield f"{self.name}_count{{{where}}} {total}\n"
            yield f"{self.name}_sum{{{where}}} {_number(histogram.sum)}\n"


Metric = Family | HistogramFamily


@cache
def _bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*(repr(float(bound)) for bound in bounds), "+Inf")


def single(name: str, kind: Literal["counter", "gauge"], meaning: str, value: float) -> Family:
    """A metric of one series without labels."""
    return Family(name, kind, meaning, {"": value})


def wants_openmetrics(accept: str) -> bool:
    """Whether an Accept header asks for OpenMetrics in a version that is known here."""
    for part in accept.split(","):
        kind, *parameters = [piece.strip() for piece in part.split(";")]
        versions = [value for name, _, value in (p.partition("=") for p in parameters) if name == "version"]
        if kind == "application/openmetrics-text" and set(versions) <= {"1.0.0"}:
            return True
    return False


def _head(name: str, kind: str, meaning: str) -> Iterable[str]:
    return (f"# HELP {name} {meaning}\n", f"# TYPE {name} {kind}\n")


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
