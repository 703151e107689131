"""Sequences: a caller's own session of a model that keeps state between calls, one step after the other.

The meaning of id, start and end is that of Triton's sequence extension (docs: "Stateful Models").
"""

import asyncio
import contextlib
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from edge_runtime.config import EngineConfig
from edge_runtime.errors import CallerError, Code, ContentError, EdgeError
from edge_runtime.inference import batches
from edge_runtime.inference.call import Call, SequenceStep
from edge_runtime.inference.engine import StatefulSession
from edge_runtime.inference.loader import session_bytes
from edge_runtime.inference.pool import seconds_left
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.residence import Residence
from edge_runtime.inference.runner import Tensors

log = logging.getLogger(__name__)

# How often sequences are looked at while there are any: whether they are idle, or on a version that was replaced.
_LOOK_SECONDS = 0.5

Outputs = dict[str, NDArray[Any]]


class _Sequence:
    """One caller's state; it holds its version until it ends."""

    def __init__(self, key: tuple[str, str], served: ServedVersion) -> None:
        self.key = key
        self.served = served
        self.session: StatefulSession | None = None
        self.turn = asyncio.Lock()  # first come, first served
        self.waiting = 0
        self.ended = False
        self.last_step = time.monotonic()
        self.replaced: float | None = None
        self.held = contextlib.ExitStack()
        self.held.enter_context(served.held())


class _Ticket:
    """What a step and its caller tell each other."""

    def __init__(self) -> None:
        self.abandoned = False
        self.begun = False


