"""How quick a runner is, asked as the data plane asks it: by one caller, and by many."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from edge_runtime.inference.call import Call
from edge_runtime.inference.runner import Runner, Tensors


@dataclass(slots=True)
class Latencies:
    """In milliseconds: how long each call took, and how long it held the event loop (only those that ran on it)."""

    calls: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        """The median of the calls."""
        return median(self.calls)

    @property
    def p99(self) -> float:
        """99 % of the calls were at most this long."""
        return percentile99(self.calls)


def percentile99(values: Sequence[float]) -> float:
    """The smallest value that 99 % of them do not exceed; 0 of none."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1] if values else 0.0


async def by_one_caller(runner: Runner, inputs: Sequence[Tensors], seconds: float) -> Latencies:
    """Call after call for so long, at least one; raises what the model raises."""
    found, ends, number = Latencies(), time.perf_counter() + seconds, 0
    while not found.calls or time.perf_counter() < ends:
        tensors = inputs[number % len(inputs)]
        number += 1
        started, busy = time.perf_counter(), time.thread_time()
        if runner.run_now(tensors) is None:
            await runner.run(tensors, Call())
        else:
            # Not the time on the clock: that others had the core meanwhile is not the model's doing.
            found.held.append((time.thread_time() - busy) * 1000)
        found.calls.append((time.perf_counter() - started) * 1000)
        await asyncio.sleep(0)
    return found


async def by_many_callers(runner: Runner, inputs: Sequence[Tensors], seconds: float, callers: int) -> float:
    """Samples answered in a second while so many callers ask again as soon as they have their answer.

    Raises what the model raises.
    """
    started = time.perf_counter()
    ends, answered = started + seconds, 0

    async def ask(number: int) -> None:
        nonlocal answered
        while True:
            tensors = inputs[number % len(inputs)]
            if runner.run_now(tensors) is None:
                await runner.run(tensors, Call())
            answered += 1
            number += 1
            if time.perf_counter() >= ends:
                return
            await asyncio.sleep(0)  # the turn of the loop in which a request would have come

    try:
        async with asyncio.TaskGroup() as tasks:
            for number in range(callers):
                tasks.create_task(ask(number))
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    return answered / (time.perf_counter() - started)
