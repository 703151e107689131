"""The child process of the tuner: measures the setups of one model within a time, and answers line by line.

It is started as `python -m edge_runtime.deploy.tune_child` with a job (JSON) on standard input. An engine that crashes
in a setup takes only this process with it; the next one leaves that step out.
"""

import asyncio
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from edge_runtime.contract import manifest as manifests
from edge_runtime.contract import strict, tflite_metadata
from edge_runtime.deploy.batch_proof import PROOF_ROWS, rows_differ
from edge_runtime.deploy.probe_child import answer_pipe, check_golden, limit, load_golden
from edge_runtime.deploy.tuning_job import Line, TuningJob
from edge_runtime.errors import EdgeError
from edge_runtime.inference import batches, measure
from edge_runtime.inference import engine as engines
from edge_runtime.inference.engine import Engine, Kernels, Session
from edge_runtime.inference.measure import Latencies
from edge_runtime.inference.neutral import neutral_inputs
from edge_runtime.inference.runner import Tensors
from edge_runtime.inference.setup import Setup, candidates, make_runner, unmeasured
from edge_runtime.inference.tuning import NOISE, Measurement, Tuning
from edge_runtime.system import event_loop

_ROUNDS = 3
_WARM_UPS = 2
# Of a candidate's share, what goes to the lone caller; the rest goes to many.
_LONE_SHARE = 0.4
_CALLERS_PER_CORE = 4
# A setup that holds the event loop for longer than this delays every other model's callers.
_HELD_MAX_MS = 0.5
_UNKNOWN_NOISE = 0.25
# What is so much worse than the best, in both measures, after the first round will not win.
_HOPELESS = 1.5
_SINGLE_RUNS = 50
_FEW_RUNS = 5
# Proofs (golden vectors, batches) may take this share of the time.
_PROOF_SHARE = 0.25
_SESSIONS_BYTES = 768 * 1024 * 1024
_MAX_WAITING = 100_000

Tell = Callable[[Line], None]


def main() -> int:
    """Answer the job on standard input; lines go to standard output, everything else to standard error."""
    with answer_pipe() as answer:

        def tell(line: Line) -> None:
            answer.write(json.dumps(strict.encode(line)) + "\n")
            answer.flush()

        job = strict.decode(TuningJob, json.loads(sys.stdin.buffer.read()))
        limit(job.memory_bytes, job.cpu_seconds)
        try:
            tell(Line(done=1.0, tuning=tune(job, tell)))
        except (EdgeError, ValueError, MemoryError) as error:
            tell(Line(error=str(error) or type(error).__name__))
    return 0


def tune(job: TuningJob, tell: Tell) -> Tuning:
    """Measure what the job asks for.

    Raises:
        ContentError: the engine refuses the model.
    """
    contest = Contest(job, engines.choose(job.description.engine), tell)
    with asyncio.Runner(loop_factory=event_loop.factory()) as runner:
        return runner.run(contest.run())


@dataclass
class _Entry:
    """One candidate with what was measured of it."""

    setup: Setup
    latencies: Latencies = field(default_factory=Latencies)
    rates: list[float] = field(default_factory=list)
    capacities: list[float] = field(default_factory=list)
    dropped: str = ""

    def result(self) -> Measurement:
        """As it is told."""
        if self.dropped or not self.rates:
            return Measurement(self.setup, dropped=self.dropped or "not measured: tune_seconds were over")
        p50, p99 = round(self.latencies.p50, 4), round(self.latencies.p99, 4)
        return Measurement(self.setup, p50, p99, round(median(self.rates), 2), round(median(self.capacities), 2))


