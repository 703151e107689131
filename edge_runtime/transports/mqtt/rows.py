"""What the outbox holds, in memory or on disk, and how much of it there is."""

from dataclasses import dataclass

from edge_runtime.transports.mqtt.gaps import Gap

# Counted for each message beside its topic and payload: Python's objects in memory; header, boot and slack on disk.
OVERHEAD_BYTES = 256


@dataclass(frozen=True, slots=True)
class Row:
    """A message, or (topic "") the place of dropped ones; `gap` is what is missing without it. Ids give the order."""

    id: int
    topic: str
    payload: bytes
    gap: Gap

    @property
    def amount(self) -> "Amount":
        """What it adds to an amount; a gap is a row, but neither a message nor bytes: the bounds must not drop it."""
        return amount(self.topic, len(self.topic.encode()) + len(self.payload))


@dataclass(frozen=True, slots=True)
class Amount:
    """So many rows, so many of them messages, so many bytes."""

    rows: int = 0
    messages: int = 0
    bytes: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.rows + other.rows, self.messages + other.messages, self.bytes + other.bytes)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.rows - other.rows, self.messages - other.messages, self.bytes - other.bytes)


@dataclass(frozen=True, slots=True)
class Bound:
    """How many messages and bytes there may be."""

    messages: int
    bytes: int

    def exceeded_by(self, amount: Amount) -> bool:
        """Whether something must go."""
        return amount.messages > self.messages or amount.bytes > self.bytes


def amount(topic: str, text_bytes: int) -> Amount:
    """The amount of one row whose topic and payload have `text_bytes` bytes together."""
    return Amount(1, 1, text_bytes + OVERHEAD_BYTES) if topic else Amount(1)
