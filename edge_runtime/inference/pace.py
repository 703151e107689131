"""How long runs of a model take of late, and who can still be answered in time."""

import math
import time

from edge_runtime.errors import CallerError, Code

# How much the last run counts.
_NEWEST = 0.2
# Runs differ. Where all waited to the last moment, each would begin a little too late, and the engine work for nobody.
_MARGIN = 1.5


class Pace:
    """An estimate of what a run takes; without one (no run yet) nobody is refused."""

    __slots__ = ("run_seconds",)

    def __init__(self) -> None:
        self.run_seconds = 0.0

    def note(self, seconds: float) -> None:
        """A run took so long."""
        self.run_seconds += (seconds - self.run_seconds) * (_NEWEST if self.run_seconds else 1.0)

    def check(self, runs_before: float, deadline: float) -> None:
        """Raise CallerError OVERLOADED if, after so many runs, there is no time left for one before `deadline`.

        `deadline` is in time.monotonic() seconds.
        """
        needed = _MARGIN * (runs_before + 1) * self.run_seconds
        if deadline != math.inf and time.monotonic() + needed > deadline:
            raise CallerError(
                f"overloaded: an answer takes about {needed:.3g} s now, the deadline is earlier; try again later",
                Code.OVERLOADED,
            )

    def hopeless(self, deadline: float) -> bool:
        """Whether a run that begins now ends after `deadline`."""
        return time.monotonic() + self.run_seconds > deadline