class _Sessions:
    """Sessions by kernels and threads, opened once; all are dropped where they would need too much memory together."""

    def __init__(self, engine: Engine, job: TuningJob) -> None:
        self._engine = engine
        self._job = job
        self._open: dict[tuple[Kernels, int], list[Session]] = {}

    def get(self, kernels: Kernels, threads: int, count: int) -> list[Session]:
        """So many of them. Raises ContentError where the engine refuses."""
        found = self._open.get((kernels, threads), [])
        missing = count - len(found)
        total = sum(map(len, self._open.values())) + missing
        if missing > 0 and total * self._job.description.memory_bytes > _SESSIONS_BYTES:
            self._open, missing, found = {}, count, []
        found = found + [self._engine.open(Path(self._job.model), kernels, threads) for _ in range(missing)]
        self._open[kernels, threads] = found
        return found[:count]


class Contest:
    """Proves the candidates, then measures them in rounds, so that what else the box does is shared fairly."""

    def __init__(self, job: TuningJob, engine: Engine, tell: Tell) -> None:
        self._job = job
        self._tell = tell
        self._began = time.perf_counter()
        self._load = round(os.getloadavg()[0] / job.cores, 2)
        self._seconds = job.config.tune_seconds
        self._engine = engine
        self._sessions = _Sessions(engine, job)
        self._manifest = manifests.parse(job.manifest.encode())
        self._golden = Path(job.golden) if job.golden else None
        self._callers = max(8, _CALLERS_PER_CORE * job.cores)
        self._unproven: dict[tuple[Kernels, int], str] = {}
        self._single_ms: dict[Kernels, float] = {}

    async def run(self) -> Tuning:
        """The whole of it."""
        job = self._job
        inputs = self._inputs()
        self._time_kernels(inputs)
        no_batches = self._batches_badly(inputs)
        setups = candidates(job.description, job.config, batches_well=not no_batches, box_cores=job.cores)
        entries = [_Entry(setup, dropped=self._objection(setup)) for setup in setups]
        await self._rounds([entry for entry in entries if not entry.dropped], inputs)
        results = [entry.result() for entry in entries]
        if no_batches and job.config.batch_max_samples > 1:
            results.append(Measurement(Setup(job.description.kernels, batch=2), dropped=no_batches))
        return Tuning(
            cpu=job.cpu,
            cores=job.cores,
            engine=f"{self._engine.name} {self._engine.version}",
            unix_time=time.time(),
            seconds=round(time.perf_counter() - self._began, 3),
            callers=self._callers,
            inputs="golden" if self._golden else "zeros",
            measurements=tuple(results),
            usual=unmeasured(job.description, job.config),
            noise=_noise(entries),
            load=self._load,
            fixed=_fixed(job),
        )

    def _left(self) -> float:
        return self._began + self._seconds - time.perf_counter()

    def _inputs(self) -> list[Tensors]:
        description = self._job.description
        if self._golden is None:
            return [neutral_inputs(description.inputs)]
        (session,) = self._sessions.get(description.kernels, 1, 1)
        golden = load_golden(self._golden, session)
        count = len(next(iter(golden.values())))
        return [{spec.name: golden[f"input/{spec.name}"][i] for spec in session.inputs} for i in range(count)]

    def _step(self, name: str) -> str:
        """Say what is done next; how it ended where it killed the process before."""
        died = self._job.crashed.get(name, "")
        if not died:
            self._tell(Line(step=name))
        return f"crashed: the engine died with {died}" if died else ""

    # Proofs

    def _time_kernels(self, inputs: Sequence[Tensors]) -> None:
        """Which kernels are quicker does not depend on the rest: it is found in single runs, turn by turn."""
        wanted = self._job.config.kernels
        kinds: list[Kernels] = ["fast", "builtin"] if wanted == "auto" else [wanted]
        threads = self._job.config.threads or 1
        for kernels in kinds:
            problem = self._prove(kernels, threads)
            if problem:
                self._unproven[kernels, 0] = problem  # whatever else is said of them
        usable = [kernels for kernels in kinds if (kernels, 0) not in self._unproven]
        sessions = {kernels: self._sessions.get(kernels, threads, 1)[0] for kernels in usable}
        self._single_ms, runs = _quickest_runs(sessions, inputs[0], _PROOF_SHARE / 2 * self._seconds)
        # What is usual is only left for what is surely quicker.
        best = min(usable, key=lambda kernels: self._single_ms[kernels] * (1 + NOISE * (kernels != "fast")), default="")
        if runs < _FEW_RUNS and self._job.description.kernels in usable:
            best = self._job.description.kernels
        for kernels in usable:
            if kernels != best:
                times = " and ".join(f"{ms:.3g} ms with {name} kernels" for name, ms in self._single_ms.items())
                self._unproven[kernels, 0] = f"not quicker: one sample takes {times}"

    def _prove(self, kernels: Kernels, threads: int) -> str:
        """Why these must not be used; empty where they may. Asked once for each."""
        known = self._unproven.get((kernels, 0)) or self._unproven.get((kernels, threads))
        if known is not None:
            return known
        problem = self._step(f"{kernels} kernels, {threads} thread(s)") or self._fault(kernels, threads)
        self._unproven[kernels, threads] = problem
        return problem

    def _fault(self, kernels: Kernels, threads: int) -> str:
        description = self._job.description
        try:
            (session,) = self._sessions.get(kernels, threads, 1)
            started = time.perf_counter()
            session.run(neutral_inputs(session.inputs))
            once = time.perf_counter() - started
            if self._golden is None or (kernels == description.kernels and threads == 1):
                return ""  # nothing to compare with, or what the probe has proven
            count = len(next(iter(load_golden(self._golden, session).values())))
            if once * count > _PROOF_SHARE * self._seconds:
                return f"not proven: the {count} golden vectors would take {once * count:.1f} s"
            check_golden(self._golden, session, description, self._manifest)
        except EdgeError as error:
            return str(error)
        return ""

    def _batches_badly(self, inputs: Sequence[Tensors]) -> str:
        """Why calls of different callers cannot share a run; empty where they can."""
        problem = self._cannot_batch()
        if problem:
            return f"no batches: {problem}"
        crashed = self._step("a batch")
        if crashed:
            return crashed
        kernels = min(self._single_ms, key=self._single_ms.__getitem__)
        try:
            return rows_differ(self._engine.open(Path(self._job.model), kernels, 1), inputs[0])
        except EdgeError as error:
            return f"no batches: {error}"

    def _cannot_batch(self) -> str:
        """What can be said without running one."""
        description, model = self._job.description, Path(self._job.model).read_bytes()
        quickest = min(self._single_ms.values(), default=0.0)
        reasons = {
            "batch_max_samples is 1": self._job.config.batch_max_samples == 1,
            "not all tensors have a first dimension for samples and are fixed in the others": not batches.stackable(
                description.inputs, description.outputs
            ),
            "the model keeps state": tflite_metadata.state(model) != "none",
            "the model has control flow": tflite_metadata.has_control_flow(model),
            "no kernels could be used": not self._single_ms,
            f"{quickest:.3g} ms for one sample is too slow to prove them within tune_seconds": (
                4 * PROOF_ROWS * quickest / 1000 > _PROOF_SHARE * self._seconds
            ),
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    def _objection(self, setup: Setup) -> str:
        """Why it is not measured at all."""
        problem = self._prove(setup.kernels, setup.threads)
        if not problem and setup.inline and self._single_ms[setup.kernels] > _HELD_MAX_MS:
            problem = _holds_up(self._single_ms[setup.kernels])
        died = self._job.crashed.get(str(setup), "")
        return problem or (f"crashed: the engine died with {died}" if died else "")

    # Measuring

    async def _rounds(self, entries: Sequence[_Entry], inputs: Sequence[Tensors]) -> None:
        slots = _ROUNDS * len(entries)
        live = list(entries)
        for number in range(_ROUNDS):
            for entry in live if number % 2 == 0 else live[::-1]:
                left = self._left()
                if left <= 0 and (number or entry is not entries[0]):
                    return
                self._tell(Line(step=str(entry.setup), done=min(0.99, 1 - max(0.0, left) / self._seconds)))
                await self._measure(entry, inputs, max(0.0, left) / max(1, slots))
                slots -= 1
            live = list(_hopeful([entry for entry in live if not entry.dropped]))
            slots = (_ROUNDS - number - 1) * len(live)

    async def _measure(self, entry: _Entry, inputs: Sequence[Tensors], seconds: float) -> None:
        setup = entry.setup
        try:
            sessions = self._sessions.get(setup.kernels, setup.threads, setup.instances)
            runner = make_runner(sessions, setup, self._job.description, _MAX_WAITING)
            try:
                for _ in range(_WARM_UPS if not entry.rates else 1):
                    await measure.by_many_callers(runner, inputs, 0, setup.instances * setup.batch)
                found = await measure.by_one_caller(runner, inputs, seconds * _LONE_SHARE)
                callers = self._callers
                if found.p50 * callers / 1000 > seconds:  # too slow for them all: as many as keep it busy
                    callers = min(callers, 2 * setup.instances * setup.batch)
                done = await measure.by_many_callers(runner, inputs, seconds * (1 - _LONE_SHARE), callers)
            finally:
                runner.close()
        except EdgeError as error:
            entry.dropped = str(error)
            return
        entry.rates.append(done.per_second)
        entry.capacities.append(done.capacity(1 if setup.inline else setup.instances * setup.threads, self._job.cores))
        entry.latencies.calls += found.calls
        entry.latencies.held += found.held
        held = measure.percentile99(entry.latencies.held)
        if held > _HELD_MAX_MS:
            entry.dropped = _holds_up(held)


def _holds_up(milliseconds: float) -> str:
    return f"would hold up the event loop for {milliseconds:.3g} ms, more than {_HELD_MAX_MS:g} ms"


def _noise(entries: Sequence[_Entry]) -> float:
    """How far the rounds of a setup usually are from their middle; of one round nothing can be told."""
    spreads = [
        (max(entry.rates) - min(entry.rates)) / (max(entry.rates) + min(entry.rates))
        for entry in entries
        if len(entry.rates) > 1
    ]
    return round(median(spreads), 3) if spreads else _UNKNOWN_NOISE


def _hopeful(entries: Sequence[_Entry]) -> Iterator[_Entry]:
    quickest = min((entry.latencies.p50 for entry in entries), default=0.0)
    most = max((median(entry.rates) for entry in entries), default=0.0)
    for entry in entries:
        if entry.latencies.p50 <= quickest * _HOPELESS or max(entry.rates + entry.capacities) * _HOPELESS >= most:
            yield entry


def _quickest_runs(
    sessions: Mapping[Kernels, Session], tensors: Tensors, seconds: float
) -> tuple[dict[Kernels, float], int]:
    """Least processor time of a single run in each, in milliseconds, and how many runs each had (two at least)."""
    quickest: dict[Kernels, float] = dict.fromkeys(sessions, math.inf)
    ends, runs = time.perf_counter() + seconds, 0
    while runs < _WARM_UPS or (runs < _SINGLE_RUNS and time.perf_counter() < ends):
        runs += 1
        for kernels, session in sessions.items():
            started = time.process_time()
            session.run(tensors)
            quickest[kernels] = min(quickest[kernels], (time.process_time() - started) * 1000)
    return quickest, runs


def _fixed(job: TuningJob) -> tuple[str, ...]:
    config = job.config
    chosen = {"kernels": config.kernels != "auto", "instances": config.instances, "threads": config.threads}
    return tuple(f"{key} = {getattr(config, key)}" for key, given in chosen.items() if given)


if __name__ == "__main__":
    sys.exit(main())
