"""Which versions are in memory: a budget, the least used go first, and a request brings one back."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

from numpy.typing import NDArray

from edge_runtime.config import EngineConfig
from edge_runtime.contract.manifest import Manifest
from edge_runtime.errors import CallerError, Code, DeviceError, EdgeError
from edge_runtime.inference.call import Call
from edge_runtime.inference.description import Description
from edge_runtime.inference.loader import Loader, session_bytes
from edge_runtime.inference.registry import ServedVersion
from edge_runtime.inference.runner import Runner, Tensors
from edge_runtime.inference.setup import input_bytes
from edge_runtime.system import memory

log = logging.getLogger(__name__)

Open = Callable[[ServedVersion], Awaitable[Runner]]

# How long a load waits for models that are in use; and how often it looks whether they still are.
_ROOM_SECONDS = 5.0
# After that a model that is never idle goes, too: another one waits for its turn.
_PATIENCE_SECONDS = 0.5
_LOOK_SECONDS = 0.02
# A model that could not be loaded is not tried again for every request.
_RETRY_SECONDS = 30.0
_COMPLAIN_SECONDS = 60.0


class Absent:
    """Stands in for the sessions of a version that is not in memory. Implements `runner.Runner`."""

    size = busy = 0
    served: ServedVersion

    def __init__(self, residence: "Residence", max_waiting: int) -> None:
        self._residence = residence
        self._max_waiting = max_waiting
        self.inline_bytes = 0  # as it will be: who plans by it need not plan anew
        self.waiting = 0

    def run_now(self, tensors: Tensors) -> dict[str, NDArray[Any]] | None:  # noqa: ARG002 - a Runner's
        """Nothing is there that could answer at once."""
        return None

    async def run(self, tensors: Tensors, call: Call) -> dict[str, NDArray[Any]]:
        """See `runner.Runner.run`; the version is loaded first, and errors of that are raised, too."""
        if self.waiting >= self._max_waiting:
            raise CallerError(
                f"overloaded: {self.waiting} wait for {self.served.name!r} to be loaded; try again later",
                Code.OVERLOADED,
            )
        started = time.perf_counter()
        self.waiting += 1
        try:
            with self.served.held():
                await self._residence.bring(self.served, call.deadline)
                waited = time.perf_counter() - started
                outputs = await self.served.runner.run(tensors, call)
                call.queue_seconds += waited
                return outputs
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """There is nothing to free."""


def loaded_bytes(served: ServedVersion) -> int:
    """What its sessions take together, or will take once they are in memory."""
    size = served.runner.size if served.resident else served.sessions
    return _session_bytes(served) * size


def _session_bytes(served: ServedVersion) -> int:
    return session_bytes(served.manifest, served.description, isolated=served.placement.isolated)


async def _cannot_open(served: ServedVersion) -> Runner:
    raise DeviceError(f"{served.name} {served.version} cannot be loaded: nobody knows its files")


def _fetched(task: "asyncio.Task[None]") -> None:
    """So that the error of a load that nobody waits for any more is not reported as lost."""
    if not task.cancelled():
        task.exception()


class Residence:
    """Keeps what is loaded within the budget. Belongs to the event loop's thread; models are opened in others.

    Attributes:
        budget_bytes: for all models together; 0: none.
        loads: versions that were brought into memory again, or for the first time by a request.
        evictions: versions that went to make room.
        open: gives the runner of a version, with whatever must be proven first; set by whoever knows the files.
    """

    def __init__(self, config: EngineConfig, pinned: frozenset[str] = frozenset()) -> None:
        self.budget_bytes = memory.budget_bytes(config.memory_budget_bytes)
        self.loads = 0
        self.evictions = 0
        self.open: Open = _cannot_open
        self._config = config
        self._pinned = pinned
        self._present: dict[ServedVersion, float] = {}  # with the time.monotonic() of its load
        self._other_bytes = 0  # being loaded, or lent
        self._loading: dict[ServedVersion, asyncio.Task[None]] = {}
        self._failed: MutableMapping[ServedVersion, tuple[float, EdgeError]] = WeakKeyDictionary()
        self._evicted: MutableMapping[ServedVersion, float] = WeakKeyDictionary()
        self._turn = asyncio.Lock()
        self._complained = -math.inf

    @property
    def loaded_bytes(self) -> int:
        """What all sessions take together, as far as it was measured when they were proven."""
        gone = [served for served in self._present if not served.resident]
        for served in gone:
            del self._present[served]
        return self._other_bytes + sum(map(loaded_bytes, self._present))

    def reason(self, served: ServedVersion) -> str:
        """Why a version is not in memory; empty if it is."""
        if served.resident:
            return ""
        if served in self._loading:
            return "being loaded"
        failed = self._failed.get(served)
        return served.unavailable or (str(failed[1]) if failed else "unloaded: memory budget; a request loads it")

    def check_fits(self, manifest: Manifest, needed: int) -> None:
        """Raise DeviceError NO_SPACE if `needed`, the bytes of one session alone, is more than the budget."""
        if self.budget_bytes and needed > self.budget_bytes:
            raise DeviceError(
                f"{manifest.name} {manifest.version} takes {needed} bytes of memory, more than the budget for all "
                f"models, {self.budget_bytes}; raise engine.memory_budget_bytes, or make the model smaller",
                Code.NO_SPACE,
            )

    def fits(self, needed: int) -> bool:
        """Whether so many more bytes fit without another model having to go."""
        return not self.budget_bytes or self.loaded_bytes + needed <= self.budget_bytes

    def has_room_for(self, served: ServedVersion) -> bool:
        """Whether a version that is not in memory fits without another having to go."""
        return self.fits(loaded_bytes(served))

    def adopt(self, served: ServedVersion) -> None:
        """Count a version whose sessions are in memory."""
        self._present[served] = time.monotonic()
        served.sessions = served.runner.size
        self._failed.pop(served, None)

    def dismiss(self, served: ServedVersion, refusal: str = "") -> None:
        """Take a version out of memory; requests bring it back, unless there is a `refusal` to answer them with.

        Requests that are in it are answered; its memory is free after the last of them.
        """
        served.unavailable = refusal
        if served.resident:
            absent = Absent(self, self._config.queue_max_requests)
            absent.served, absent.inline_bytes = served, served.runner.inline_bytes
            served.replace_runner(absent, resident=False)

    def unloaded(self, manifest: Manifest, description: Description, loader: Loader, *, signed: bool) -> ServedVersion:
        """A version that is served, but will be in memory only when a request comes for it."""
        absent = Absent(self, self._config.queue_max_requests)
        served = absent.served = loader.outline(manifest, description, absent, signed=signed)
        absent.inline_bytes = input_bytes(description) if served.setup and served.setup.inline else 0
        return served

    def readmit(self, served: ServedVersion) -> None:
        """Requests may bring it back again, and at once."""
        served.unavailable = ""
        self._failed.pop(served, None)

    async def bring(self, served: ServedVersion, deadline: float | None = None) -> None:
        """Return when the version is in memory; hold it, or it may go again.

        Raises:
            CallerError: DEADLINE_EXCEEDED; OVERLOADED where models in use leave no room.
            EdgeError: it cannot be loaded; for a while nothing more is tried.
        """
        while not served.resident:
            self._check(served)
            task = self._loading.get(served)
            if task is None:
                task = self._loading[served] = asyncio.create_task(self._load(served), name=f"load {served.name}")
                task.add_done_callback(_fetched)
            try:
                async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    await asyncio.shield(task)
            except TimeoutError as error:
                raise CallerError(
                    f"{served.name!r} was not loaded within the deadline; the request was dropped",
                    Code.DEADLINE_EXCEEDED,
                ) from error

    def _check(self, served: ServedVersion) -> None:
        if served.unavailable:
            raise DeviceError(served.unavailable, Code.UNAVAILABLE)
        when, error = self._failed.get(served, (-math.inf, None))
        if error is not None and time.monotonic() < when + _RETRY_SECONDS:
            raise type(error)(str(error), error.code)

    async def _load(self, served: ServedVersion) -> None:
        try:
            self.check_fits(served.manifest, _session_bytes(served))  # the budget was another one when it was pushed
            self._complain_of_thrashing(served)
            async with self.room(loaded_bytes(served)):
                runner = await self.open(served)
                if served.retired and not served.leases:
                    runner.close()
                    return
                served.replace_runner(runner, resident=True)
                self.adopt(served)
            self.loads += 1
            log.info("loaded %s %s", served.name, served.version)
        except EdgeError as error:
            if error.code is not Code.OVERLOADED:  # which says nothing of the model
                self._failed[served] = (time.monotonic(), error)
                log.error("%s %s cannot be loaded: %s", served.name, served.version, error)  # noqa: TRY400 - it says all
            raise
        finally:
            del self._loading[served]

    @asynccontextmanager
    async def room(self, needed: int) -> AsyncIterator[None]:
        """Reserve so many bytes, for as long as it takes to load what will then be counted by itself.

        Raises:
            CallerError: OVERLOADED, where models in use leave no room for it.
        """
        await self.reserve(needed)
        try:
            yield
        finally:
            self.give_back(needed)

    async def reserve(self, needed: int) -> None:
        """Make room and count so many bytes until `give_back`. Raises as `room` does."""
        async with self._turn:  # first come, first served: a large model is not overtaken for ever
            await self._make_room(needed)
            self._other_bytes += needed

    def give_back(self, reserved: int) -> None:
        """The bytes of a `reserve` are free again."""
        self._other_bytes -= reserved

    async def _make_room(self, needed: int) -> None:
        started, evicted = time.monotonic(), False
        while not self.fits(needed):
            waited = time.monotonic() - started
            if needed > self.budget_bytes or waited > _ROOM_SECONDS:
                raise self._no_room(needed)
            victim = self._victim(although_busy=waited > _PATIENCE_SECONDS)
            if victim is None:
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                await self._evict(victim)
                evicted = True
        if evicted:
            await asyncio.to_thread(memory.give_back)

    def _no_room(self, needed: int) -> CallerError:
        budget = self.budget_bytes
        why = (
            f"more than the budget for all models, {budget}; raise engine.memory_budget_bytes"
            if needed > budget
            else f"{self.loaded_bytes} of {budget} are taken by models that are in use; try again later, or raise "
            "engine.memory_budget_bytes"
        )
        return CallerError(f"no room in memory: {needed} bytes are needed, {why}", Code.OVERLOADED)

    def _victim(self, *, although_busy: bool) -> ServedVersion | None:
        """The one to go: the previous version of a model before an active one, then the least recently used."""
        youngest = time.monotonic() - self._config.memory_min_resident_seconds
        may_go = [
            served
            for served, since in self._present.items()
            if not (served.holds or served.name in self._pinned or since > youngest)
            and (although_busy or not (served.leases or served.runner.busy))
        ]
        return min(may_go, key=lambda served: (not served.previous, served.last_used), default=None)

    async def _evict(self, served: ServedVersion) -> None:
        """Unload it once the calls in it are answered; new ones wait until it is loaded again."""
        log.info("unloaded %s %s: memory budget", served.name, served.version)
        self.evictions += 1
        self._evicted[served] = time.monotonic()
        size, latest = loaded_bytes(served), time.monotonic() + _ROOM_SECONDS
        self.dismiss(served)
        self._other_bytes += size
        try:
            looks = 0 if served.leases else 2
            while looks < 2 and time.monotonic() < latest:  # at the second look whoever was about to enter is inside
                await asyncio.sleep(_LOOK_SECONDS)
                looks = looks + 1 if served.drained else 0
            if looks >= 2:
                served.close_replaced()
        finally:
            self._other_bytes -= size

    def _complain_of_thrashing(self, served: ServedVersion) -> None:
        now, went = time.monotonic(), self._evicted.pop(served, -math.inf)
        if now - went < _COMPLAIN_SECONDS and now - self._complained > _COMPLAIN_SECONDS:
            self._complained = now
            log.warning(
                "%s is loaded again %.1f s after it had to go: the models in use take more than "
                "engine.memory_budget_bytes = %d",
                *(served.name, now - went, self.budget_bytes),
            )

    async def close(self) -> None:
        """End what is being loaded."""
        tasks = tuple(self._loading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
