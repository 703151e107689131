"""A bounded pool of sessions: one call at a time in each, a bounded number of callers waiting."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from numpy.typing import NDArray

from edge_runtime.errors import CallerError, Code, DeviceError
from edge_runtime.inference.call import Call
from edge_runtime.inference.engine import Session
from edge_runtime.inference.pace import Pace
from edge_runtime.inference.runner import Tensors

T = TypeVar("T")

# Handing a call to a thread and back costs about this much; a faster model is quicker on the event loop itself.
INLINE_BELOW_MS = 0.2
# Of all models: one is made only where none is idle, so that a box with many models does not keep some for each. There
# are never more calls than sessions; the bound is for a box that has more of them than threads make sense.
_THREADS = ThreadPoolExecutor(1024, thread_name_prefix="engine")


class Pool:
    """Runs calls of one model. Implements `runner.Runner`; the engine releases the GIL in its threads.

    Calls with at most `inline_bytes` of input (0: none) run on the event loop itself.
    """

    def __init__(self, sessions: Sequence[Session], *, max_waiting: int, inline_bytes: int) -> None:
        self._idle = list(sessions)
        self._size = len(sessions)
        self._waiters: deque[_Waiter] = deque()
        self._max_waiting = max_waiting
        self.pace = Pace()
        self.inline_bytes = inline_bytes
        self._closed = False

    @property
    def busy(self) -> int:
        """How many sessions are running a call."""
        return self._size - len(self._idle)

    @property
    def waiting(self) -> int:
        """How many calls wait for a session."""
        return len(self._waiters)

    @property
    def size(self) -> int:
        """How many sessions there are."""
        return self._size

    def run_now(self, tensors: Tensors) -> dict[str, NDArray[Any]] | None:
        """See `runner.Runner.run_now`."""
        if not self._idle or sum([t.nbytes for t in tensors.values()]) > self.inline_bytes or not self.inline_bytes:
            return None
        return self._idle[-1].run(tensors)

    async def run(self, tensors: Tensors, call: Call) -> dict[str, NDArray[Any]]:
        """See `runner.Runner.run`."""
        return await self.work(lambda session: session.run(tensors), call)

    async def work(self, job: Callable[[Session], T], call: Call) -> T:
        """The job's result; it gets a session of its own, in a thread. Waits, notes and raises as `run` does."""
        arrived = time.perf_counter()
        deadline = math.inf if call.deadline is None else call.deadline
        session = await self._acquire(deadline)
        started = time.perf_counter()
        call.queue_seconds = started - arrived
        work = self._begin(job, session)
        # The thread cannot be interrupted: the session comes back when it is done, whoever still waits for it.
        work.add_done_callback(lambda done: self._release(session, done))
        try:
            async with asyncio.timeout(seconds_left(deadline)):
                result = await asyncio.shield(work)
        except TimeoutError as error:
            raise too_late() from error
        call.engine_seconds = time.perf_counter() - started
        return result

    def _timed(self, job: Callable[[Session], T], handed_over: list[Session]) -> T:
        """In the thread: how long the event loop takes to hear of the end says nothing about the model."""
        session, started = handed_over.pop(), time.perf_counter()
        try:
            return job(session)
        finally:
            self.pace.note(time.perf_counter() - started)

    def _begin(self, job: Callable[[Session], T], session: Session) -> "asyncio.Future[T]":
        handed_over = [session]
        try:
            return asyncio.get_running_loop().run_in_executor(_THREADS, self._timed, job, handed_over)
        except RuntimeError as error:
            # The executor has queued it all the same: a thread that comes to it later must find nothing.
            if handed_over:
                self._give_back(handed_over.pop())
            raise DeviceError(
                f"the engine has no thread to run in ({error}); try again later", Code.OVERLOADED
            ) from error

    async def _acquire(self, deadline: float) -> Session:
        if self._idle:
            return self._idle.pop()
        if len(self._waiters) >= self._max_waiting:
            raise CallerError(
                f"overloaded: {self._size} running and {len(self._waiters)} waiting; try again later", Code.OVERLOADED
            )
        self.pace.check(len(self._waiters) / self._size, deadline)
        waiter = _Waiter(asyncio.get_running_loop().create_future(), deadline)
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(seconds_left(deadline)):
                return await waiter.session
        except (TimeoutError, asyncio.CancelledError) as error:
            self._abandon(waiter)
            if isinstance(error, TimeoutError):
                raise too_late() from error
            raise

    def _abandon(self, waiter: "_Waiter") -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        elif waiter.session.done() and not waiter.session.cancelled() and not waiter.session.exception():
            self._give_back(waiter.session.result())

    def _release(self, session: Session, done: "asyncio.Future[Any]") -> None:
        if not done.cancelled():
            done.exception()  # fetched here, so that an abandoned call's error is not reported as lost
        self._give_back(session)

    def _give_back(self, session: Session) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if waiter.session.done():
                continue
            if self.pace.hopeless(waiter.deadline):
                waiter.session.set_exception(too_late())
                continue
            waiter.session.set_result(session)
            return
        if not self._closed:
            self._idle.append(session)

    def close(self) -> None:
        """Let running and waiting calls finish and free the sessions."""
        self._closed = True
        self._idle.clear()


class _Waiter(NamedTuple):
    session: "asyncio.Future[Session]"
    deadline: float


def seconds_left(deadline: float) -> float | None:
    """What is left until a time in time.monotonic() seconds; None for ever."""
    return None if deadline == math.inf else max(0.0, deadline - time.monotonic())


def too_late() -> CallerError:
    """What a caller is told whose deadline has passed."""
    return CallerError("no answer within the deadline; the request was dropped", Code.DEADLINE_EXCEEDED)
