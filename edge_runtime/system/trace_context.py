"""W3C Trace Context: which trace a request belongs to, and log lines that say so."""

import logging
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

# Section 3.2.2; what follows the flags is for versions to come.
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[^,\s]{0,160})?"
)
_SAMPLED = 1

_current: ContextVar[str] = ContextVar("traceparent", default="")


class Span(NamedTuple):
    """This box's part of a trace; `parent_id` 0: the trace begins with it."""

    trace_id: int
    span_id: int
    parent_id: int

    @property
    def traceparent(self) -> str:
        """What tells others that they work for this span."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-01"


def new_trace_id() -> int:
    """Random, as W3C Trace Context asks for, and never 0."""
    return random.getrandbits(128) or 1


def new_span_id() -> int:
    """Random, and never 0."""
    return random.getrandbits(64) or 1


class Parent(NamedTuple):
    """What a traceparent says: whose work the request is, and whether the trace is recorded."""

    trace_id: int
    span_id: int
    sampled: bool


def checked(text: str) -> str:
    """The text if it is a traceparent, else ""."""
    found = _TRACEPARENT.fullmatch(text) if text else None
    return text if found is not None and (found[1] != "00" or found[5] is None) else ""


def parent(traceparent: str) -> Parent | None:
    """What it says; None where it is no traceparent."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return found and Parent(int(found[2], 16), int(found[3], 16), bool(int(found[4], 16) & _SAMPLED))


def note(traceparent: str) -> None:
    """From now on, log lines of the running task name this trace; none if it is ""."""
    _current.set(traceparent)


@contextmanager
def noted(traceparent: str) -> Iterator[None]:
    """As `note`, until the end of the block."""
    token = _current.set(traceparent)
    try:
        yield
    finally:
        _current.reset(token)


class TraceIds(logging.Filter):
    """Gives every line a field `trace`: " trace_id=..." where the task that writes it works for a trace, else ""."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every line pass."""
        traceparent = _current.get()
        record.trace = f" trace_id={traceparent[3:35]}" if traceparent else ""
        return True
