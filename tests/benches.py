"""A deployer with its real store, probe and engine, without a daemon around it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime import events
from edge_runtime.config import DeployConfig, EngineConfig
from edge_runtime.contract import signing
from edge_runtime.contract.bundle import BundleReader
from edge_runtime.contract.signing import TrustedKey
from edge_runtime.deploy.deployer import Deployer, Progress
from edge_runtime.deploy.probe import Probe
from edge_runtime.deploy.store import Store
from edge_runtime.deploy.trust import Policy, accept
from edge_runtime.events import EventBus
from edge_runtime.inference.loader import Loader
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.residence import Residence
from edge_runtime.inference.service import InferenceService, Sample
from edge_runtime.system import state

KEY = Ed25519PrivateKey.generate()
TRUSTED = TrustedKey("ops", signing.keyid(KEY.public_key()), KEY.public_key())
QUICK = DeployConfig(trial_seconds=0.02)
ONE = EngineConfig(instances=1)


def hurried() -> DeployConfig:
    """Bounds that no probe can keep, below what the configuration allows."""
    config = replace(QUICK)
    object.__setattr__(config, "probe_wall_seconds", 0.01)
    return config


class Bench:
    """A deployer on a state folder; making another one on the same folder is a restart."""

    def __init__(
        self,
        folder: Path,
        config: DeployConfig = QUICK,
        *,
        require_signature: bool = False,
        engine: EngineConfig = ONE,
        pinned: frozenset[str] = frozenset(),
    ) -> None:
        self.folder = folder
        self.bus, self.registry = EventBus(), Registry()
        self.heard: list[events.Deployment] = []
        self.bus.subscribe(events.Deployment, self.heard.append)
        self.store = Store(state.connect(folder / state.FILE_NAME), folder)
        loader = Loader(engine)
        self.residence = Residence(engine, pinned)
        probe = Probe(config, engine, loader.engine.name, self.store)
        policy = Policy(require_signature, (TRUSTED,))
        self.deployer = Deployer(
            *(config, lambda: policy, self.store, probe, loader, self.registry, self.bus, self.residence)
        )
        self.service = InferenceService(self.registry, self.bus, EngineConfig())

    async def push(self, data: bytes, *, force: bool = False) -> Progress:
        """Deploy a bundle; returns how it ended."""
        path, progress = self.folder / "pushed.part", Progress()
        path.write_bytes(data)
        await self.deployer.deploy(path, progress, force=force)
        return progress

    async def ask(self) -> str:
        """The version that answers."""
        return (await self.service.predict("digits", Sample(np.zeros((8, 8))))).version

    def close(self) -> None:
        """End it as a crash would, but without leaking."""
        self.registry.close()
        self.store.close()

    def stage(self, data: bytes, *, trial: bool = False) -> str:
        """Leave an attempt behind, as a crash would; returns its digest."""
        path = self.folder / "staged.part"
        path.write_bytes(data)
        with BundleReader(path) as reader:
            accepted = accept(reader.read_member("manifest.json"), None, Policy(require_signature=False, keys=()))
            digest = self.store.stage(reader, accepted, 0)
        if trial:
            self.store.begin_trial(digest)
        return digest

    def objects(self) -> set[str]:
        """Names of the stored files."""
        return {path.name for path in (self.folder / "objects").iterdir()}


def on_bench(tmp_path: Path, go: Callable[[Bench], Awaitable[None]], **options: object) -> Bench:
    """Run `go` with a bench."""
    bench = Bench(tmp_path, **options)  # type: ignore[arg-type]

    async def run() -> None:
        await go(bench)

    try:
        asyncio.run(run())
    finally:
        bench.close()
    return bench
