"""From a model file and its description to a served version."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edge_runtime.config import EngineConfig, ModelConfig, engine_for
from edge_runtime.contract.bundle import MODEL
from edge_runtime.contract.manifest import Manifest
from edge_runtime.inference import engine as engines
from edge_runtime.inference import setup as setups
from edge_runtime.inference.admission import Admission
from edge_runtime.inference.description import Description
from edge_runtime.inference.engine import Delegate, Engine
from edge_runtime.inference.isolated import IsolatedEngine
from edge_runtime.inference.placement import Placement
from edge_runtime.inference.registry import ServedVersion
from edge_runtime.inference.runner import Runner
from edge_runtime.inference.setup import Setup
from edge_runtime.inference.tuning import Tuning
from edge_runtime.system import memory

# Of a worker process, before it has a model: interpreter, numpy and engine.
_WORKER_BYTES = 48 * 1024 * 1024


class Loader:
    """Opens versions with the configured engine, as `tunings` found best. Blocking: call it in a thread."""

    def __init__(
        self,
        config: EngineConfig,
        models: Sequence[ModelConfig] = (),
        tunings: Callable[[Manifest, Description], Tuning | None] = lambda *_: None,
    ) -> None:
        self._config = config
        self._models = models
        self._tunings = tunings
        self.engine = engines.choose(config.name)

    def load(
        self,
        manifest: Manifest,
        description: Description,
        model: Path,
        *,
        signed: bool = False,
    ) -> ServedVersion:
        """Open the sessions that the tuning found best, where the model is to run.

        `signed`: by somebody whom the box trusts. Raises ContentError where the engine refuses the model.
        """
        config = self.config(manifest)
        engine, placement = self._place(config, manifest, description.delegate, signed=signed)
        tuning, setup = self._tunings(manifest, description), self.setup(manifest, description, signed=signed)
        sessions = [engine.open(model, setup.kernels, setup.threads, description.state) for _ in range(setup.instances)]
        memory.release_file_pages(model)
        runner = setups.make_runner(sessions, setup, description, config.queue_max_requests)
        admission = Admission(description, config)
        served = ServedVersion(manifest, manifest.digest(), description, runner, admission, placement)
        served.setup, served.tuning, served.objective = setup, tuning, config.objective
        served.open_session = lambda: engine.open(model, setup.kernels, setup.threads, description.state)
        return served

    def _place(
        self, config: EngineConfig, manifest: Manifest, delegate: str, *, signed: bool
    ) -> tuple[Engine, Placement]:
        """`delegate`: what the version was proven with; what has not been proven is not loaded."""
        engine = self.engine.with_delegate(Delegate(delegate, config.delegate_options)) if delegate else self.engine
        if not _isolated(config, signed=signed):
            return engine, Placement()
        isolated = IsolatedEngine(engine, config, f"{manifest.name} {manifest.version}")
        return isolated, Placement("process", isolated.history)

    def setup(self, manifest: Manifest, description: Description, *, signed: bool = False) -> Setup:
        """How it will run: as the tuning found best, with no more interpreters than the budget has room for."""
        config, tuning = self.config(manifest), self._tunings(manifest, description)
        best = tuning.best(config.objective) if tuning else None
        setup = best.setup if best else setups.unmeasured(description, config)
        isolated = _isolated(config, signed=signed)
        if isolated:  # each interpreter is a process more; the loop waits for no other process
            setup = replace(setup, instances=config.instances or 1, inline=False)
        budget = memory.budget_bytes(config.memory_budget_bytes)
        most = max(1, budget // session_bytes(manifest, description, isolated=isolated)) if budget else setup.instances
        return replace(setup, instances=min(setup.instances, most))

    def needs(self, manifest: Manifest, description: Description, *, signed: bool) -> int:
        """Bytes that its sessions will take together."""
        setup = self.setup(manifest, description, signed=signed)
        return setup.instances * self.least(manifest, description, signed=signed)

    def least(self, manifest: Manifest, description: Description, *, signed: bool) -> int:
        """Bytes that one session will take, with its process if it gets one."""
        isolated = _isolated(self.config(manifest), signed=signed)
        return session_bytes(manifest, description, isolated=isolated)

    def outline(self, manifest: Manifest, description: Description, runner: Runner, *, signed: bool) -> ServedVersion:
        """A version whose sessions are not in memory; `runner` answers in their place."""
        config, setup = self.config(manifest), self.setup(manifest, description, signed=signed)
        placement = Placement("process") if _isolated(config, signed=signed) else Placement()
        admission = Admission(description, config)
        served = ServedVersion(manifest, manifest.digest(), description, runner, admission, placement, resident=False)
        served.setup, served.sessions = setup, setup.instances
        served.tuning, served.objective = self._tunings(manifest, description), config.objective
        return served

    def config(self, manifest: Manifest) -> EngineConfig:
        """What is configured for the model."""
        return engine_for(self._config, self._models, manifest.name)


def _isolated(config: EngineConfig, *, signed: bool) -> bool:
    return config.isolation == "process" or (config.isolation == "auto" and not signed)


def session_bytes(manifest: Manifest, description: Description, *, isolated: bool = False) -> int:
    """What one session takes: as the probe measured it, not less than the file; in a process of its own, that too."""
    entry = manifest.files.get(MODEL)
    return max(1, description.memory_bytes, entry.size if entry else 0) + (_WORKER_BYTES if isolated else 0)