class Sequences:
    """The sequences of all models. Belongs to the event loop's thread."""

    def __init__(self, registry: Registry, residence: Residence, config: EngineConfig) -> None:
        self._registry = registry
        self._residence = residence
        self._config = config
        self._live: dict[tuple[str, str], _Sequence] = {}
        self._threads = ThreadPoolExecutor(thread_name_prefix="sequence")  # one is made when it is needed
        self._look: asyncio.TimerHandle | None = None

    @property
    def live(self) -> int:
        """How many sequences there are."""
        return len(self._live)

    def version(self, model: str, version: str | None, step: SequenceStep) -> ServedVersion | None:
        """The version that the step's sequence began with, where it goes on with it; None: the caller's choice.

        Raises:
            CallerError: another version is asked for.
        """
        sequence = self._live.get((model, step.id))
        if sequence is None or step.start or sequence.served.unavailable:
            return None
        if version not in (None, sequence.served.version):
            raise CallerError(
                f"sequence {step.id!r} runs on version {sequence.served.version} of {model!r}, not on {version}; "
                "begin anew with sequence_start"
            )
        return sequence.served

    async def run(self, served: ServedVersion, tensors: Tensors, call: Call, step: SequenceStep) -> Outputs:
        """One step; those of one sequence run in the order in which they came here.

        A step whose deadline passes, or whose caller goes away, before the engine has it changes nothing. One that the
        engine has cannot be stopped: it counts, and the error says so.

        Raises:
            CallerError: unknown sequence; OVERLOADED at once if there are too many; DEADLINE_EXCEEDED.
            ContentError: the model failed, which ends the sequence.
        """
        sequence = self._find_or_begin(served, step)
        if sequence.waiting >= self._config.queue_max_requests:
            raise CallerError(
                f"overloaded: {sequence.waiting} steps of sequence {step.id!r} are waiting; try again later",
                Code.OVERLOADED,
            )
        ticket = _Ticket()
        sequence.waiting += 1
        task = asyncio.create_task(self._perform(sequence, tensors, call, step, ticket))
        task.add_done_callback(_fetched)
        try:
            async with asyncio.timeout(seconds_left(math.inf if call.deadline is None else call.deadline)):
                return await asyncio.shield(task)
        except TimeoutError as error:
            what = "it counts, for the model was running it" if ticket.begun else "it has changed nothing"
            raise CallerError(
                f"no answer within the deadline to this step of sequence {step.id!r}; {what}", Code.DEADLINE_EXCEEDED
            ) from error
        finally:
            ticket.abandoned = True

    def _find_or_begin(self, served: ServedVersion, step: SequenceStep) -> _Sequence:
        key = (served.name, step.id)
        sequence = self._live.get(key)
        if sequence is not None and (sequence.served is served or not step.start):
            return sequence
        if not step.start:
            raise _unknown(step, served.name, self._config.sequence_idle_seconds)
        if sequence is None:
            self._check_slots(served.name)
        begun = self._live[key] = _Sequence(key, served)
        if sequence is not None and not sequence.turn.locked():
            self._end(sequence)  # it was on another version
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._end_idle)
        return begun

    def _check_slots(self, model: str) -> None:
        found = sum(1 for name, _ in self._live if name == model)
        if found >= self._config.sequences_max:
            raise CallerError(
                f"{model!r} has {found} sequences, as many as it may (engine.sequences_max); end one with "
                f"sequence_end, or try again when one has been idle for {self._config.sequence_idle_seconds:g} s",
                Code.OVERLOADED,
            )

    async def _perform(
        self, sequence: _Sequence, tensors: Tensors, call: Call, step: SequenceStep, ticket: _Ticket
    ) -> Outputs:
        arrived = time.perf_counter()
        try:
            await sequence.turn.acquire()
        finally:
            sequence.waiting -= 1
        try:
            if ticket.abandoned:
                self._end_if_new(sequence)
                return {}
            if not sequence.ended:
                return await self._step(sequence, tensors, call, step, ticket, arrived)
            # A step before this one ended it.
            following = self._find_or_begin(sequence.served, step)
            following.waiting += 1
            return await self._perform(following, tensors, call, step, ticket)
        finally:
            sequence.turn.release()
            if self._live.get(sequence.key) is not sequence and not sequence.waiting:
                self._end(sequence)  # another one has taken its name meanwhile

    async def _step(
        self,
        sequence: _Sequence,
        tensors: Tensors,
        call: Call,
        step: SequenceStep,
        ticket: _Ticket,
        arrived: float,
    ) -> Outputs:
        try:
            if sequence.session is None:
                await self._open(sequence)
                if ticket.abandoned:
                    self._end(sequence)
                    return {}
            ticket.begun = True
            started = time.perf_counter()
            call.queue_seconds = started - arrived
            outputs = await self._in_engine(sequence, tensors, fresh=step.start)
            call.engine_seconds = time.perf_counter() - started
        except ContentError as error:
            self._end(sequence)
            raise ContentError(f"{error}; sequence {step.id!r} has ended", error.code) from error
        except BaseException:
            self._end(sequence)
            raise
        sequence.last_step = time.monotonic()
        if step.end:
            self._end(sequence)
        return outputs

    async def _open(self, sequence: _Sequence) -> None:
        served = sequence.served
        await self._residence.bring(served)
        if served.open_session is None:
            raise CallerError(f"{served.name!r} cannot be run in sequences here")
        needed = self._bytes(served)
        await self._residence.reserve(needed)
        sequence.held.callback(self._residence.give_back, needed)
        sequence.session = await asyncio.to_thread(served.open_session)

    def _bytes(self, served: ServedVersion) -> int:
        return session_bytes(served.manifest, served.description, isolated=served.placement.isolated)

    async def _in_engine(self, sequence: _Sequence, tensors: Tensors, *, fresh: bool) -> Outputs:
        session, served = sequence.session, sequence.served
        assert session is not None  # noqa: S101 - for the type checker: `_open` has set it

        def work() -> Outputs:
            samples = batches.count(tensors)
            if samples == 1 or not batches.holds_one_sample(served.description.inputs):
                return session.step(tensors, fresh=fresh)
            rows = [batches.rows(tensors, i, i + 1) for i in range(samples)]
            return batches.join([session.step(row, fresh=fresh and not i) for i, row in enumerate(rows)])

        if sum(t.nbytes for t in tensors.values()) <= served.runner.inline_bytes:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _end_if_new(self, sequence: _Sequence) -> None:
        """Its first step was given up before it could begin: nobody knows of it."""
        if sequence.session is None and not sequence.waiting:
            self._end(sequence)

    def _end(self, sequence: _Sequence) -> None:
        if sequence.ended:
            return
        sequence.ended, sequence.session = True, None
        if self._live.get(sequence.key) is sequence:
            del self._live[sequence.key]
        sequence.held.close()

    def _end_idle(self) -> None:
        now = time.monotonic()
        for sequence in tuple(self._live.values()):
            if not sequence.turn.locked() and self._is_over(sequence, now):
                self._end(sequence)
        loop = asyncio.get_running_loop()
        self._look = loop.call_later(_LOOK_SECONDS, self._end_idle) if self._live else None

    def _is_over(self, sequence: _Sequence, now: float) -> bool:
        served = sequence.served
        if served.unavailable or now - sequence.last_step > self._config.sequence_idle_seconds:
            return True
        active = self._registry.loaded(served.name)
        if active is None:
            return True  # the model was removed
        if active is served:
            sequence.replaced = None
        elif sequence.replaced is None:
            sequence.replaced = now
        linger = self._config.sequence_linger_seconds
        return sequence.replaced is not None and now - sequence.replaced >= linger

    def close(self) -> None:
        """End all of them."""
        if self._look is not None:
            self._look.cancel()
        for sequence in tuple(self._live.values()):
            self._end(sequence)
        self._threads.shutdown(wait=False, cancel_futures=True)


def _unknown(step: SequenceStep, model: str, idle_seconds: float) -> CallerError:
    return CallerError(
        f"there is no sequence {step.id!r} of {model!r}: it has ended, had no step for {idle_seconds:g} s, its version "
        "was replaced, or it never began; send its first step with sequence_start"
    )


def _fetched(task: "asyncio.Task[Outputs]") -> None:
    """So that the error of a step that nobody waits for any more is not reported as lost."""
    if not task.cancelled() and isinstance(task.exception(), EdgeError):
        log.debug("a step that nobody waits for has failed: %s", task.exception())
