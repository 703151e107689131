"""Models that run in worker processes of their own: a crash costs one answer, and the daemon nothing."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge_runtime.config import EngineConfig
from edge_runtime.contract.states import State
from edge_runtime.errors import Code, ContentError
from edge_runtime.inference.crash_history import CrashHistory
from edge_runtime.inference.engine import Delegate, Engine, Kernels
from edge_runtime.inference.worker_process import Job, WorkerLostError, WorkerProcess

log = logging.getLogger(__name__)


class IsolatedEngine:
    """An engine whose sessions are processes. Implements `engine.Engine`; make one for each model that is loaded.

    Args:
        inner: what runs in the processes.
        config: their limits.
        about: whose processes they are, for the log.
    """

    def __init__(self, inner: Engine, config: EngineConfig, about: str = "a model") -> None:
        self.name = inner.name
        self.version = inner.version
        self.delegate = inner.delegate
        self.history = CrashHistory(config.isolated_max_crashes, config.isolated_crash_window_seconds)
        self._inner = inner
        self._config = config
        self._about = about

    def with_delegate(self, delegate: Delegate) -> "IsolatedEngine":
        """See `engine.Engine.with_delegate`."""
        return IsolatedEngine(self._inner.with_delegate(delegate), self._config, self._about)

    def open(self, model: Path, kernels: Kernels, threads: int, state: State = "variables") -> "IsolatedSession":
        """See `engine.Engine.open`."""
        memory_bytes = self._config.isolated_memory_bytes
        job = Job(str(model.absolute()), self.name, kernels, threads, memory_bytes, state, self.delegate)
        return IsolatedSession(job, self._config, self.history, self._about)


class IsolatedSession:
    """A worker process, and another one where it crashed. Implements `engine.Session`."""

    def __init__(self, job: Job, config: EngineConfig, history: CrashHistory, about: str) -> None:
        self._job = job
        self._about = about
        self._config = config
        self._history = history
        worker = self._start()
        self._worker: WorkerProcess | None = worker
        self._remembers: WorkerProcess | None = None
        try:
            worker.ready()
        except WorkerLostError as lost:
            raise lost.error from lost
        except BaseException:
            worker.end()
            raise
        self.inputs, self.outputs = worker.inputs, worker.outputs
        self.sample_bytes, self.runs_on = worker.sample_bytes, worker.runs_on

    @property
    def pid(self) -> int | None:
        """The process id of the worker there is now."""
        return self._worker.pid if self._worker else None

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `engine.Session.run`. A worker that had ended before it was asked costs time, but no answer.

        Raises:
            ContentError: the model failed, crashed, hung, or keeps crashing (UNAVAILABLE, at once).
            DeviceError: the worker was killed from outside, or there is no memory for the tensors.
        """
        while True:
            worker = self._living()
            try:
                worker.ready()
                return worker.run(tensors)
            except WorkerLostError as lost:
                self._replace(lost)
                if not lost.unheard:
                    raise lost.error from lost

    def step(self, tensors: Mapping[str, NDArray[Any]], *, fresh: bool) -> dict[str, NDArray[Any]]:
        """See `engine.StatefulSession.step`; the state is lost with its worker."""
        outputs = self.run(tensors) if fresh else self._go_on(tensors)
        self._remembers = self._worker
        return outputs

    def _go_on(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        worker = self._worker
        if worker is None or worker is not self._remembers:
            raise ContentError("the state of this sequence is lost, for its worker process has ended")
        try:
            return worker.run(tensors, goes_on=True)
        except WorkerLostError as lost:
            self._replace(lost)
            raise lost.error from lost

    def close(self) -> None:
        """End the worker."""
        if self._worker:
            self._worker.end()
            self._worker = None

    def _start(self) -> WorkerProcess:
        return WorkerProcess(self._job, self._config.isolated_max_seconds, self._config.max_batch_bytes)

    def _living(self) -> WorkerProcess:
        if self._worker is None:
            self._check_pause()
            self._worker = self._start()
        return self._worker

    def _check_pause(self) -> None:
        now = time.monotonic()
        left = self._history.pause_left(now)
        if left:
            raise ContentError(
                f"the model keeps crashing ({self._history.recent(now)} times of late); it is left alone for "
                f"{left:.0f} s more. Push another version, or roll back",
                Code.UNAVAILABLE,
            )

    def _replace(self, lost: WorkerLostError) -> None:
        """Start the next worker at once, so that it loads while nobody waits; in a crash loop, not before its pause."""
        now = time.monotonic()
        self._history.crashed(now)
        left = self._history.pause_left(now)
        log.warning("%s: %s%s", self._about, lost.error, f"; next try in {left:.0f} s" if left else "")
        self._worker = None if left else self._start()
