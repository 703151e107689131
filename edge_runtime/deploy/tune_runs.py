"""Tuning that an operator asked for: long work that can be watched."""

import asyncio
import logging
from typing import Any, Literal

from edge_runtime.deploy.repository import Repository
from edge_runtime.deploy.tuner import Progress, Tuner
from edge_runtime.errors import CallerError, Code, DeviceError, EdgeError
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.tuning import Objective

log = logging.getLogger(__name__)


class TuneRun:
    """One model being tuned, or how that ended."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.state: Literal["RUNNING", "DONE", "FAILED"] = "RUNNING"
        self._done = 0.0
        self._reason = ""
        self._result: dict[str, Any] | None = None
        self._changed = asyncio.Event()

    def progress(self, done: float) -> None:
        """How far it is, 0 to 1."""
        self._done = done
        self._tell()

    def succeed(self, setup: str, tuning: dict[str, Any] | None) -> None:
        """It is over; the model runs in this setup."""
        self.state, self._done, self._result = "DONE", 1.0, {"setup": setup, "tuning": tuning}
        self._tell()

    def fail(self, reason: str) -> None:
        """It is over; the model runs as before."""
        self.state, self._reason = "FAILED", reason
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Return when something has changed, at the latest after `seconds`."""
        if self.state == "RUNNING":
            waiting = asyncio.create_task(self._changed.wait())
            await asyncio.wait([waiting], timeout=seconds)
            waiting.cancel()

    def view(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "model": self.model,
            "state": self.state,
            "done": round(self._done, 3),
            "reason": self._reason,
        } | (self._result or {})


class TuneRuns:
    """The last run of each model; used from one event loop only."""

    def __init__(self, tuner: Tuner, repository: Repository, registry: Registry, tasks: asyncio.TaskGroup) -> None:
        self._tuner = tuner
        self._repository = repository
        self._registry = registry
        self._tasks = tasks
        self._runs: dict[str, TuneRun] = {}
        self._working: set[asyncio.Task[None]] = set()

    def start(self, model: str, objective: Objective | None) -> TuneRun:
        """Begin to tune a served model; one that is being tuned already is not begun again.

        Raises:
            CallerError: NOT_FOUND; CONFLICT where it is being tuned.
        """
        self._check_served(model)
        known = self._runs.get(model)
        if known is not None and known.state == "RUNNING":
            raise CallerError(f"{model} is being tuned already; look at it with GET", Code.CONFLICT)
        run = self._runs[model] = TuneRun(model)
        self._runs = {name: run for name, run in self._runs.items() if name in self._names()}
        work = self._tasks.create_task(self._work(run, objective), name=f"tune {model}")
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        return run

    def find(self, model: str) -> TuneRun:
        """The run under way, or the last one; raises CallerError NOT_FOUND."""
        self._check_served(model)
        if model not in self._runs:
            raise CallerError(
                f"nobody asked to tune {model} since this daemon started; do so with POST", Code.NOT_FOUND
            )
        return self._runs[model]

    def _names(self) -> set[str]:
        return {served.name for served in self._registry.active()}

    def _check_served(self, model: str) -> None:
        if model not in self._names():
            raise CallerError(f"model {model!r} is not on this box", Code.NOT_FOUND)

    async def _work(self, run: TuneRun, objective: Objective | None) -> None:
        try:
            served = await self._tune(run.model, objective, run.progress)
        except EdgeError as error:
            run.fail(str(error))
        except Exception as error:
            log.exception("tuning %s failed unexpectedly", run.model)
            run.fail(f"internal error: {type(error).__name__}: {error}")
        else:
            tuning = self._tuner.known(served.manifest, served.description)
            view = tuning.view(served.objective) if tuning else None
            run.succeed(str(served.setup), view)
        finally:
            if run.state == "RUNNING":
                run.fail("the box is stopping")

    async def _tune(self, model: str, objective: Objective | None, progress: Progress) -> ServedVersion:
        """Measure the active version anew and serve it from what is best now; no request is lost."""
        async with self._repository.changing:
            served = self._registry.find(model)
            known = self._repository.version(served.digest)
            if known.description is None:
                raise DeviceError(f"what the probe found of {model} cannot be read; push it again with --force")
            await self._tuner.measure(known.manifest, known.description, objective=objective, progress=progress)
            if not served.resident:
                return served  # it is loaded as is best now when a request comes for it
            new = await self._repository.load_proven(known)
            try:
                self._registry.replace(new)
            except EdgeError:
                new.retire()
                raise
        return new

    async def missing(self) -> None:
        """Measure what was not measured on this box as it is now: after an update of the engine, on another board."""
        for served in self._registry.active():
            try:
                known = self._repository.version(served.digest)
                if known.description is None or not self._tuner.wanted(known.manifest, known.description):
                    continue
                await self._tune(served.name, None, lambda _: None)
            except EdgeError as error:
                log.warning("%s runs as is usual: %s", served.name, error)

    async def close(self) -> None:
        """End what is being measured; nothing of it is kept."""
        for work in tuple(self._working):
            work.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
