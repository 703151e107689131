"""Threads for what would hold up the event loop: unpacking pictures, parsing large documents."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from edge_runtime.errors import CallerError, Code

T = TypeVar("T")

# Up to here, work is done sooner than it is handed over.
ON_LOOP_BYTES = 16 * 1024


class Workers:
    """As many threads as cores, and a bounded number of callers waiting for one. Use it from one event loop only."""

    def __init__(self, max_waiting: int) -> None:
        self._threads = os.cpu_count() or 1
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="worker")
        self._max_waiting = max_waiting
        self._inside = 0

    async def run(self, size: int, function: Callable[[], T]) -> T:
        """The function's result; it runs right here if it works on few bytes (`size`), else in a thread.

        Raises:
            CallerError: OVERLOADED at once if too many wait already; and whatever the function raises.
        """
        if size <= ON_LOOP_BYTES:
            return function()
        if self._inside >= self._threads + self._max_waiting:
            raise CallerError(
                f"overloaded: {self._inside} large requests are being read; try again later", Code.OVERLOADED
            )
        work = asyncio.get_running_loop().run_in_executor(self._executor, function)
        self._inside += 1
        work.add_done_callback(self._done)
        return await asyncio.shield(work)

    def _done(self, work: "asyncio.Future[T]") -> None:
        self._inside -= 1
        if not work.cancelled():
            work.exception()  # fetched here, so that an abandoned call's error is not reported as lost

    def close(self) -> None:
        """Take no more work."""
        self._executor.shutdown(wait=False, cancel_futures=True)
