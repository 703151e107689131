"""Trace contexts, and the log lines that name them."""

import asyncio
import logging

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.system import trace_context
from edge_runtime.system.trace_context import Parent, Span, TraceIds

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_128, _64 = (st.integers(1, 2**bits - 1) for bits in (128, 64))


@given(_128, _64, _64)
def test_a_span_of_ours_is_a_parent_to_others(trace: int, span: int, parent: int) -> None:
    """What goes out can be read again, and is marked as recorded."""
    text = Span(trace, span, parent).traceparent
    assert trace_context.checked(text) == text
    assert trace_context.parent(text) == Parent(trace, span, sampled=True)


@given(st.text(alphabet="0123456789abcdefF- \n", max_size=60) | st.text())
def test_what_is_accepted_is_sound(text: str) -> None:
    """Whatever comes: two functions agree, and an identifier is never zero."""
    found = trace_context.parent(text)
    if trace_context.checked(text):
        assert found is not None
    if found is not None:
        assert found.trace_id
        assert found.span_id


def test_flags_are_bits() -> None:
    """Others than the first one may be set, too (section 3.2.2.5)."""
    flags = {flag: trace_context.parent(TRACE[:-2] + flag) for flag in ("00", "01", "02", "03", "ff")}
    assert [found is not None and found.sampled for found in flags.values()] == [False, True, False, True, True]


def test_lines_name_the_trace_of_their_own_task() -> None:
    """Two tasks at the same time do not mix theirs; a line of nobody's has none."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler, log = Lines(), logging.getLogger("test_trace_context")
    handler.setFormatter(logging.Formatter("%(message)s%(trace)s"))
    handler.addFilter(TraceIds())
    log.addHandler(handler)
    log.propagate = False

    async def work(name: str, trace: str) -> None:
        trace_context.note(trace)
        await asyncio.sleep(0)
        log.warning(name)

    async def go() -> None:
        await asyncio.gather(work("a", TRACE), work("b", ""), work("c", TRACE.replace("4bf9", "ffff")))
        log.warning("d")
        with trace_context.noted(TRACE):
            log.warning("e")
        log.warning("f")

    try:
        asyncio.run(go())
    finally:
        log.removeHandler(handler)
    ours, other = f" trace_id={TRACE[3:35]}", f" trace_id=ffff{TRACE[7:35]}"
    assert lines == ["a" + ours, "b", "c" + other, "d", "e" + ours, "f"]
