"""How long to wait before the next try, and which protocol version to try it with."""

import random
from collections.abc import Callable
from typing import Literal

Version = Literal["5", "3.1.1"]
Mode = Literal["auto", "5", "3.1.1"]
# Why a connection ended. "version": the broker does not speak it; "unanswered": closed or silent before CONNACK.
Kind = Literal["stopped", "lost", "refused", "version", "unanswered", "takeover"]

FIRST_SECONDS = 0.25
# A connection that held this long was a good one: the next outage starts with short waits again.
STABLE_SECONDS = 10.0


class Backoff:
    """Jittered exponential waits; without jitter a fleet would come back at the same moment after an outage."""

    def __init__(self, max_seconds: float, draw: Callable[[], float] = random.random) -> None:
        self._max = max_seconds
        self._draw = draw
        self._failures = 0

    def wait(self, kind: Kind, lasted_seconds: float) -> float:
        """Seconds until the next try, after a connection (or an attempt) that lasted so long and ended so."""
        if kind == "takeover":
            # Coming back throws the other client out, which comes back too: the slower, the better for both.
            return self._jitter(self._max)
        if lasted_seconds >= STABLE_SECONDS:
            self._failures = 0
        ceiling = min(self._max, FIRST_SECONDS * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._jitter(ceiling)

    def _jitter(self, ceiling: float) -> float:
        return ceiling * (0.5 + 0.5 * self._draw())


def next_version(mode: Mode, tried: Version, kind: Kind) -> Version:
    """The version for the next try; "auto" falls back for one connection only.

    Brokers are upgraded, and one that was shot down during the handshake looks like one that does not know version 5.
    """
    if mode != "auto":
        return mode
    return "3.1.1" if tried == "5" and kind in ("version", "unanswered") else "5"
