"""What a request brings beside its tensors, and what is noted of it on its way."""

from dataclasses import dataclass
from typing import Literal

from edge_runtime.system.trace_context import Span

# Tensor requests are told from predictions by this source, so that a link can leave their results out.
TENSOR_SOURCE = "infer"


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """One step of a caller's sequence with a model that keeps state between calls.

    Attributes:
        id: names the sequence; callers choose it.
        start: the state is reset before this step.
        end: the state is dropped after this step.
    """

    id: str
    start: bool = False
    end: bool = False


@dataclass(slots=True)
class Call:
    """One request.

    Attributes:
        source: which link or sensor asks ("infer", "http", "mqtt", "pipeline:NAME").
        deadline: in time.monotonic() seconds; None, or a later one, means the configured time from its arrival.
        id: the caller's own name of it; empty where it has none.
        traceparent: W3C Trace Context header; as it came, or of the box's own span; empty where there is none.
        sequence: which sequence it is a step of, if any.
        raw: the caller wants the output tensors' values beside the answer.
        span: the box's own part of the trace, if one is recorded; undecided before `Tracer.begin`.
        queue_seconds: how long it waited for an interpreter.
        pre_seconds: what making the input tensor took.
        engine_seconds: what the engine took.
        post_seconds: what reading the answer took.
        batch: how many samples the engine ran together with it.
    """

    source: str = TENSOR_SOURCE
    deadline: float | None = None
    id: str = ""
    traceparent: str = ""
    sequence: SequenceStep | None = None
    raw: bool = False
    span: Span | Literal["undecided"] | None = "undecided"
    queue_seconds: float = 0.0
    pre_seconds: float = 0.0
    engine_seconds: float = 0.0
    post_seconds: float = 0.0
    batch: int = 1
