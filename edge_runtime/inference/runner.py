"""What stands between the data plane and a model's sessions."""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from edge_runtime.inference.call import Call

Tensors = Mapping[str, NDArray[Any]]


class Runner(Protocol):
    """Runs calls of one model; used from one event loop only."""

    @property
    def size(self) -> int:
        """How many sessions there are."""
        ...

    @property
    def busy(self) -> int:
        """How many sessions are running a call."""
        ...

    @property
    def waiting(self) -> int:
        """How many calls wait for a session."""
        ...

    @property
    def inline_bytes(self) -> int:
        """Calls with at most this much input may run on the event loop itself; 0: none."""
        ...

    def run_now(self, tensors: Tensors) -> dict[str, NDArray[Any]] | None:
        """The answer at once, on the event loop; None where the call must wait, or is too slow for the loop.

        Raises:
            ContentError: the model failed.
        """
        ...

    async def run(self, tensors: Tensors, call: Call) -> dict[str, NDArray[Any]]:
        """Run the model once, before `call.deadline`; notes in `call` how long it waited and what the engine took.

        Raises:
            CallerError: OVERLOADED at once if too many wait already, DEADLINE_EXCEEDED if no answer came in time.
            ContentError: the model failed.
        """
        ...

    def close(self) -> None:
        """Let running calls finish and free the sessions."""
        ...
