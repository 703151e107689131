"""Background work that goes on for the daemon's whole life, whatever happens in it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

_RESTART_SECONDS = 1.0
_RESTART_MAX_SECONDS = 60.0


class Background:
    """Starts tasks in the daemon's TaskGroup that cannot end it: what fails is logged, remembered and begun again."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        *,
        restart_seconds: float = _RESTART_SECONDS,
        restart_max_seconds: float = _RESTART_MAX_SECONDS,
    ) -> None:
        self._tasks = tasks
        self._restart_seconds = restart_seconds
        self._restart_max_seconds = restart_max_seconds
        self._failures: dict[str, tuple[float, str]] = {}

    def problem(self) -> str | None:
        """What has failed lately, for the health check."""
        since = time.monotonic() - self._restart_max_seconds
        return (
            "; ".join(f"{name} failed: {what}" for name, (when, what) in self._failures.items() if when > since) or None
        )

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run `work` until it returns or is cancelled; after an exception it is begun again, ever later."""
        return self._tasks.create_task(self._keep(name, work), name=name)

    def once(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run `work` once; an exception is logged."""
        return self._tasks.create_task(self._once(name, work), name=name)

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        delay = self._restart_seconds
        while True:
            began = time.monotonic()
            if await self._attempt(name, work):
                return
            if time.monotonic() - began > self._restart_max_seconds:  # it did well for a while
                delay = self._restart_seconds
            await asyncio.sleep(delay)
            delay = min(2 * delay, self._restart_max_seconds)

    async def _once(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:
            log.exception("%s failed", name)

    async def _attempt(self, name: str, work: Callable[[], Awaitable[None]]) -> bool:
        try:
            await work()
        except Exception as error:
            log.exception("%s failed; it is begun again", name)
            self._failures[name] = (time.monotonic(), str(error) or type(error).__name__)
            return False
        return True
