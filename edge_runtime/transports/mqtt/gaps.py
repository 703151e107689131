"""What was dropped, as ranges: the arithmetic of the outbox's gap announcements."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages of one boot that will never be sent: results `first` to `last` (None: no result) and some events."""

    boot: str
    first: int | None = None
    last: int | None = None
    events: int = 0

    @property
    def results(self) -> int:
        """How many results are in the range."""
        return 0 if self.first is None or self.last is None else self.last - self.first + 1

    def followed_by(self, later: "Gap") -> "Gap | None":
        """Both as one gap, or None where one range cannot tell the truth about both."""
        if self.boot != later.boot:
            return None
        events = self.events + later.events
        if later.first is None:
            return Gap(self.boot, self.first, self.last, events)
        if self.last is None:
            return Gap(self.boot, later.first, later.last, events)
        return Gap(self.boot, self.first, later.last, events) if self.last + 1 == later.first else None


def coalesce(dropped: Iterable[tuple[int, Gap]]) -> list[tuple[int, Gap]]:
    """Join neighbours, given oldest first; each gap keeps the row id of the last that it swallowed, so order holds."""
    gaps: list[tuple[int, Gap]] = []
    for row_id, gap in dropped:
        joined = gaps[-1][1].followed_by(gap) if gaps else None
        if joined is None:
            gaps.append((row_id, gap))
        else:
            gaps[-1] = (row_id, joined)
    return gaps
