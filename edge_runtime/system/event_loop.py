"""Which event loop a process of ours runs on."""

import asyncio
import contextlib
import importlib.util
from collections.abc import Callable


def factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The one of uvloop where that is installed; None: Python's own."""
    if importlib.util.find_spec("uvloop") is None:  # 32-bit ARM has no wheel
        return None
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - see above

        return uvloop.new_event_loop
    return None
