"""The ASGI app: inference first, everything else after it, and one place where errors become answers."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from edge_runtime.transports.http.dataplane import DataPlane
from edge_runtime.transports.http.exchange import Disconnected, Receive, Scope, Send, send_error

if TYPE_CHECKING:
    from edge_runtime.transports.http.management import Management


class HttpApp:
    """What uvicorn calls."""

    def __init__(self, data_plane: DataPlane, management: Callable[[], "Management"]) -> None:
        self._data_plane = data_plane
        self._management = cache(management)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started = False

        async def watched_send(message: object) -> None:
            nonlocal started
            started = True
            await send(message)  # type: ignore[arg-type]

        try:
            if self._data_plane.handles(scope["path"]):
                await self._data_plane(scope, receive, watched_send)
            else:
                await self._management().router(scope, receive, watched_send)
        except Disconnected:
            return
        except Exception as error:
            if started:  # half an answer cannot be taken back
                raise
            await send_error(send, error)
