"""Walks a bundle from RECEIVED to COMMITTED, or back: RECEIVED > VERIFIED > STAGED > TRIAL > COMMITTED."""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime import events
from edge_runtime.config import DeployConfig, EngineConfig
from edge_runtime.contract.bundle import MANIFEST, SIGNATURE, BundleReader
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.manifest import Manifest
from edge_runtime.deploy import trust
from edge_runtime.deploy.probe import Probe
from edge_runtime.deploy.repository import Repository, present
from edge_runtime.deploy.store import Deployment, State, Store
from edge_runtime.deploy.tuner import Tuner
from edge_runtime.errors import CallerError, Code, ContentError, DeviceError, EdgeError
from edge_runtime.events import EventBus
from edge_runtime.inference.call import Call
from edge_runtime.inference.loader import Loader
from edge_runtime.inference.neutral import neutral_inputs
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.residence import Residence

log = logging.getLogger(__name__)

_TRIAL_POLLS = 10
_TRIAL_ANSWER_SECONDS = 30.0
_STOPPING = "the box is stopping; push again later"
_OUTCOMES: dict[State, events.DeployKind] = {State.COMMITTED: "deployed", State.ROLLED_BACK: "rolled_back"}


@dataclass(slots=True)
class Progress:
    """Where one push stands, for whoever waits for it."""

    state: State = State.RECEIVED
    model: str = ""
    version: str = ""
    reason: str = ""
    code: Code | None = None


def _failure(bundle: Path, progress: Progress, error: BaseException) -> tuple[State, str]:
    """The final state and the reason after an error; whatever happens to a push, the daemon goes on."""
    if isinstance(error, asyncio.CancelledError):
        return State.REFUSED, _STOPPING
    state = _failed_state(progress)
    if isinstance(error, EdgeError):
        log.warning("refused %s %s: %s", progress.model or bundle.name, progress.version, error)
        progress.code = error.code
        return state, str(error)
    log.error("a deployment failed unexpectedly", exc_info=error)
    progress.code = Code.INTERNAL
    return state, f"internal error: {type(error).__name__}: {error}"


def _failed_state(progress: Progress) -> State:
    return State.ROLLED_BACK if progress.state is State.TRIAL else State.REFUSED


