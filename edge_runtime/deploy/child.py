"""Throw-away child processes: given a job, heard as they speak, ended in time whatever they do."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

_READ_BYTES = 64 * 1024
_LOG_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended.

    Attributes:
        answer: all that it wrote to standard output.
        status: as in `subprocess.Popen.returncode`.
        words: the last line of its standard error, if any.
    """

    answer: bytes
    status: int
    words: str

    @property
    def death(self) -> str:
        """Which signal killed it, and what that may mean; empty where it ended by itself."""
        if self.status >= 0:
            return ""
        name = signal.Signals(-self.status).name
        hints = {"SIGXCPU": " (CPU time limit)", "SIGKILL": " (CPU time limit, or the kernel was out of memory)"}
        return f"{name}{hints.get(name, '')}"


class TooMuchError(Exception):
    """The child wrote more than was allowed."""


async def run(
    module: str, job: bytes, *, seconds: float, max_bytes: int, heard: Callable[[bytes], None] = lambda _: None
) -> Ended:
    """Run `python -m module` with the job on standard input; `heard` gets what it answers, as it comes.

    Raises:
        TimeoutError: it was not done after `seconds`.
        TooMuchError: it answered with more than `max_bytes`.
    """
    with tempfile.TemporaryFile() as log:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
        try:
            async with asyncio.timeout(seconds):
                answer = await _converse(child, job, max_bytes, heard)
        finally:
            if child.returncode is None:
                child.kill()
            status = await child.wait()
        return Ended(answer, status, _last_words(log))


async def _converse(
    child: asyncio.subprocess.Process, job: bytes, max_bytes: int, heard: Callable[[bytes], None]
) -> bytes:
    if child.stdin is None or child.stdout is None:  # pragma: no cover - both are pipes
        raise TooMuchError
    try:
        child.stdin.write(job)
        child.stdin.write_eof()
        await child.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it died early; its exit status says why
    answer = bytearray()
    while chunk := await child.stdout.read(_READ_BYTES):  # a read ends at what the pipe holds, not at the end
        answer += chunk
        if len(answer) > max_bytes:
            raise TooMuchError
        heard(chunk)
    await child.wait()
    return bytes(answer)


def _last_words(log: BinaryIO) -> str:
    log.seek(0, 2)
    log.seek(max(0, log.tell() - _LOG_TAIL_BYTES))
    lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return f"Last words: {lines[-1]}" if lines else ""
