"""What the data plane tells of each request to whoever records traces."""

from typing import Protocol

from edge_runtime.errors import Code
from edge_runtime.inference.call import Call


class Tracer(Protocol):
    """Asked on the event loop for every request: it must be quick, and never raise."""

    def begin(self, call: Call) -> None:
        """Decide whether the request is recorded, unless that is decided; then `call.traceparent` names its span."""
        ...

    def end(self, model: str, version: str, call: Call, seconds: float, error: Code | None = None) -> None:
        """The request that arrived so many seconds ago was answered, or failed."""
        ...
