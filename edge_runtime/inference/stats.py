"""Counts and latencies of one served version, cheap enough for every request."""

from bisect import bisect_left
from dataclasses import dataclass, field

from edge_runtime.errors import Code

# Upper bounds in seconds: from a microcontroller-size MLP to a large detector on a small core.
BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


@dataclass
class Stats:
    """What happened since the version was loaded; `buckets` has one more entry for everything slower."""

    requests: int = 0
    errors: dict[Code, int] = field(default_factory=dict)
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))

    def answered(self, seconds: float) -> None:
        """One answer that took `seconds`."""
        self.requests += 1
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS, seconds)] += 1

    def failed(self, code: Code) -> None:
        """One request that failed with `code`."""
        self.requests += 1
        self.errors[code] = self.errors.get(code, 0) + 1

    @property
    def model_failures(self) -> int:
        """Failures that are the model's or the box's fault, not the caller's."""
        return self.errors.get(Code.BAD_CONTENT, 0) + self.errors.get(Code.INTERNAL, 0)
