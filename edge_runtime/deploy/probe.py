"""Runs a candidate in a throw-away child process; only what comes back well may be loaded by the daemon."""

import json
from dataclasses import dataclass
from typing import Any

from edge_runtime.config import DeployConfig, EngineConfig
from edge_runtime.contract import strict
from edge_runtime.contract.bundle import GOLDEN, LABELS
from edge_runtime.contract.manifest import Manifest
from edge_runtime.deploy import child
from edge_runtime.deploy.child import Ended
from edge_runtime.deploy.store import Store
from edge_runtime.errors import Code, ContentError
from edge_runtime.inference.description import Description

# The answer is a description with its labels (at most 4 MiB of them, quoted in JSON).
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
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


class Probe:
    """Starts children with the box's engine and limits."""

    def __init__(self, deploy: DeployConfig, engine: EngineConfig, engine_name: str, store: Store) -> None:
        self._deploy = deploy
        self._engine = engine
        self._engine_name = engine_name
        self._store = store

    async def run(self, manifest: Manifest) -> Description:
        """Look into a staged model and prove it against its golden vectors.

        Raises:
            ContentError: PROBE_FAILED with the reason: refused by the engine, not faithful, crashed, over a limit.
        """
        job = json.dumps(strict.encode(self._job(manifest)))
        seconds = self._deploy.probe_wall_seconds
        try:
            ended = await child.run(_CHILD, job.encode(), seconds=seconds, max_bytes=_MAX_ANSWER_BYTES)
        except TimeoutError as error:
            raise _failed(f"no answer within {seconds:g} s") from error
        except child.TooMuchError as error:
            raise _failed(f"the child answers with more than {_MAX_ANSWER_BYTES} bytes") from error
        return _read_answer(ended)

    def _job(self, manifest: Manifest) -> Job:
        def path(name: str) -> str | None:
            found = self._store.file(manifest, name)
            return str(found) if found else None

        return Job(
            model=str(self._store.file(manifest)),
            manifest=manifest.canonical().decode(),
            engine=self._engine_name,
            kernels=self._engine.kernels,
            threads=self._engine.threads or 1,
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
    return ContentError(f"probe failed: {reason}", Code.PROBE_FAILED)
