"""Answers a caller's batch in runs that the engine can do, side by side where sessions are idle."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from edge_runtime.errors import CallerError, Code
from edge_runtime.inference import batches
from edge_runtime.inference.call import Call
from edge_runtime.inference.engine import Session
from edge_runtime.inference.pool import Pool
from edge_runtime.inference.runner import Tensors


class Splitter:
    """A pool whose engine takes at most `rows` samples at once. Implements `runner.Runner`."""

    def __init__(self, pool: Pool, rows: int) -> None:
        self._pool = pool
        self._rows = rows
        self.run_now = pool.run_now  # as it is: what is quick enough for the event loop is no batch

    @property
    def size(self) -> int:
        """How many sessions there are."""
        return self._pool.size

    @property
    def busy(self) -> int:
        """How many sessions are running a call."""
        return self._pool.busy

    @property
    def waiting(self) -> int:
        """How many calls wait for a session."""
        return self._pool.waiting

    @property
    def inline_bytes(self) -> int:
        """See `runner.Runner.inline_bytes`."""
        return self._pool.inline_bytes

    async def run(self, tensors: Tensors, call: Call) -> dict[str, NDArray[Any]]:
        """See `runner.Runner.run`."""
        samples = batches.count(tensors)
        if samples <= self._rows:
            return await self._pool.run(tensors, call)
        share = _share(samples, max(1, self._pool.size - self._pool.busy), self._rows)
        parts = [batches.rows(tensors, i, i + share) for i in range(0, samples, share)]
        calls = [replace(call) for _ in parts]
        batch = _Batch(self._rows)
        try:
            answers = await asyncio.gather(
                *(self._pool.work(batch.work(part), noted) for part, noted in zip(parts, calls, strict=True))
            )
        finally:
            batch.wanted = False
        call.queue_seconds = max(noted.queue_seconds for noted in calls)
        call.engine_seconds = max(noted.engine_seconds for noted in calls)
        call.batch = self._rows
        return batches.join(answers)

    def close(self) -> None:
        """Let running calls finish and free the sessions."""
        self._pool.close()


class _Batch:
    """What the threads that work on one batch share: whether its answer is still wanted."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.wanted = True

    def work(self, tensors: Tensors) -> Callable[[Session], dict[str, NDArray[Any]]]:
        """For `Pool.work`: these samples, `rows` at a time."""

        def run(session: Session) -> dict[str, NDArray[Any]]:
            answers = []
            for start in range(0, batches.count(tensors), self._rows):
                if not self.wanted:
                    raise CallerError("nobody waits for this batch any more", Code.DEADLINE_EXCEEDED)
                part = batches.rows(tensors, start, start + self._rows)
                answers.append(session.run(part))
                batches.check_rows(answers[-1], batches.count(part))
            return batches.join(answers)

        return run


def _share(samples: int, workers: int, rows: int) -> int:
    """How many samples each worker gets: about as many each, in whole runs."""
    runs = -(-samples // rows)
    return -(-runs // workers) * rows
