"""The one data plane: every link and every sensor asks for answers here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Sample:
    """A person's or a sensor's input as it came.

    Attributes:
        data: the bytes of a document or picture, or an array of real values in the raw input's unit.
        content_type: MIME type of bytes ("image/jpeg", "application/json", ""); unused for an array.
    """

    data: bytes | NDArray[Any]
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Inference:
    """Output tensors by name, as the model stores them, and which version made them."""

    model: str
    version: str
    outputs: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person asked for: plain data (labels, boxes, a value), never raw tensors unless asked."""

    model: str
    version: str
    result: Mapping[str, Any]
    latency_ms: float


class InferenceService:
    """Interface in progress: see infer() and predict()."""

    async def infer(
        self,
        model: str,
        tensors: Mapping[str, NDArray[Any]],
        *,
        version: str | None = None,
        deadline: float | None = None,
        source: str = "http",
    ) -> Inference:
        """Run `model` on input tensors by name; deadline in time.monotonic() seconds. Raises EdgeError."""
        raise EdgeErrorLater

    async def predict(
        self,
        model: str,
        sample: Sample,
        *,
        version: str | None = None,
        deadline: float | None = None,
        source: str = "http",
    ) -> Answer:
        """Pre-process, infer, post-process; publishes an events.Result on the bus. Raises EdgeError."""
        raise EdgeErrorLater


EdgeErrorLater = RuntimeError("written next")
