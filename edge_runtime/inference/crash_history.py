"""When a model that crashes its workers may get another one. Pure: times come in as arguments, in monotonic seconds."""

import threading
from collections import deque

_FIRST_PAUSE_SECONDS = 1.0
_MOST_REMEMBERED = 1000


class CrashHistory:
    """The crashes of one loaded model, over all its workers and threads.

    Fewer than `max_crashes` within `window_seconds` cost nothing but the worker. From then on each one brings a pause,
    twice as long each time and never longer than the window, in which no worker is started.
    """

    def __init__(self, max_crashes: int, window_seconds: float) -> None:
        self._max = max_crashes
        self._window = window_seconds
        self._times: deque[float] = deque(maxlen=_MOST_REMEMBERED)
        self._lock = threading.Lock()
        self.total = 0

    def crashed(self, now: float) -> None:
        """One more."""
        with self._lock:
            self.total += 1
            self._times.append(now)

    def recent(self, now: float) -> int:
        """How many there were within the window."""
        with self._lock:
            while self._times and now - self._times[0] >= self._window:
                self._times.popleft()
            return len(self._times)

    def pause_left(self, now: float) -> float:
        """Seconds until a worker may be started again; 0.0: now."""
        beyond = self.recent(now) - self._max
        with self._lock:
            if beyond < 0 or not self._times:
                return 0.0
            pause = min(self._window, _FIRST_PAUSE_SECONDS * 2.0 ** min(beyond, 32))
            return min(pause, max(0.0, self._times[-1] + pause - now))  # sums of floats are not exact
