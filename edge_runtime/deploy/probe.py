"""Runs a candidate in a throw-away child process; only what comes back well may be loaded by the daemon."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edge_runtime.config import DeployConfig, EngineConfig, ModelConfig, engine_for
from edge_runtime.contract import strict
from edge_runtime.contract.bundle import GOLDEN, LABELS
from edge_runtime.contract.manifest import Manifest
from edge_runtime.deploy import child
from edge_runtime.deploy.child import Ended
from edge_runtime.deploy.store import Store
from edge_runtime.errors import Code, ContentError
from edge_runtime.inference.description import Description
from edge_runtime.inference.engine import Delegate

log = logging.getLogger(__name__)

# The answer is a description with its labels (at most 4 MiB of them, quoted in JSON).
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
_FAILED = "probe failed: "
_CHILD = "edge_runtime.deploy.probe_child"


@dataclass(frozen=True, slots=True)
class Job:
    """What the child is asked to do, as JSON on its standard input."""

    model: str
    manifest: str
    engine: str
    kernels: str
    threads: int
    memory_bytes: int
    cpu_seconds: int
    labels: str | None = None
    golden: str | None = None
    delegate: Delegate = field(default_factory=Delegate)


class Probe:
    """Starts children with the box's engine and limits."""

    def __init__(
        self,
        deploy: DeployConfig,
        engine: EngineConfig,
        engine_name: str,
        store: Store,
        models: Sequence[ModelConfig] = (),
    ) -> None:
        self._deploy = deploy
        self._engine = engine
        self._models = models
        self._proven: set[str] = set()
        self._engine_name = engine_name
        self._store = store

    async def run(self, manifest: Manifest) -> Description:
        """Look into a staged model and prove it against its golden vectors, with the delegate that it will have.

        Where that is absent, crashes or is not faithful, and the configuration allows it, without.

        Raises:
            ContentError: PROBE_FAILED with the reason: refused by the engine, not faithful, crashed, over a limit.
        """
        description = await self._with_delegate(manifest)
        if description.runs_on != "cpu":
            self._proven.add(manifest.digest())
        return description

    async def _with_delegate(self, manifest: Manifest) -> Description:
        config = engine_for(self._engine, self._models, manifest.name)
        if not config.delegate:
            return await self._prove(self._job(manifest, config))
        delegate = Delegate(config.delegate, config.delegate_options)
        try:
            return await self._prove(replace(self._job(manifest, config), delegate=delegate))
        except ContentError as error:
            if config.delegate_fallback == "refuse":
                raise
            reason = str(error).removeprefix(_FAILED)
        description = await self._prove(self._job(manifest, config))
        log.warning("%s runs on the CPU and not with %s: %s", manifest.name, config.delegate, reason)
        return replace(description, runs_on=f"cpu (fallback: {reason})")

    def doubts(self, manifest: Manifest, known: Description) -> bool:
        """Whether what was found before this start may not hold: hardware, its driver and its settings come and go."""
        if manifest.digest() in self._proven:
            return False
        wanted = engine_for(self._engine, self._models, manifest.name).delegate
        return bool(wanted) or known.runs_on != "cpu"

    async def _prove(self, job: Job) -> Description:
        question, seconds = json.dumps(strict.encode(job)).encode(), self._deploy.probe_wall_seconds
        try:
            ended = await child.run(_CHILD, question, seconds=seconds, max_bytes=_MAX_ANSWER_BYTES)
        except TimeoutError as error:
            raise _failed(f"no answer within {seconds:g} s") from error
        except child.TooMuchError as error:
            raise _failed(f"the child answers with more than {_MAX_ANSWER_BYTES} bytes") from error
        return _read_answer(ended)

    def _job(self, manifest: Manifest, config: EngineConfig) -> Job:
        def path(name: str) -> str | None:
            found = self._store.file(manifest, name)
            return str(found) if found else None

        return Job(
            model=str(self._store.file(manifest)),
            manifest=manifest.canonical().decode(),
            engine=self._engine_name,
            kernels=config.kernels,
            threads=config.threads or 1,
            memory_bytes=self._deploy.probe_memory_bytes,
            cpu_seconds=self._deploy.probe_cpu_seconds,
            labels=path(LABELS),
            golden=path(GOLDEN),
        )


def _read_answer(ended: Ended) -> Description:
    if ended.death:
        raise _failed(f"the engine died with {ended.death} while running the model. {ended.words}".strip())
    try:
        document: Any = json.loads(ended.answer)
        if "error" in document:
            raise _failed(str(document["error"]))
        return strict.decode(Description, document["description"])
    except (ValueError, KeyError, TypeError) as error:
        raise _failed(f"the child ended with status {ended.status} and no answer. {ended.words}".strip()) from error


def _failed(reason: str) -> ContentError:
    return ContentError(f"{_FAILED}{reason}", Code.PROBE_FAILED)
