"""A real inference, so that "alive" means that a model answers."""

import asyncio
import time

from edge_runtime.errors import CallerError
from edge_runtime.inference.call import Call
from edge_runtime.inference.neutral import neutral_inputs
from edge_runtime.inference.registry import Registry

# Under load the check waits behind real work; that other work gets done is then the proof.
_PATIENCE_SECONDS = 3.0
_GLANCE_SECONDS = 0.05


class SelfCheck:
    """Runs the quickest of the active models on an input of zeros; without one in memory there is nothing to check.

    A model in a process of its own says nothing of the daemon: whatever it does, the daemon must not be restarted.

    It loads none: that would push another one out where memory is scarce.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def run(self) -> str | None:
        """What is wrong, or None. Raises EdgeError when the model itself fails."""
        inside = (s for s in self._registry.active() if s.resident and not s.placement.isolated)
        served = min(inside, key=lambda s: s.description.latency_ms, default=None)
        if served is None:
            return None
        tensors = neutral_inputs(served.description.inputs)
        answered = served.stats.total.count
        deadline = time.monotonic() + _PATIENCE_SECONDS
        try:
            with self._registry.lease(served.name, served.version):
                if served.runner.run_now(tensors) is None:  # a thread would hold the session while callers want it
                    await served.runner.run(tensors, Call(deadline=deadline))
        except CallerError as error:  # late, or too many are before us
            while served.stats.total.count == answered:
                if time.monotonic() > deadline:
                    return f"{served.name} {served.version}: {error}"
                await asyncio.sleep(_GLANCE_SECONDS)
        return None
