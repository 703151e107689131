"""Counts and latencies of one served version, cheap enough for every request."""

from bisect import bisect_left
from dataclasses import dataclass, field

from edge_runtime.errors import Code
from edge_runtime.inference.call import Call

# Upper bounds in seconds: from a microcontroller-size MLP to a large detector on a small core.
BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Histogram:
    """How long something took; `buckets` has one more entry than BUCKETS, for everything slower."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)

    def add(self, seconds: float) -> None:
        """Count one that took `seconds`."""
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS, seconds)] += 1


@dataclass
class Stats:
    """What happened since the version was loaded; the histograms are of answered requests."""

    requests: int = 0
    errors: dict[Code, int] = field(default_factory=dict)
    total: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)
    pre: Histogram = field(default_factory=Histogram)
    engine: Histogram = field(default_factory=Histogram)
    post: Histogram = field(default_factory=Histogram)

    def answered(self, seconds: float, call: Call) -> None:
        """One answer that took `seconds` in all; `call` says where they went."""
        self.requests += 1
        self.total.add(seconds)
        self.queue.add(call.queue_seconds)
        self.pre.add(call.pre_seconds)
        self.engine.add(call.engine_seconds)
        self.post.add(call.post_seconds)

    def answered_now(self, seconds: float) -> None:
        """One answer that went from the caller to the engine and back, and waited for nothing."""
        self.requests += 1
        self.total.add(seconds)
        self.engine.add(seconds)

    def failed(self, code: Code) -> None:
        """One request that failed with `code`."""
        self.requests += 1
        self.errors[code] = self.errors.get(code, 0) + 1

    @property
    def model_failures(self) -> int:
        """Failures that are the model's or the box's fault, not the caller's."""
        return self.errors.get(Code.BAD_CONTENT, 0) + self.errors.get(Code.INTERNAL, 0)
