"""Measures which setup is best for a model on this box, in throw-away children, and remembers it."""

import asyncio
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from edge_runtime.config import DeployConfig, EngineConfig, ModelConfig, engine_for
from edge_runtime.contract import strict
from edge_runtime.contract.bundle import GOLDEN, MODEL
from edge_runtime.contract.manifest import Manifest
from edge_runtime.deploy import child
from edge_runtime.deploy.store import Store
from edge_runtime.deploy.tuning_job import Line, TuningJob
from edge_runtime.errors import Code, ContentError, EdgeError
from edge_runtime.inference.description import Description
from edge_runtime.inference.tuning import Objective, Tuning
from edge_runtime.system import cpu

log = logging.getLogger(__name__)

_CHILD = "edge_runtime.deploy.tune_child"
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
# A child starts, opens the model and proves candidates before it measures, and a call under way is not cut off.
_GRACE_SECONDS = 20.0
# Each crash costs one setup; after so many the others are not tried any more.
_MAX_CRASHES = 3

Progress = Callable[[float], None]


class Tuner:
    """Knows the measurements of this box: by model, golden vectors, engine, CPU, and what the configuration fixes."""

    def __init__(self, deploy: DeployConfig, engine: EngineConfig, models: Sequence[ModelConfig], store: Store) -> None:
        self._deploy = deploy
        self._engine = engine
        self._models = models
        self._store = store
        self._cpu = cpu.identity()

    async def prepare(self, manifest: Manifest, description: Description) -> None:
        """Measure what was not measured here yet; that it cannot be done says nothing against the model."""
        if self.wanted(manifest, description):
            try:
                await self.measure(manifest, description)
            except EdgeError as error:
                log.warning("%s %s runs as is usual: %s", manifest.name, manifest.version, error)

    def wanted(self, manifest: Manifest, description: Description) -> bool:
        """Whether this version is to be measured and has not been, on this box as it is now."""
        config = self._config(manifest)
        return config.tune_seconds > 0 and not config.delegate and self.known(manifest, description) is None

    def known(self, manifest: Manifest, description: Description) -> Tuning | None:
        """What was measured of it here; None if nothing was, or a delegate decides how it runs."""
        if self._config(manifest).delegate:
            return None
        text = self._store.tuning(self._key(manifest, description))
        try:
            return Tuning.from_json(text) if text else None
        except ValueError:
            return None  # written by another release

    async def measure(
        self,
        manifest: Manifest,
        description: Description,
        *,
        objective: Objective | None = None,
        progress: Progress = lambda _: None,
    ) -> Tuning:
        """Measure anew and remember it; `objective` is an operator's, and holds until it is measured again.

        Raises:
            ContentError: PROBE_FAILED, nothing could be measured (and this is remembered, too).
        """
        config = self._config(manifest)
        if config.delegate:
            raise ContentError(f"{manifest.name} runs on the delegate {config.delegate}: there is nothing to tune")
        config = replace(config, tune_seconds=config.tune_seconds or EngineConfig().tune_seconds)
        began = time.monotonic()
        try:
            tuning = replace(await self._ask(self._job(manifest, description, config), progress), objective=objective)
        except ContentError:
            engine = f"{description.engine} {description.engine_version}"
            seconds = round(time.monotonic() - began, 3)
            nothing = Tuning(self._cpu.model, self._cpu.cores, engine, time.time(), seconds, 0, "zeros", ())
            await asyncio.to_thread(self._keep, manifest, description, nothing)
            raise
        await asyncio.to_thread(self._keep, manifest, description, tuning)
        best = tuning.best(config.objective)
        log.info(
            "tuned %s %s for %s in %.1f s: %s",
            *(manifest.name, manifest.version, objective or config.objective, tuning.seconds),
            best.setup if best else "nothing can be used",
        )
        return tuning

    def _config(self, manifest: Manifest) -> EngineConfig:
        return engine_for(self._engine, self._models, manifest.name)

    def _keep(self, manifest: Manifest, description: Description, tuning: Tuning) -> None:
        self._store.keep_tuning(self._key(manifest, description), tuning.to_json())

    def _key(self, manifest: Manifest, description: Description) -> str:
        """All that measurements and proofs depend on; objectives do not belong to it, they choose among results."""
        config = self._config(manifest)
        golden = manifest.files.get(GOLDEN)
        parts = {
            "model": manifest.files[MODEL].sha256,
            "golden": golden.sha256 if golden else "",
            "parity": asdict(manifest.parity),
            "engine": [description.engine, description.engine_version],
            "cpu": asdict(self._cpu),
            "fixed": [config.kernels, config.instances, config.threads],
            "batch": [config.batch_max_samples, config.batch_delay_ms],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _job(self, manifest: Manifest, description: Description, config: EngineConfig) -> TuningJob:
        golden = self._store.file(manifest, GOLDEN)
        return TuningJob(
            model=str(self._store.file(manifest)),
            manifest=manifest.canonical().decode(),
            description=description,
            config=config,
            cpu=self._cpu.model,
            cores=self._cpu.cores,
            memory_bytes=self._deploy.probe_memory_bytes,
            cpu_seconds=self._deploy.probe_cpu_seconds + math.ceil(2 * config.tune_seconds * self._cpu.cores),
            golden=str(golden) if golden else None,
        )

    async def _ask(self, job: TuningJob, progress: Progress) -> Tuning:
        """Let a child measure; where one dies, let another do it without what killed the first."""
        for _ in range(_MAX_CRASHES):
            heard = _Heard(progress)
            seconds = 2 * job.config.tune_seconds + _GRACE_SECONDS
            document = json.dumps(strict.encode(job)).encode()
            try:
                ended = await child.run(
                    _CHILD, document, seconds=seconds, max_bytes=_MAX_ANSWER_BYTES, heard=heard.feed
                )
            except (TimeoutError, child.TooMuchError) as error:
                raise _failed(f"no answer within {seconds:g} s, while measuring {heard.step or 'nothing'}") from error
            if heard.last.tuning is not None:
                return heard.last.tuning
            if heard.last.error:
                raise _failed(heard.last.error)
            if not heard.step or heard.step in job.crashed:
                break
            log.warning("the engine died with %s while tuning: %s", ended.death or ended.status, heard.step)
            job = replace(job, crashed=job.crashed | {heard.step: ended.death or f"status {ended.status}"})
        raise _failed(f"the engine died {_MAX_CRASHES} times: {'; '.join(job.crashed) or ended.words}")


class _Heard:
    """The lines of a child, as they come."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rest = b""
        self.step = ""
        self.last = Line()

    def feed(self, data: bytes) -> None:
        """Some more of its answer; a line that is none is left out (the engine may have written it)."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                self.last = strict.decode(Line, json.loads(line))
            except ValueError:
                continue
            self.step = self.last.step or self.step
            if self.last.done:
                self._progress(self.last.done)


def _failed(reason: str) -> ContentError:
    return ContentError(f"nothing could be measured: {reason}", Code.PROBE_FAILED)
