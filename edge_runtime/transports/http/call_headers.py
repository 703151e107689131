"""What headers say of a call: how long its caller waits, and which trace it belongs to."""

import re
import time

from edge_runtime.errors import CallerError
from edge_runtime.system import trace_context
from edge_runtime.transports.http.exchange import Exchange

_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)


def deadline(exchange: Exchange) -> float | None:
    """When the caller no longer waits, in time.monotonic() seconds: so many after now as Request-Timeout says.

    Raises:
        CallerError: that header is no number of seconds.
    """
    text = exchange.header(b"request-timeout")
    if not text:
        return None
    if not _SECONDS.fullmatch(text):
        raise CallerError(f"Request-Timeout must be a number of seconds such as 2 or 0.25, but is {text[:20]!r}")
    return time.monotonic() + float(text)


def traceparent(exchange: Exchange) -> str:
    """The request's traceparent; "" where it has none, several, or one that is not as W3C Trace Context says.

    From now on the log lines of the request's task name its trace.
    """
    text = trace_context.checked(exchange.header(b"traceparent"))
    if text and sum(name == b"traceparent" for name, _ in exchange.scope["headers"]) > 1:
        text = ""
    trace_context.note(text)
    return text
