"""What happened, told to whoever listens inside the process; transports turn events into messages."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

log = logging.getLogger(__name__)

E = TypeVar("E")

DeployKind = Literal["deployed", "rolled_back", "refused", "removed"]


@dataclass(frozen=True, slots=True)
class Result:
    """A model answered.

    Attributes:
        time: UNIX time in seconds, when the answer was ready.
        source: which link or sensor asked ("http", "mqtt", "pipeline:NAME").
        result: the answer as plain data.
        latency_ms: from the input's arrival in the service to the answer, in milliseconds.
        traceparent: of the trace that the request belongs to (W3C Trace Context); empty where there is none.
    """

    model: str
    version: str
    time: float
    source: str
    result: Mapping[str, Any]
    latency_ms: float
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class ModelsChanged:
    """Which models (or versions) are served has changed."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment ended one way or the other; `reason` says why where it failed."""

    kind: DeployKind
    model: str
    version: str
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class EventBus:
    """Hands each event to its subscribers at once, in the publisher's thread; one that fails is logged, not felt."""

    def __init__(self) -> None:
        self._subscribers: dict[type, list[Callable[[Any], None]]] = {}

    def subscribe(self, kind: type[E], handler: Callable[[E], None]) -> Callable[[], None]:
        """Call `handler` for each event of `kind`; returns the function that ends it."""
        handlers = self._subscribers.setdefault(kind, [])
        handlers.append(handler)
        return lambda: handlers.remove(handler) if handler in handlers else None

    def publish(self, event: object) -> None:
        """Tell every subscriber of the event's type."""
        for handler in tuple(self._subscribers.get(type(event), ())):
            try:
                handler(event)
            except Exception:
                log.exception("a subscriber of %s failed", type(event).__name__)
