"""From a model file and its description to a served version."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edge_runtime.config import EngineConfig, ModelConfig, engine_for
from edge_runtime.contract.manifest import Manifest
from edge_runtime.inference import engine as engines
from edge_runtime.inference import setup as setups
from edge_runtime.inference.admission import Admission
from edge_runtime.inference.description import Description
from edge_runtime.inference.engine import Engine
from edge_runtime.inference.isolated import IsolatedEngine
from edge_runtime.inference.placement import Placement
from edge_runtime.inference.registry import ServedVersion
from edge_runtime.inference.tuning import Tuning
from edge_runtime.system import memory


class Loader:
    """Opens versions with the configured engine. Blocking: call it in a thread."""

    def __init__(self, config: EngineConfig, models: Sequence[ModelConfig] = ()) -> None:
        self._config = config
        self._models = models
        self.engine = engines.choose(config.name)

    def load(
        self,
        manifest: Manifest,
        description: Description,
        model: Path,
        tuning: Tuning | None = None,
        *,
        signed: bool = False,
    ) -> ServedVersion:
        """Open the sessions that the tuning found best, where the model is to run.

        `signed`: by somebody whom the box trusts. Raises ContentError where the engine refuses the model.
        """
        config = engine_for(self._config, self._models, manifest.name)
        engine, placement = self._place(config, signed=signed)
        best = tuning.best(config.objective) if tuning else None
        setup = best.setup if best else setups.unmeasured(description, config)
        if placement.isolated:  # each interpreter is a process more; and the loop waits for no other process
            setup = replace(setup, instances=config.instances or 1, inline=False)
        sessions = [engine.open(model, setup.kernels, setup.threads) for _ in range(setup.instances)]
        memory.release_file_pages(model)
        runner = setups.make_runner(sessions, setup, description, config.queue_max_requests)
        admission = Admission(description, config)
        served = ServedVersion(manifest, manifest.digest(), description, runner, admission, placement)
        served.setup, served.tuning, served.objective = setup, tuning, config.objective
        return served

    def _place(self, config: EngineConfig, *, signed: bool) -> tuple[Engine, Placement]:
        if config.isolation == "none" or (config.isolation == "auto" and signed):
            return self.engine, Placement()
        isolated = IsolatedEngine(self.engine, config)
        return isolated, Placement("process", isolated.history)
