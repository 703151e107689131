"""The listener: a socket of our own and a uvicorn that leaves signals to the daemon."""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from edge_runtime.config import HttpConfig
from edge_runtime.errors import DeviceError
from edge_runtime.system import descriptors
from edge_runtime.transports.http.connections import HouseRules
from edge_runtime.transports.http.direct import Direct

log = logging.getLogger(__name__)

_BACKLOG = 1024
# File descriptors that are kept for everything else: files, models, other links.
_OTHER_DESCRIPTORS = 256
_MIN_CONNECTIONS = 8
# uvicorn ticks every 0.1 s.
_TICKS_PER_SWEEP = 5


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the daemon decides when to stop."""

    def __init__(self, config: uvicorn.Config, rules: HouseRules) -> None:
        super().__init__(config)
        self._rules = rules
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as always, and tell who waits for it."""
        await super().startup(sockets)
        self.listening.set()

    async def on_tick(self, counter: int) -> bool:
        """Look after the connections, too."""
        if counter % _TICKS_PER_SWEEP == 0:
            self._rules.enforce(self.server_state.connections)  # type: ignore[arg-type]  # all are of our class
        return await super().on_tick(counter)


class HttpServer:
    """Listens from construction on (clients wait in the backlog); answers from `start` on."""

    def __init__(self, config: HttpConfig, app: Callable[..., Any], direct: Direct) -> None:
        self._socket = _bind(config.host, config.port)
        self.host = config.host
        self.port = int(self._socket.getsockname()[1])
        rules = HouseRules(config, _max_connections(config.max_connections), direct)
        self._server = _Server(
            uvicorn.Config(
                app,
                http=rules.protocol(),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            ),
            rules,
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="http")
        await self._server.listening.wait()

    def problem(self) -> str | None:
        """Why nothing is answered any more; None while all is well."""
        return "the HTTP server has ended" if self._task is None or self._task.done() else None

    async def stop(self) -> None:
        """Close the listener and the connections; running requests have one more second."""
        self._server.should_exit = True
        try:
            if self._task is not None:
                await self._task
        finally:
            self._socket.close()


def _max_connections(wanted: int) -> int:
    possible = max(_MIN_CONNECTIONS, descriptors.limit() - _OTHER_DESCRIPTORS)
    if wanted > possible:
        log.warning("http.max_connections is %d here: more files may not be open (LimitNOFILE, ulimit -n)", possible)
    return min(wanted, possible)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        hint = "; another program has the port: set http.port" if error.errno == errno.EADDRINUSE else ""
        raise DeviceError(f"cannot listen on {host}:{port}: {error.strerror or error}{hint}") from error
    listener.setblocking(False)
    return listener
