"""The worker process of an isolated model: opens it within limits, and answers one request after the other.

It is started as `python -m edge_runtime.inference.isolated_worker N`, N being the descriptor of the socket to its
daemon. Standard input is a pipe that nobody ever writes to: it closes when the daemon is gone.
"""

import fcntl
import os
import resource
import select
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.contract import strict
from edge_runtime.errors import DeviceError, EdgeError
from edge_runtime.inference import engine as engines
from edge_runtime.inference import messages
from edge_runtime.inference.engine import StatefulSession
from edge_runtime.inference.shared_memory import Placed, Region, needed, place
from edge_runtime.inference.worker_process import KEPT_BYTES, LOG_MAX_BYTES, Job
from edge_runtime.system import memory

# Beyond what is open once the model is loaded: memory that comes with a message, and its mapping.
_SPARE_DESCRIPTORS = 4


def main() -> int:
    """Answer until the daemon is gone."""
    _die_with_the_daemon()
    connection = _connection(int(sys.argv[1]))
    try:
        job = strict.decode(Job, messages.receive(connection)[0])
        _limit(job)
        session = _open(connection, job)
        if not job.delegate.name:  # a driver opens devices and caches when it likes
            _limit_descriptors()
        if session is not None:
            _Desk(connection, session).serve()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the daemon is done with us
    return 0


def _connection(descriptor: int) -> socket.socket:
    """The socket under the lowest number that is free, so that a limit of numbers leaves no gaps below it."""
    lowest = os.dup(descriptor)
    os.close(descriptor)
    return socket.socket(fileno=lowest)


def _die_with_the_daemon() -> None:
    """Be ended by the kernel (SIGIO) when the pipe closes: a model that hangs would not let Python look at it."""
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    watched = select.poll()
    watched.register(0, select.POLLIN)
    if watched.poll(0):
        sys.exit(0)  # it was gone before we looked


def _limit(job: Job) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (job.memory_bytes, job.memory_bytes))
    # Drivers keep what they compile in files, if only in nameless ones.
    size = job.memory_bytes if job.delegate.name else LOG_MAX_BYTES
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_descriptors() -> None:
    most = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir()) + 1 + _SPARE_DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _open(connection: socket.socket, job: Job) -> StatefulSession | None:
    try:
        engine = engines.choose(job.engine).with_delegate(job.delegate)
        session = engine.open(Path(job.model), job.kernels, job.threads, job.state)
    except EdgeError as error:
        messages.send(connection, {"error": str(error), "device": isinstance(error, DeviceError)})
        return None
    memory.release_file_pages(Path(job.model))
    ready = {
        "inputs": [strict.encode(spec) for spec in session.inputs],
        "outputs": [strict.encode(spec) for spec in session.outputs],
        "sample_bytes": session.sample_bytes,
        "runs_on": session.runs_on,
    }
    messages.send(connection, ready)
    return session


class _Desk:
    """One request at a time: inputs are read where they lie, outputs are put where the daemon reads them."""

    def __init__(self, connection: socket.socket, session: StatefulSession) -> None:
        self._connection = connection
        self._session = session
        self._inputs: Region | None = None
        self._outputs: Region | None = None

    def serve(self) -> None:
        """Until the daemon is gone."""
        while True:
            request, descriptor = messages.receive(self._connection)
            if descriptor is not None:
                self._inputs = _mapped(descriptor, request["size"])
            self._answer([Placed.read(plain) for plain in request["inputs"]], goes_on=request["goes_on"])

    def _answer(self, inputs: list[Placed], *, goes_on: bool) -> None:
        try:
            tensors = dict(self._inputs.read(inputs)) if self._inputs else {}
            outputs = self._session.step(tensors, fresh=not goes_on)
        except EdgeError as error:
            messages.send(self._connection, {"error": str(error)})
        except Exception as error:  # noqa: BLE001 - one request failed, whatever it was; the next one may not
            messages.send(self._connection, {"error": f"the model failed to run: {type(error).__name__}: {error}"})
        else:
            self._hand_over(outputs)

    def _hand_over(self, outputs: Mapping[str, Any]) -> None:
        tensors = place(outputs)
        placed = [tensor for tensor, _ in tensors]
        room = needed(placed)
        if self._outputs is None or self._outputs.size < room:
            messages.send(self._connection, {"room": room})
            answer, descriptor = messages.receive(self._connection)
            if descriptor is None:
                messages.send(self._connection, {"error": f"there is no room for outputs of {room} bytes"})
                return
            self._outputs = _mapped(descriptor, answer["size"])
        self._outputs.write(tensors)
        messages.send(self._connection, {"outputs": placed})
        if self._outputs.size > KEPT_BYTES:
            self._outputs = None


def _mapped(descriptor: int, size: int) -> Region:
    region = Region(descriptor, size)
    region.close_descriptor()
    return region


if __name__ == "__main__":
    sys.exit(main())
