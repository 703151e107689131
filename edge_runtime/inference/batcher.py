"""Dynamic batching: calls of different callers that come close together share one run of the engine."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edge_runtime.errors import CallerError, Code, EdgeError
from edge_runtime.inference import batches
from edge_runtime.inference.call import Call
from edge_runtime.inference.engine import Session
from edge_runtime.inference.pool import Pool, seconds_left, too_late
from edge_runtime.inference.runner import Tensors
from edge_runtime.inference.splitter import Splitter

Outputs = dict[str, NDArray[Any]]


@dataclass(slots=True, eq=False)
class _Waiting:
    tensors: Tensors
    samples: int
    call: Call
    arrived: float
    answer: "asyncio.Future[Outputs]"
    gone: bool = False


class Batcher(Splitter):
    """Puts up to `rows` samples into one run, in the order they came. Implements `runner.Runner`.

    While every session is busy, calls gather by themselves. `delay_seconds` is the longest that a call waits for more
    to come although a session is idle; it does so only where the run before had more samples than wait now.
    Only for models whose tensors differ in nothing but the first dimension (`batches.stackable`).
    """

    def __init__(self, pool: Pool, *, rows: int, delay_seconds: float, max_waiting: int) -> None:
        super().__init__(pool, rows)
        self._delay_seconds = delay_seconds
        self._max_waiting = max_waiting
        self._queue: deque[_Waiting] = deque()
        self._expected = 1
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False

    @property
    def waiting(self) -> int:
        """How many calls wait for a session."""
        return len(self._queue) + self._pool.waiting

    async def run(self, tensors: Tensors, call: Call) -> Outputs:
        """See `runner.Runner.run`."""
        samples = batches.count(tensors)
        if samples > self._rows:
            return await super().run(tensors, call)
        idle = self._pool.size - len(self._running)
        if len(self._queue) >= self._max_waiting + idle * self._rows:
            raise CallerError(
                f"overloaded: {self._pool.size} running and {len(self._queue)} waiting; try again later",
                Code.OVERLOADED,
            )
        runs_before = sum(waiting.samples for waiting in self._queue) // self._rows
        if runs_before >= idle:  # else a session takes it now
            deadline = math.inf if call.deadline is None else call.deadline
            self._pool.pace.check(runs_before / self._pool.size, deadline)
        waiting = _Waiting(tensors, samples, call, time.perf_counter(), asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if idle and (self._timer is None or not self._pause()):
            self._dispatch_soon()
        try:
            async with asyncio.timeout(seconds_left(math.inf if call.deadline is None else call.deadline)):
                return await waiting.answer
        except TimeoutError as error:
            raise too_late() from error
        finally:
            self._forget(waiting)

    def _forget(self, waiting: _Waiting) -> None:
        waiting.gone = True
        if waiting in self._queue:
            self._queue.remove(waiting)

    def _dispatch_soon(self) -> None:
        """Not at once: what else comes in this turn of the event loop joins without anybody waiting for it."""
        self._rest()
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Start runs while sessions are idle and there is something to run; wait for more where that may pay."""
        self._woken = False
        self._rest()
        while self._queue and len(self._running) < self._pool.size:
            pause = self._pause()
            if pause > 0:
                self._timer = asyncio.get_running_loop().call_later(pause, self._dispatch)
                return
            group = self._take()
            if not group:
                continue
            run = asyncio.create_task(self._run(group))
            self._running.add(run)
            run.add_done_callback(self._finished)

    def _finished(self, run: "asyncio.Task[None]") -> None:
        self._running.discard(run)
        self._dispatch_soon()

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pause(self) -> float:
        """How many seconds it may be worth to wait for more."""
        samples = sum(waiting.samples for waiting in self._queue)
        if not self._delay_seconds or samples >= self._expected:
            return 0.0
        return max(0.0, self._queue[0].arrived + self._delay_seconds - time.perf_counter())

    def _take(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        samples = 0
        while self._queue and samples + self._queue[0].samples <= self._rows:
            waiting = self._queue.popleft()
            if waiting.call.deadline is not None and self._pool.pace.hopeless(waiting.call.deadline):
                waiting.answer.set_exception(too_late())
                continue
            group.append(waiting)
            samples += waiting.samples
        self._expected = max(1, samples)
        return group

    async def _run(self, group: Sequence[_Waiting]) -> None:
        started, noted = time.perf_counter(), Call()
        answers: Sequence[Outputs | Exception | None]
        try:
            answers = await self._pool.work(lambda session: _answers(session, group), noted)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer that they wait for
            answers = [error] * len(group)
        samples = sum(waiting.samples for waiting in group)
        for waiting, answer in zip(group, answers, strict=True):
            call = waiting.call
            call.queue_seconds = started - waiting.arrived + noted.queue_seconds
            call.engine_seconds, call.batch = noted.engine_seconds, samples
            if answer is None or waiting.answer.done():
                continue
            if isinstance(answer, Exception):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)

    def close(self) -> None:
        """Let running calls finish and free the sessions."""
        self._rest()
        super().close()


def _answers(session: Session, group: Sequence[_Waiting]) -> Sequence[Outputs | Exception | None]:
    """For each its outputs or its own error; None where nobody waits any more. Runs in a thread."""
    wanted = [waiting for waiting in group if not waiting.gone]
    if len(wanted) > 1:
        try:
            found = iter(_together(session, wanted))
        except EdgeError:
            pass  # whose fault it is shows when each is run alone
        else:
            return [None if waiting not in wanted else next(found) for waiting in group]
    return [_alone(session, waiting) for waiting in group]


def _together(session: Session, group: Sequence[_Waiting]) -> list[Outputs]:
    samples = sum(waiting.samples for waiting in group)
    outputs = session.run(batches.join([waiting.tensors for waiting in group]))
    batches.check_rows(outputs, samples)
    answers, start = [], 0
    for waiting in group:
        answers.append(batches.rows(outputs, start, start + waiting.samples))
        start += waiting.samples
    return answers


def _alone(session: Session, waiting: _Waiting) -> Outputs | EdgeError | None:
    if waiting.gone:
        return None
    try:
        return session.run(waiting.tensors)
    except EdgeError as error:
        return error
