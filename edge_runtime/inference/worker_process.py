"""One worker process as the daemon sees it: start, ask, and find out how it ended."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import strict
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.states import State
from edge_runtime.contract.tensors import NUMPY_NAMES, TensorSpec
from edge_runtime.errors import Code, ContentError, DeviceError
from edge_runtime.inference import messages
from edge_runtime.inference.engine import Delegate, Kernels
from edge_runtime.inference.shared_memory import Placed, Region, needed, place

LOG_MAX_BYTES = 64 * 2**10
# Python and the engine start, and the model is loaded; on the slowest box that is meant, from the slowest card.
_START_MAX_SECONDS = 60.0
_LATE_START_SECONDS = 1.0
_END_MAX_SECONDS = 5.0
# Memory up to here stays with a worker; more goes back after the request that needed it.
KEPT_BYTES = 2**20
_MIN_REGION_BYTES = 4096
_MAX_REASON = 500
_LAST_WORDS_BYTES = 2000
# What a worker needs to find Python, the engine and a delegate. Nothing else of the environment is its business.
_ENVIRONMENT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH", "VK_ICD_FILENAMES")
# From outside, or by the kernel for want of memory: that the model is to blame is not said.
_KILLS = (signal.SIGKILL, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is asked to open, and with how much address space."""

    model: str
    engine: str
    kernels: Kernels
    threads: int
    memory_bytes: int
    state: State = "variables"
    delegate: Delegate = field(default_factory=Delegate)


