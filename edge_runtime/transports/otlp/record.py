"""What is kept of a request until its spans are made, off the event loop."""

from collections.abc import Iterator
from typing import NamedTuple

from edge_runtime.errors import Code
from edge_runtime.system.trace_context import Span

_NS = 1_000_000_000


class Record(NamedTuple):
    """One recorded request. Times in seconds, but `ended_ns`: UNIX time in nanoseconds."""

    span: Span
    model: str
    version: str
    source: str
    id: str
    batch: int
    error: Code | None
    ended_ns: int
    seconds: float
    pre: float
    queue: float
    engine: float
    post: float

    @property
    def started_ns(self) -> int:
        """UNIX time of its arrival in nanoseconds."""
        return self.ended_ns - round(self.seconds * _NS)

    def stages(self) -> Iterator[tuple[str, int, int]]:
        """Name, begin and end (UNIX time in nanoseconds) of each stage that took time.

        They follow each other from the request's arrival; the last one, reading the answer, ends with the request.
        """
        at = self.started_ns
        for name, seconds in (("preprocess", self.pre), ("queue", self.queue), ("engine", self.engine)):
            if seconds > 0:
                end = min(at + round(seconds * _NS), self.ended_ns)
                yield name, at, end
                at = end
        if self.post > 0:
            yield "postprocess", max(at, self.ended_ns - round(self.post * _NS)), self.ended_ns
