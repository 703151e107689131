"""When a model that crashes may have another worker: times are arguments, nothing waits."""

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.inference.crash_history import CrashHistory


def test_a_few_crashes_bring_no_pause() -> None:
    """Each costs its answer and no more."""
    history = CrashHistory(max_crashes=3, window_seconds=60)
    for now in (10.0, 11.0):
        history.crashed(now)
        assert history.pause_left(now) == 0.0
    assert history.recent(11.0) == history.total == 2


def test_a_crash_loop_brings_ever_longer_pauses() -> None:
    """1, 2, 4 s ... and never more than the window."""
    history = CrashHistory(max_crashes=2, window_seconds=5)
    history.crashed(0.0)
    pauses = []
    for now in (0.1, 0.2, 0.3, 0.4, 0.5):
        history.crashed(now)
        pauses.append(history.pause_left(now))
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_what_is_long_ago_is_forgiven() -> None:
    """A crash counts for one window; the total is for the metrics and goes on."""
    history = CrashHistory(max_crashes=1, window_seconds=5)
    history.crashed(0.0)
    assert 0 < history.pause_left(0.5) <= 1.0
    assert history.pause_left(5.0) == 0.0
    history.crashed(100.0)
    assert history.pause_left(100.0) == 1.0
    assert history.total == 2


@given(st.integers(1, 8), st.floats(0.05, 1000), st.lists(st.floats(0, 100), max_size=2000))
def test_pauses_are_bounded_and_begin_only_in_a_loop(most: int, window: float, gaps: list[float]) -> None:
    """Whatever the times are."""
    history, now = CrashHistory(most, window), 0.0
    for gap in gaps[:50]:
        now += gap
        history.crashed(now)
        left = history.pause_left(now)
        assert 0.0 <= left <= window
        assert (left > 0) == (history.recent(now) >= most)
        assert history.pause_left(now + window) == 0.0