class WorkerLostError(Exception):
    """The process is gone (or had to be killed); `error` is what its caller is told.

    `unheard`: it was gone before it heard of the request, which may be put to another one.
    """

    def __init__(self, error: ContentError | DeviceError, *, unheard: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.unheard = unheard


class WorkerProcess:
    """A child process with one model, until `end` or its last user goes. Not thread-safe: one call at a time."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sample_bytes: int
    runs_on: str

    def __init__(self, job: Job, max_seconds: float, max_region_bytes: int) -> None:
        """Start it; `ready` waits until it can be asked."""
        self._max_seconds = max_seconds
        self._max_region_bytes = max_region_bytes
        self._is_ready = False
        self._requests: Region | None = None
        self._answers: Region | None = None
        self._log = _new_log()
        self._connection, theirs = socket.socketpair()
        try:
            self._process = _start(theirs, self._log)
        except OSError as error:
            self._connection.close()
            os.close(self._log)
            raise DeviceError(f"a worker process cannot be started: {error}") from error
        finally:
            theirs.close()
        self.end = weakref.finalize(self, _end, self._process, self._connection, self._log)
        self._deadline = time.monotonic() + _START_MAX_SECONDS
        with contextlib.suppress(OSError):  # it died early; `ready` finds out why
            messages.send(self._connection, strict.encode(job))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ready(self) -> None:
        """Return when the model is loaded.

        Raises:
            ContentError, DeviceError: as the engine in the worker says.
            WorkerLostError: it ended, or took too long.
        """
        if self._is_ready:
            return
        # A restart may have been long ago, and its answer be there already.
        deadline = max(self._deadline, time.monotonic() + _LATE_START_SECONDS)
        answer = self._hear(deadline, "while it was loaded")
        if "error" in answer:
            raise (DeviceError if answer.get("device") else ContentError)(_reason(answer))
        try:
            self.inputs = tuple(strict.decode(TensorSpec, spec) for spec in answer["inputs"])
            self.outputs = tuple(strict.decode(TensorSpec, spec) for spec in answer["outputs"])
            self.sample_bytes, self.runs_on = int(answer["sample_bytes"]), str(answer["runs_on"])[:_MAX_REASON]
        except (ContractError, KeyError, TypeError, ValueError) as error:
            raise self._nonsense(error) from error
        self._dtypes = {spec.name: np.dtype(NUMPY_NAMES[spec.datatype]).str for spec in self.outputs}
        self._is_ready = True

    def run(self, tensors: Mapping[str, NDArray[Any]], *, goes_on: bool = False) -> dict[str, NDArray[Any]]:
        """See `engine.Session.run`, and `engine.StatefulSession.step` for a run that `goes_on`.

        Raises:
            ContentError: the model failed; the worker lives on.
            DeviceError: there is no memory for the tensors.
            WorkerLostError: the process ended, or did not answer in time and was killed.
        """
        _trim(self._log)
        if self._process.poll() is not None:
            raise self._lost("between two requests", unheard=True)
        self._ask(tensors, goes_on=goes_on)
        deadline = time.monotonic() + self._max_seconds
        answer = self._hear(deadline, "while it ran")
        if "room" in answer:
            self._make_room(answer["room"], deadline)
            answer = self._hear(deadline, "while it ran")
        if "error" in answer:
            raise ContentError(_reason(answer))
        try:
            return self._read(answer)
        except (KeyError, TypeError, ValueError) as error:
            raise self._nonsense(error) from error

    def _ask(self, tensors: Mapping[str, NDArray[Any]], *, goes_on: bool) -> None:
        placed = place(tensors)
        kept = self._fitting(needed(tensor for tensor, _ in placed))
        new, self._requests = kept is not self._requests, kept
        kept.write(placed)
        request: dict[str, Any] = {"inputs": [tensor for tensor, _ in placed], "goes_on": goes_on}
        self._say(request | {"size": kept.size} if new else request, kept if new else None)

    def _fitting(self, size: int) -> Region:
        """The region there is if it has room and is not much too large, else a new one."""
        region = self._requests
        if region is not None and size <= region.size and (region.size <= KEPT_BYTES or size > KEPT_BYTES):
            return region
        return _new_region(size, self._max_region_bytes)

    def _make_room(self, size: Any, deadline: float) -> None:
        """Give the worker memory for its outputs, or tell it that there is none."""
        if type(size) is not int or size < 0:
            raise self._nonsense(f"outputs of {size!r} bytes")
        try:
            self._answers = _new_region(size, self._max_region_bytes)
        except DeviceError:
            self._say({})
            self._hear(deadline, "while it ran")
            raise
        self._say({"size": self._answers.size}, self._answers)

    def _read(self, answer: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        placed = [Placed.read(plain) for plain in answer["outputs"]]
        if {tensor.name: tensor.dtype for tensor in placed} != self._dtypes or self._answers is None:
            raise ValueError("the outputs are not those of the model")
        outputs = {name: np.array(value) for name, value in self._answers.read(placed)}
        if self._answers.size > KEPT_BYTES:
            self._answers = None
        return outputs

    def _say(self, message: object, region: Region | None = None) -> None:
        try:
            messages.send(self._connection, message, region.descriptor if region else None)
        except OSError as error:
            raise self._lost("between two requests", unheard=True) from error
        finally:
            if region:
                region.close_descriptor()

    def _hear(self, deadline: float, when: str) -> Mapping[str, Any]:
        try:
            message, descriptor = messages.receive(self._connection, deadline)
        except TimeoutError as error:
            raise self._hung(when) from error
        except (EOFError, OSError) as error:
            # unix(7) sockets are reset, not ended, where the other side has left something unread.
            raise self._lost(when, unheard=isinstance(error, ConnectionResetError)) from error
        except ValueError as error:
            raise self._nonsense(error) from error
        if descriptor is not None:
            os.close(descriptor)  # none is ever asked for
        if not isinstance(message, dict):
            raise self._nonsense("no object")
        return message

    def _lost(self, when: str, *, unheard: bool = False) -> WorkerLostError:
        """What became of a process that no longer speaks."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_MAX_SECONDS)
        status = self._process.returncode
        text = f"the model's worker process {_ending(status)} {when}. {_last_words(self._log)}".strip()
        self.end()
        outside = status is not None and -status in _KILLS
        error = DeviceError(text) if outside else ContentError(text, Code.INTERNAL)
        return WorkerLostError(error, unheard=unheard)

    def _hung(self, when: str) -> WorkerLostError:
        self.end()
        seconds = self._max_seconds if self._is_ready else _START_MAX_SECONDS
        text = f"the model's worker process gave no answer within {seconds:g} s {when} and was killed"
        return WorkerLostError(ContentError(text, Code.DEADLINE_EXCEEDED))

    def _nonsense(self, what: object) -> WorkerLostError:
        """A worker whose memory is no longer what it was is not asked again."""
        self.end()
        return WorkerLostError(ContentError(f"the model's worker process answered nonsense: {what}", Code.INTERNAL))


def _start(connection: socket.socket, log: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", "edge_runtime.inference.isolated_worker", str(connection.fileno())],
        stdin=subprocess.PIPE,  # never written to: it closes when we are gone
        stdout=log,
        stderr=log,
        pass_fds=(connection.fileno(),),
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        start_new_session=True,  # Ctrl-C is for the daemon, which drains first
    )


def _new_log() -> int:
    """A nameless file whose writers always write at its end, so that it can be emptied under them."""
    log = os.memfd_create("worker-log", os.MFD_CLOEXEC)
    fcntl.fcntl(log, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)
    return log


def _trim(log: int) -> None:
    """Empty a log that got too long. A worker without a delegate may not write one; a driver talks as it likes."""
    if os.fstat(log).st_size > LOG_MAX_BYTES:
        os.ftruncate(log, 0)


def _end(process: "subprocess.Popen[bytes]", connection: socket.socket, log: int) -> None:
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_MAX_SECONDS)
    lifeline: IO[bytes] | None = process.stdin
    if lifeline is not None:
        lifeline.close()
    connection.close()
    os.close(log)


def _new_region(size: int, most: int) -> Region:
    if size > most:
        raise DeviceError(f"{size} bytes of tensors are more than engine.max_batch_bytes ({most})")
    try:
        return Region.make(max(_MIN_REGION_BYTES, size))
    except OSError as error:
        raise DeviceError(f"no memory for {size} bytes of tensors: {error}") from error


def _ending(status: int | None) -> str:
    if status is None:
        return "does not speak any more"
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    hint = " (the kernel was out of memory, or somebody did it)" if -status in _KILLS else ""
    return f"{'was killed by' if hint else 'crashed with'} {name}{hint}"


def _last_words(log: int) -> str:
    size = os.fstat(log).st_size
    text = os.pread(log, _LAST_WORDS_BYTES, max(0, size - _LAST_WORDS_BYTES)).decode("utf-8", "replace")
    # What an engine says while all is well explains nothing.
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("INFO:", "W0000"))]
    return f"Last words: {lines[-1][:_MAX_REASON]}" if lines else ""


def _reason(answer: Mapping[str, Any]) -> str:
    return str(answer["error"])[:_MAX_REASON]
