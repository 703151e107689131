"""How quick a runner is, asked as the data plane asks it: by one caller, and by many."""

import asyncio
import json
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


# The event loop has more to do than to hand calls over: this is about what a request over HTTP costs it.
_DOCUMENT = json.dumps({"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16}]})


def _as_a_transport_does() -> None:
    json.dumps(json.loads(_DOCUMENT))


@dataclass(frozen=True, slots=True)
class Throughput:
    """What was done in a while; times in seconds, `cpu` of the whole process, `loop_cpu` of the event loop's thread."""

    answers: int
    seconds: float
    cpu: float
    loop_cpu: float

    @property
    def per_second(self) -> float:
        """Answers in a second, with what else the box did."""
        return self.answers / self.seconds

    def capacity(self, lanes: int, cores: int) -> float:
        """Answers in a second if the box had nothing else to do, by the processor time that they took.

        Bounded by the event loop's one core, by the engine's `lanes` (interpreters x threads), and by all cores.
        """
        engine_cpu = max(0.0, self.cpu - self.loop_cpu)
        return self.answers / max(self.loop_cpu, engine_cpu / lanes, self.cpu / cores, 1e-9)


async def by_many_callers(runner: Runner, inputs: Sequence[Tensors], seconds: float, callers: int) -> Throughput:
    """So many callers that ask again as soon as they have their answer, each once at least.

    For each answer the loop does a transport's work, too: what it does not spend on calls goes into more of them.
    Raises what the model raises.
    """
    started, cpu, loop_cpu = time.perf_counter(), time.process_time(), time.thread_time()
    ends, answered = started + seconds, 0

    async def ask(number: int) -> None:
        nonlocal answered
        while True:
            _as_a_transport_does()
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
    return Throughput(answered, time.perf_counter() - started, time.process_time() - cpu, time.thread_time() - loop_cpu)
