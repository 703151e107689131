"""Log lines about single requests: those that the model or the box failed, and slow ones; so many a minute at most."""

import logging
import time
from collections.abc import Callable

from edge_runtime.config import LogConfig
from edge_runtime.errors import Code, EdgeError
from edge_runtime.inference.call import Call
from edge_runtime.system import trace_context

log = logging.getLogger(__name__)

_MINUTE_SECONDS = 60.0
_OUR_FAULT = (Code.BAD_CONTENT, Code.INTERNAL)


class RequestLog:
    """What callers do wrong is for them: the log has it at level "debug" only. `clock` gives seconds."""

    def __init__(self, config: LogConfig | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        config = config or LogConfig()
        self.slow_seconds = config.slow_request_seconds
        self._most = config.request_lines_per_minute
        self._clock = clock
        self._minute = clock()
        self._written = 0

    def answered(self, model: str, version: str, call: Call, seconds: float) -> None:
        """One answer; a slow one is told with where the time went."""
        if not self.slow_seconds or seconds < self.slow_seconds or not self._may_write():
            return
        with trace_context.noted(call.traceparent):
            log.warning(
                "slow: %s %s took %.3f s (queue %.3f, pre %.3f, engine %.3f, post %.3f) source=%s%s",
                *(model, version, seconds),
                *(call.queue_seconds, call.pre_seconds, call.engine_seconds, call.post_seconds),
                *(call.source, f" id={call.id!r:.100}" if call.id else ""),
            )

    def failed(self, model: str, version: str, call: Call, seconds: float, error: EdgeError) -> None:
        """One request that failed."""
        level = logging.WARNING if error.code in _OUR_FAULT else logging.DEBUG
        if not log.isEnabledFor(level) or not self._may_write():
            return
        with trace_context.noted(call.traceparent):
            log.log(
                level,
                "failed: %s %s after %.3f s: %s (%s) source=%s%s",
                *(model, version, seconds, error, error.code.value, call.source),
                f" id={call.id!r:.100}" if call.id else "",
            )

    def _may_write(self) -> bool:
        now = self._clock()
        if now - self._minute >= _MINUTE_SECONDS:
            left_out = self._written - self._most
            if left_out > 0:
                log.warning("%d more requests failed or were slow (log.request_lines_per_minute)", left_out)
            self._minute, self._written = now, 0
        self._written += 1
        return self._written <= self._most
