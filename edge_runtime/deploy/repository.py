"""The committed versions: how each comes into memory, at boot, on demand and when the operator asks for it.

`load`, `unload` and `index` are what the model repository extension of the Open Inference Protocol asks for.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edge_runtime import events
from edge_runtime.deploy.probe import Probe
from edge_runtime.deploy.store import Deployment, Store
from edge_runtime.errors import CallerError, Code, DeviceError, EdgeError
from edge_runtime.events import EventBus
from edge_runtime.inference.loader import Loader, session_bytes
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.residence import Residence
from edge_runtime.inference.runner import Runner
from edge_runtime.system import memory

log = logging.getLogger(__name__)

# At boot models are loaded for so long at most before the box says that it is ready; the others come after that.
_BOOT_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version on this box.

    Attributes:
        state: READY where a request is answered, although it may have to be loaded first; `reason` tells.
    """

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class Repository:
    """Opens committed versions, makes room for them first, and proves again what another engine had proven."""

    def __init__(
        self, store: Store, probe: Probe, loader: Loader, registry: Registry, residence: Residence, bus: EventBus
    ) -> None:
        self._store = store
        self._probe = probe
        self._loader = loader
        self._registry = registry
        self._bus = bus
        self._unserved: dict[str, str] = {}
        self.residence = residence
        self.residence.open = self._open_again
        self.changing = asyncio.Lock()

    # At boot

    async def serve_all(self) -> list[events.Deployment]:
        """Serve every committed model, or what it can fall back to; returns what is to be told.

        The most recently used are loaded at once, as far as budget and time allow; the others wait for `load_rest` or
        for a request.
        """
        told = []
        until = time.monotonic() + _BOOT_SECONDS
        for model in self._store.models_by_use():
            told += await self._serve(model, at_once=time.monotonic() < until)
        return told

    async def load_rest(self) -> None:
        """Load what boot left and still fits; nothing is unloaded for it."""
        for model in self._store.models_by_use():
            served = self._registry.loaded(model)
            if served is None or served.resident or served.unavailable:
                continue
            if self.residence.has_room_for(served):
                try:
                    await self.residence.bring(served)
                except EdgeError as error:
                    log.warning("%s is not loaded: %s", model, error)

    async def _serve(self, model: str, *, at_once: bool) -> list[events.Deployment]:
        digest, fallback = self._store.served(model) or ("", None)
        try:
            self._registry.swap(await self._at_boot(digest, at_once=at_once))
        except EdgeError as error:
            return self._unservable(model, error) + (await self._fall_back(model, fallback) if fallback else [])
        return []

    async def _at_boot(self, digest: str, *, at_once: bool) -> ServedVersion:
        version = self.version(digest)
        description, refusal = version.description, self._refusal(version.manifest.name)
        if description is None or not self._store.stored(version.manifest):
            return await self.open(digest)
        signed = version.signed_by is not None
        served = self.residence.unloaded(version.manifest, description, self._loader, signed=signed)
        if not refusal and at_once and self.residence.has_room_for(served):
            return await self.open(digest)
        served.unavailable = refusal
        return served

    def _refusal(self, model: str) -> str:
        return _UNLOADED.format(model) if self._store.is_unloaded(model) else ""

    def _unservable(self, model: str, error: EdgeError) -> list[events.Deployment]:
        log.error("%s cannot be served: %s", model, error)
        self._unserved[model] = str(error)
        return [events.Deployment("refused", model, "", str(error))]

    async def _fall_back(self, model: str, digest: str) -> list[events.Deployment]:
        try:
            served = await self._at_boot(digest, at_once=True)
        except EdgeError as error:
            log.error("%s cannot be served by its fallback either: %s", model, error)  # noqa: TRY400 - it says all
            return []
        self._registry.remove(model)
        self._registry.swap(served)
        reason = "the committed version cannot be loaded"
        return [events.Deployment("rolled_back", model, served.version, reason)]

    def problem(self) -> str | None:
        """Which committed models are not served as they should be, and why, for the health check."""
        return "; ".join(f"{model}: {reason}" for model, reason in sorted(self._unserved.items())) or None

    def well(self, model: str) -> None:
        """It is served as it should be, or gone: what was wrong with it is history."""
        self._unserved.pop(model, None)

    # Into memory

    async def open(self, digest: str) -> ServedVersion:
        """A committed version with its sessions in memory, and counted."""
        return await self.load_proven(await self._proven(self.version(digest)))

    async def _proven(self, found: Deployment) -> Deployment:
        engine = self._loader.engine
        manifest, known = found.manifest, found.description
        same = known is not None and (known.engine, known.engine_version) == (engine.name, engine.version)
        if known is not None and same and not self._probe.doubts(manifest, known):
            return found
        # Another engine than the one that proved it, or a delegate: prove it before it gets into this process.
        description = await self._probe.run(manifest)
        await asyncio.to_thread(self._store.describe, found.digest, description)
        return self.version(found.digest)

    async def load_proven(self, deployment: Deployment) -> ServedVersion:
        """The sessions of a version or an attempt, with room made for them. Raises EdgeError where there is none."""
        description = deployment.description
        if description is None:
            raise _damaged(deployment)
        signed = deployment.signed_by is not None
        least = self._loader.least(deployment.manifest, description, signed=signed)
        self.residence.check_fits(deployment.manifest, least)
        needed = self._loader.needs(deployment.manifest, description, signed=signed)
        async with self.residence.room(needed):
            served = await asyncio.to_thread(self._load, deployment)
            self.residence.adopt(served)
        return served

    def _load(self, deployment: Deployment) -> ServedVersion:
        manifest, model = deployment.manifest, self._store.file(deployment.manifest)
        if deployment.description is None or model is None or not self._store.intact(manifest):
            raise _damaged(deployment)
        signed = deployment.signed_by is not None
        return self._loader.load(manifest, deployment.description, model, signed=signed)

    async def _open_again(self, served: ServedVersion) -> Runner:
        """For the residence, which has made room already."""
        try:
            least = session_bytes(served.manifest, served.description, isolated=served.placement.isolated)
            self.residence.check_fits(served.manifest, least)
            new = await asyncio.to_thread(self._load, await self._proven(self.version(served.digest)))
        except EdgeError as error:
            if self._registry.serves(served.name, served.digest):
                await self._give_up(served, error)
            raise
        served.description, served.admission = new.description, new.admission
        served.open_session = new.open_session
        served.placement, served.setup, served.tuning = new.placement, new.setup, new.tuning
        if self._registry.serves(served.name, served.digest):
            self.well(served.name)
        return new.runner

    async def _give_up(self, served: ServedVersion, error: EdgeError) -> None:
        """What boot would have done, had it loaded this version."""
        told = self._unservable(served.name, error)
        committed, fallback = self._store.served(served.name) or ("", None)
        if committed == served.digest and fallback:
            told += await self._fall_back(served.name, fallback)
        for event in told:
            self._bus.publish(event)
        self._bus.publish(events.ModelsChanged())

    def version(self, digest: str) -> Deployment:
        """A committed version; raises DeviceError if it is not there."""
        return present(self._store.version(digest), digest)

    # By the operator

    async def load(self, model: str) -> None:
        """Have a model in memory and answer requests to it again.

        Raises:
            CallerError: NOT_FOUND; OVERLOADED where models in use leave no room.
            EdgeError: it cannot be loaded.
        """
        async with self.changing:
            self._check_known(model)
            await asyncio.to_thread(self._store.note_unloaded, model, unloaded=False)
            if self._registry.loaded(model) is None:
                self._registry.swap(await self.open((self._store.served(model) or ("", None))[0]))
                self.well(model)
        for served in self._served(model):
            self.residence.readmit(served)
        with self._registry.lease(model) as served:
            await self.residence.bring(served)
        self._bus.publish(events.ModelsChanged())

    async def unload(self, model: str) -> None:
        """Take a model out of memory and answer its requests with UNAVAILABLE, also after a restart, until `load`.

        Requests on their way are answered. Raises CallerError NOT_FOUND.
        """
        async with self.changing:
            self._check_known(model)
            await asyncio.to_thread(self._store.note_unloaded, model, unloaded=True)
            for served in self._served(model):
                self.residence.dismiss(served, _UNLOADED.format(model))
        await asyncio.to_thread(memory.give_back)
        self._bus.publish(events.ModelsChanged())

    def _check_known(self, model: str) -> None:
        if self._store.served(model) is None:
            raise CallerError(f"model {model!r} is not on this box", Code.NOT_FOUND)

    def _served(self, model: str) -> tuple[ServedVersion, ...]:
        return tuple(v for v in (self._registry.loaded(model), self._registry.warm(model)) if v is not None)

    def index(self) -> list[IndexEntry]:
        """Every version on this box, by model; those that are served first, then the newest first."""
        names = {*self._store.models(), *(served.name for served in self._registry.active())}
        return [entry for model in sorted(names) for entry in self._entries(model)]

    def _entries(self, model: str) -> Iterator[IndexEntry]:
        served = self._served(model)
        for version in served:
            state: Literal["READY", "UNAVAILABLE"] = "UNAVAILABLE" if version.unavailable else "READY"
            yield IndexEntry(model, version.version, state, self.residence.reason(version))
        for known in self._store.versions(model):
            if known.manifest.version not in [version.version for version in served]:
                reason = self._unserved.get(model, "") if not served else ""
                yield IndexEntry(model, known.manifest.version, "UNAVAILABLE", reason or "not loaded: activate it")

    async def close(self) -> None:
        """End loads, and remember in which order models were used."""
        await self.residence.close()
        used = sorted(self._registry.active(), key=lambda served: served.last_used)
        await asyncio.to_thread(self._store.note_use, [served.name for served in used if served.last_used])


_UNLOADED = "model {0!r} was unloaded by the operator; load it (POST /v2/repository/models/{0}/load)"


def _damaged(deployment: Deployment) -> DeviceError:
    manifest = deployment.manifest
    return DeviceError(f"the files of {manifest.name} {manifest.version} are damaged; push it again with --force")


def present(deployment: Deployment | None, digest: str) -> Deployment:
    """The deployment; raises DeviceError if there is none."""
    if deployment is None:
        raise DeviceError(f"bundle {digest[:12]} is not in the store, or cannot be read; push it again")
    return deployment
