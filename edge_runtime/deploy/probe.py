"""Runs a candidate in a throw-away child process; only what comes back well may be loaded by the daemon."""

import asyncio
import json
import signal
import sys
import tempfile
from dataclasses import dataclass
from typing import Any, BinaryIO

from edge_runtime.config import DeployConfig, EngineConfig
from edge_runtime.contract import strict
from edge_runtime.contract.bundle import GOLDEN, LABELS
from edge_runtime.contract.manifest import Manifest
from edge_runtime.deploy.store import Store
from edge_runtime.errors import Code, ContentError
from edge_runtime.inference.description import Description

# The answer is a description with its labels (at most 4 MiB of them, quoted in JSON).
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
_READ_BYTES = 64 * 1024
_LOG_TAIL_BYTES = 2000


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
        with tempfile.TemporaryFile() as log:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "edge_runtime.deploy.probe_child"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=_MAX_ANSWER_BYTES,
            )
            try:
                async with asyncio.timeout(self._deploy.probe_wall_seconds):
                    answer = await _converse(child, job.encode())
            except TimeoutError as error:
                raise _failed(f"no answer within {self._deploy.probe_wall_seconds:g} s") from error
            finally:
                await _end(child)
            return _read_answer(answer, child.returncode, log)

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


async def _converse(child: asyncio.subprocess.Process, job: bytes) -> bytes:
    if child.stdin is None or child.stdout is None:  # pragma: no cover - both are pipes
        raise _failed("the child has no pipes")
    try:
        child.stdin.write(job)
        child.stdin.write_eof()
        await child.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it died early; its exit status says why
    answer = bytearray()
    while chunk := await child.stdout.read(_READ_BYTES):  # a read ends at what the pipe holds, not at the end
        answer += chunk
        if len(answer) > _MAX_ANSWER_BYTES:
            raise _failed(f"the child answers with more than {_MAX_ANSWER_BYTES} bytes")
    await child.wait()
    return bytes(answer)


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.kill()
        await child.wait()


def _read_answer(answer: bytes, status: int | None, log: BinaryIO) -> Description:
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        hint = {"SIGXCPU": " (CPU time limit)", "SIGKILL": " (CPU time limit, or the kernel was out of memory)"}.get(
            name, ""
        )
        raise _failed(f"the engine died with {name}{hint} while running the model. {_tail(log)}".strip())
    try:
        document: Any = json.loads(answer)
        if "error" in document:
            raise _failed(str(document["error"]))
        return strict.decode(Description, document["description"])
    except (ValueError, KeyError, TypeError) as error:
        raise _failed(f"the child ended with status {status} and no answer. {_tail(log)}".strip()) from error


def _tail(log: BinaryIO) -> str:
    log.seek(0, 2)
    log.seek(max(0, log.tell() - _LOG_TAIL_BYTES))
    lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return f"Last words: {lines[-1]}" if lines else ""


def _failed(reason: str) -> ContentError:
    return ContentError(f"probe failed: {reason}", Code.PROBE_FAILED)
