"""Log lines about single requests."""

import logging

import pytest

from edge_runtime.config import LogConfig
from edge_runtime.errors import CallerError, ContentError
from edge_runtime.inference.call import Call
from edge_runtime.inference.request_log import RequestLog

CALL = Call(source="http", id="7\n", queue_seconds=0.25, engine_seconds=0.5)


def test_slow_requests_say_where_the_time_went(caplog: pytest.LogCaptureFixture) -> None:
    """From the configured time on; what a caller chose cannot begin a line of its own."""
    log = RequestLog(LogConfig(slow_request_seconds=0.5))
    log.answered("m", "1", CALL, 0.49)
    assert not caplog.messages
    log.answered("m", "1", CALL, 1.0)
    (line,) = caplog.messages
    assert line.startswith("slow: m 1 took 1.000 s (queue 0.250, pre 0.000, engine 0.500, post 0.000)")
    assert "\n" not in line
    RequestLog().answered("m", "1", CALL, 1e9)
    assert len(caplog.messages) == 1


def test_the_callers_mistakes_are_for_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    """Failures of the model are warnings; refusals are there for who debugs."""
    log = RequestLog()
    log.failed("m", "1", CALL, 0.1, CallerError("overloaded"))
    log.failed("m", "1", CALL, 0.1, ContentError("cannot run"))
    assert [(r.levelname, "cannot run" in r.getMessage()) for r in caplog.records] == [("WARNING", True)]
    with caplog.at_level(logging.DEBUG):
        log.failed("m", "1", CALL, 0.1, CallerError("overloaded"))
    assert "overloaded (invalid_input) source=http" in caplog.messages[-1]


def test_so_many_lines_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A model that fails every request does not fill the disk; the next minute says how many were left out."""
    now = [0.0]
    log = RequestLog(LogConfig(request_lines_per_minute=3), lambda: now[0])
    for _ in range(10):
        log.failed("m", "1", CALL, 0.1, ContentError("cannot run"))
    assert len(caplog.messages) == 3
    now[0] = 60.0
    log.failed("m", "1", CALL, 0.1, ContentError("cannot run"))
    assert len(caplog.messages) == 5
    assert caplog.messages[3].startswith("7 more requests")