async def _uninterrupted(work: Awaitable[None]) -> None:
    """Await `work` to its end, also when cancelled: its thread goes on, and nothing may overtake it."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _fallback(served: tuple[str, str | None] | None, new: str) -> str | None:
    """What to go back to once `new` is served: what was served, unless that is the same bundle pushed again."""
    if served is None:
        return None
    return served[1] if served[0] == new else served[0]


class Deployer:
    """One deployment at a time. Everything that blocks runs in threads; the registry changes on the event loop."""

    def __init__(
        self,
        config: DeployConfig,
        policy: Callable[[], trust.Policy],
        store: Store,
        probe: Probe,
        loader: Loader,
        registry: Registry,
        bus: EventBus,
        residence: Residence | None = None,
        tuner: Tuner | None = None,
    ) -> None:
        self._config = config
        self._policy = policy
        self._store = store
        self._probe = probe
        self.repository = Repository(store, probe, loader, registry, residence or Residence(EngineConfig()), bus)
        self._registry = registry
        self._bus = bus
        self._tuner = tuner
        self._running: asyncio.Task[None] | None = None
        self._closing = False

    async def deploy(
        self, bundle: Path, progress: Progress, *, force: bool = False, changed: Callable[[], None] = lambda: None
    ) -> None:
        """Take a bundle all the way; `progress` ends in a final state, with the reason where it is not COMMITTED.

        `force` accepts a digest that failed here before, and other content under a version that is here already.
        """

        def reach(state: State, reason: str = "") -> None:
            progress.state, progress.reason = state, reason
            changed()

        async with self.repository.changing:
            self._running = asyncio.create_task(self._deploy(bundle, progress, reach, force=force))
            (error,) = await asyncio.gather(self._running, return_exceptions=True)
            if error is not None:
                reach(*_failure(bundle, progress, error))
            await self._tidy(progress.model)
        kind = _OUTCOMES.get(progress.state, "refused")
        self._bus.publish(events.Deployment(kind, progress.model, progress.version, progress.reason))

    async def _deploy(self, bundle: Path, progress: Progress, reach: Callable[[State], None], *, force: bool) -> None:
        if self._closing:
            raise DeviceError(_STOPPING, Code.UNAVAILABLE)
        accepted = await asyncio.to_thread(self._verify, bundle, progress, force=force)
        digest = accepted.manifest.digest()
        if self._is_served(accepted.manifest.name, digest) and not force:
            reach(State.COMMITTED)  # it is what is served already: pushing twice is no error
            return
        reach(State.VERIFIED)
        await asyncio.to_thread(self._stage, bundle, accepted)
        reach(State.STAGED)
        try:
            await self._prove_and_try(digest, reach)
        except asyncio.CancelledError:
            self._store.abandon(digest)  # the daemon is being stopped; that says nothing against the bundle
            raise
        except EdgeError as error:
            attempt = self._attempt(digest)
            await asyncio.to_thread(self._store.fail, attempt, _failed_state(progress), str(error))
            raise

    async def _tidy(self, model: str) -> None:
        """Free the disk; that it cannot be done says nothing about the push."""
        try:
            await asyncio.to_thread(self._store.prune, model, self._config.keep_versions)
        except (OSError, sqlite3.Error):
            log.exception("old versions of %s could not be deleted", model)

    def _is_served(self, model: str, digest: str) -> bool:
        """Whether this bundle is what is committed, and is really being served."""
        served = self._store.served(model)
        return served is not None and served[0] == digest and self._registry.serves(model, digest)

    def _verify(self, bundle: Path, progress: Progress, *, force: bool) -> trust.Accepted:
        """Everything that can be said without interpreting a member other than manifest and signature."""
        try:
            with BundleReader(bundle) as reader:
                manifest_bytes = reader.read_member(MANIFEST)
                signature = reader.read_member(SIGNATURE) if SIGNATURE in reader.names else None
        except ContractError as error:
            raise ContentError(str(error)) from error
        accepted = trust.accept(manifest_bytes, signature, self._policy())
        progress.model, progress.version = accepted.manifest.name, accepted.manifest.version
        trust.check_sequence(accepted, self._store.highest_sequence(accepted.manifest.name))
        if not force:
            self._check_history(accepted.manifest)
        return accepted

    def _check_history(self, manifest: Manifest) -> None:
        digest = manifest.digest()
        for failure in self._store.failures(manifest.name):
            if failure.digest == digest and failure.state is State.ROLLED_BACK:
                raise ContentError(
                    f"this bundle failed its trial here before ({failure.reason}); push it with --force to try again",
                    Code.CONFLICT,
                )
        for known in self._store.versions(manifest.name):
            if known.digest != digest and known.manifest.version == manifest.version:
                raise ContentError(
                    f"version {manifest.version} of {manifest.name} is on this box with other content; "
                    "raise the version (or push with --force)",
                    Code.CONFLICT,
                )

    def _stage(self, bundle: Path, accepted: trust.Accepted) -> None:
        try:
            with BundleReader(bundle) as reader:
                self._store.stage(reader, accepted, self._config.min_free_bytes)
        except ContractError as error:
            raise ContentError(str(error)) from error

    async def _prove_and_try(self, digest: str, reach: Callable[[State], None]) -> None:
        manifest = self._attempt(digest).manifest
        description = await self._probe.run(manifest)
        await asyncio.to_thread(self._store.describe, digest, description)
        if self._tuner is not None:
            await self._tuner.prepare(manifest, description)
        new = await self.repository.load_proven(self._attempt(digest))
        before = self._registry.loaded(new.name)
        # Neither may go to make room: the one is on trial, the other is what it would be rolled back to.
        with new.held(), before.held() if before else contextlib.nullcontext():
            await self._try_out(new, reach)
        self.repository.well(new.name)
        log.info("committed %s %s (%s kernels)", new.name, new.version, description.kernels)
        reach(State.COMMITTED)
        self._bus.publish(events.ModelsChanged())

    async def _try_out(self, new: ServedVersion, reach: Callable[[State], None]) -> None:
        before = self._store.served(new.name)
        try:
            await asyncio.to_thread(self._store.begin_trial, new.digest)
        except BaseException:
            new.retire()
            raise
        self._registry.swap(new)
        reach(State.TRIAL)
        try:
            await self._watch_trial(new)
            fallback = _fallback(before, new.digest)
            await _uninterrupted(asyncio.to_thread(self._store.commit, self._attempt(new.digest), fallback))
        except BaseException:
            self._registry.swap_back(new.name)
            self._bus.publish(events.ModelsChanged())
            raise

    async def _watch_trial(self, served: ServedVersion) -> None:
        """Answer once in this process, then serve for the configured time; a failure of the model ends the trial."""
        call = Call(deadline=time.monotonic() + _TRIAL_ANSWER_SECONDS)
        before = served.stats.model_failures  # of the same version, loaded earlier
        await served.runner.run(neutral_inputs(served.description.inputs), call)
        ends = time.monotonic() + self._config.trial_seconds
        while True:
            failures = served.stats.model_failures - before
            if failures:
                raise ContentError(f"failed {failures} requests during its trial")
            remaining = ends - time.monotonic()
            if remaining <= 0:
                return
            await asyncio.sleep(min(remaining, self._config.trial_seconds / _TRIAL_POLLS))

    async def recover(self) -> list[events.Deployment]:
        """At boot: undo what was interrupted, then serve what was committed (or what it can fall back to).

        Returns what is to be told once the links are up. No model that cannot be served keeps the others from it.
        """
        told = [event for attempt in self._store.unfinished() if (event := self._undo(attempt))]
        told += await self.repository.serve_all()
        await asyncio.to_thread(self._store.sweep)
        self._bus.publish(events.ModelsChanged())
        return told

    def _undo(self, attempt: Deployment) -> events.Deployment | None:
        if attempt.state is not State.TRIAL:
            self._store.abandon(attempt.digest)
            return None
        name, version, reason = attempt.manifest.name, attempt.manifest.version, "the daemon ended during the trial"
        self._store.fail(attempt, State.ROLLED_BACK, reason)
        log.warning("rolled back %s %s: %s", name, version, reason)
        return events.Deployment("rolled_back", name, version, reason)

    def problem(self) -> str | None:
        """Which committed models are not served as they should be, and why, for the health check."""
        return self.repository.problem()

    async def rollback(self, model: str) -> tuple[str, str]:
        """Serve the version before this one again; returns the new and the former version.

        Raises:
            CallerError: no such model, or nothing to go back to.
        """
        async with self.repository.changing:
            current = self._registry.find(model)
            committed = self._store.served(model)
            if committed is None or committed[1] is None:
                raise CallerError(f"{model} has no earlier version on this box to roll back to", Code.CONFLICT)
            await self._switch(current, committed[1])
        self._bus.publish(events.Deployment("rolled_back", model, current.version, "by the operator"))
        return self._registry.find(model).version, current.version

    async def activate(self, model: str, version: str) -> tuple[str, str]:
        """Serve another committed version, older ones too; returns the new and the former version."""
        async with self.repository.changing:
            current = self._registry.find(model)
            if version != current.version:
                await self._switch(current, self._committed_version(model, version).digest)
        self._bus.publish(events.Deployment("deployed", model, version, "by the operator"))
        return version, current.version

    def _committed_version(self, model: str, version: str) -> Deployment:
        for known in self._store.versions(model):
            if known.manifest.version == version:
                return known
        raise CallerError(f"version {version!r} of {model} is not on this box", Code.NOT_FOUND)

    async def _switch(self, current: ServedVersion, digest: str) -> None:
        warm = self._registry.warm(current.name)
        target = warm if warm is not None and warm.digest == digest else await self.repository.open(digest)
        with target.held():
            self.repository.residence.readmit(target)
            await self.repository.residence.bring(target)
            self._registry.swap(target)
        await _uninterrupted(asyncio.to_thread(self._store.commit, self.repository.version(digest), current.digest))
        self.repository.well(current.name)
        self._bus.publish(events.ModelsChanged())

    async def remove(self, model: str) -> None:
        """Take a model off the box. Raises CallerError if it is not there."""
        async with self.repository.changing:
            if self._store.served(model) is None:
                raise CallerError(f"model {model!r} is not on this box", Code.NOT_FOUND)
            self._registry.remove(model)
            self.repository.well(model)
            await asyncio.to_thread(self._store.remove, model)
        self._bus.publish(events.Deployment("removed", model, ""))
        self._bus.publish(events.ModelsChanged())

    async def close(self) -> None:
        """End the deployment that is under way, if any, as if it had not begun."""
        self._closing = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self.repository.close()

    def _attempt(self, digest: str) -> Deployment:
        return present(self._store.attempt(digest), digest)
