"""The listener: a socket of our own and a uvicorn that leaves signals to the daemon."""

import asyncio
import contextlib
import errno
import importlib.util
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from edge_runtime.config import HttpConfig
from edge_runtime.errors import DeviceError

_BACKLOG = 1024


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the daemon decides when to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as always, and tell who waits for it."""
        await super().startup(sockets)
        self.listening.set()


class HttpServer:
    """Listens from construction on (clients wait in the backlog); answers from `start` on."""

    def __init__(self, config: HttpConfig, app: Callable[..., Any]) -> None:
        self._socket = _bind(config.host, config.port)
        self.host = config.host
        self.port = int(self._socket.getsockname()[1])
        self._server = _Server(
            uvicorn.Config(
                app,
                http="httptools" if importlib.util.find_spec("httptools") else "h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=config.max_connections,
                timeout_graceful_shutdown=1,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="http")
        await self._server.listening.wait()

    async def stop(self) -> None:
        """Close the listener and the connections; running requests have one more second."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


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
