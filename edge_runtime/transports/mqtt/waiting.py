"""The outbox's rows in memory: in order, bounded, oldest dropped first. Not safe for threads: the outbox locks."""

from bisect import bisect_left, bisect_right
from operator import attrgetter

from edge_runtime.transports.mqtt.gaps import coalesce
from edge_runtime.transports.mqtt.rows import Amount, Bound, Row

_ID = attrgetter("id")


class Waiting:
    """Rows by rising id. Removing from the middle moves a list of at most a few thousand pointers."""

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._rows: list[Row] = []
        self._amount = Amount()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def amount(self) -> Amount:
        """How much there is."""
        return self._amount

    def add(self, row: Row, protected_to: int) -> int:
        """Put a row at the end; returns how many messages had to go for it. Ids up to `protected_to` must stay."""
        tail = self._rows[-1] if self._rows else None
        if tail is not None and tail.id > protected_to and not (tail.topic or row.topic):
            joined = tail.gap.followed_by(row.gap)
            if joined is not None:
                self._rows[-1] = Row(row.id, "", b"", joined)
                return 0
        self._rows.append(row)
        self._amount += row.amount
        return self._drop_oldest(protected_to) if self._bound.exceeded_by(self._amount) else 0

    def _drop_oldest(self, protected_to: int) -> int:
        start = end = bisect_right(self._rows, protected_to, key=_ID)
        before = self._amount
        while self._bound.exceeded_by(self._amount) and end < len(self._rows):
            self._amount -= self._rows[end].amount
            end += 1
        gaps = coalesce((row.id, row.gap) for row in self._rows[start:end])
        self._rows[start:end] = [Row(row_id, "", b"", gap) for row_id, gap in gaps]
        self._amount += Amount(len(gaps))
        return before.messages - self._amount.messages

    def after(self, cursor: int, limit: int) -> list[Row]:
        """The next rows behind an id, at most `limit`."""
        start = bisect_right(self._rows, cursor, key=_ID)
        return self._rows[start : start + limit]

    def oldest(self, max_bytes: int) -> list[Row]:
        """The first rows, one at least, and not many more bytes than `max_bytes`."""
        found: list[Row] = []
        size = 0
        for row in self._rows:
            found.append(row)
            size += row.amount.bytes
            if size >= max_bytes:
                break
        return found

    def remove(self, row_id: int) -> bool:
        """Take one row out; returns whether it was here."""
        index = bisect_left(self._rows, row_id, key=_ID)
        if index == len(self._rows) or self._rows[index].id != row_id:
            return False
        self._amount -= self._rows.pop(index).amount
        return True

    def remove_to(self, row_id: int) -> None:
        """Take out all rows up to this id."""
        end = bisect_right(self._rows, row_id, key=_ID)
        for row in self._rows[:end]:
            self._amount -= row.amount
        del self._rows[:end]
