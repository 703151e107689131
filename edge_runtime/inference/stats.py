"""Counts and latencies of one served version, cheap enough for every request."""

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from edge_runtime.errors import Code, EdgeError
from edge_runtime.inference.call import Call

# Upper bounds in seconds: from a microcontroller-size MLP to a large detector on a small core.
SECONDS = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)


class Histogram:
    """How often something was how large; `buckets` has one more entry than `bounds`, for everything larger."""

    __slots__ = ("bounds", "buckets", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.sum = 0.0
        self.buckets = [0] * (len(bounds) + 1)

    def add(self, value: float) -> None:
        """Count one."""
        self.sum += value
        self.buckets[bisect_left(self.bounds, value)] += 1

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.buckets)

    def __add__(self, other: "Histogram") -> "Histogram":
        """All of both; their bounds are the same."""
        both = Histogram(self.bounds)
        both.sum = self.sum + other.sum
        both.buckets = [mine + its for mine, its in zip(self.buckets, other.buckets, strict=True)]
        return both

    def with_smallest(self, count: int) -> "Histogram":
        """These and so many of next to nothing."""
        more = Histogram(self.bounds)
        more.sum = self.sum
        more.buckets = [self.buckets[0] + count, *self.buckets[1:]]
        return more


@dataclass
class Stats:
    """What happened since the version was loaded; each histogram has every answered request once."""

    requests: int = 0
    errors: dict[Code, int] = field(default_factory=dict)
    _total: Histogram = field(default_factory=Histogram)
    _queue: Histogram = field(default_factory=Histogram)
    _pre: Histogram = field(default_factory=Histogram)
    _engine: Histogram = field(default_factory=Histogram)
    _post: Histogram = field(default_factory=Histogram)
    _batch: Histogram = field(default_factory=lambda: Histogram(SAMPLES))
    _now: Histogram = field(default_factory=Histogram)  # of those that waited for nothing: one to count in, not six

    def answered(self, seconds: float, call: Call) -> None:
        """One answer that took `seconds` in all; `call` says where they went."""
        self.requests += 1
        self._total.add(seconds)
        self._queue.add(call.queue_seconds)
        self._pre.add(call.pre_seconds)
        self._engine.add(call.engine_seconds)
        self._post.add(call.post_seconds)
        self._batch.add(call.batch)

    def answered_now(self, seconds: float) -> None:
        """One answer that went from the caller to the engine and back, and waited for nothing."""
        self.requests += 1
        self._now.add(seconds)

    def failed(self, code: Code) -> None:
        """One request that failed with `code`."""
        self.requests += 1
        self.errors[code] = self.errors.get(code, 0) + 1

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """An error in the block is a failed request, too: one that was refused before the data plane had it."""
        try:
            yield
        except EdgeError as error:
            self.failed(error.code)
            raise

    @property
    def total(self) -> Histogram:
        """Seconds from a request's arrival in the data plane to its answer."""
        return self._total + self._now

    @property
    def queue(self) -> Histogram:
        """Seconds of waiting for an interpreter."""
        return self._queue.with_smallest(self._now.count)

    @property
    def pre(self) -> Histogram:
        """Seconds of making the input tensors."""
        return self._pre.with_smallest(self._now.count)

    @property
    def engine(self) -> Histogram:
        """Seconds in the engine."""
        return self._engine + self._now

    @property
    def post(self) -> Histogram:
        """Seconds of reading the answer."""
        return self._post.with_smallest(self._now.count)

    @property
    def batch(self) -> Histogram:
        """How many samples the engine ran together with a request, its own among them."""
        alone = self._now.count
        batch = self._batch.with_smallest(alone)
        batch.sum += alone
        return batch

    @property
    def model_failures(self) -> int:
        """Failures that are the model's or the box's fault, not the caller's."""
        return self.errors.get(Code.BAD_CONTENT, 0) + self.errors.get(Code.INTERNAL, 0)
