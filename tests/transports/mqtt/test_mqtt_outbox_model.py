"""The outbox against a model of itself: whatever happens, received and announced together are what was produced."""

import tempfile
from pathlib import Path

import pytest
from brokers import wait_for
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from outboxes import fill_disk, sent, settle, take_all

from edge_runtime.transports.mqtt.outbox import Outbox
from edge_runtime.transports.mqtt.rows import Amount, Bound, Row

LARGEST = 3000


class OutboxMachine(RuleBasedStateMachine):
    """Appends, sends, acknowledgements, full disks, crashes and restarts, against a list of what each boot produced."""

    @initialize(
        stored=st.builds(Bound, st.integers(1, 12), st.integers(LARGEST, 20_000)),
        waiting=st.builds(Bound, st.integers(8, 12), st.integers(LARGEST, 20_000)),
    )
    def open_first(self, stored: Bound, waiting: Bound) -> None:
        """Start with an empty state."""
        self.folder = tempfile.TemporaryDirectory()
        self.stored, self.waiting = stored, waiting
        self.patch = pytest.MonkeyPatch()
        self.full = self.crashed = False
        self.boot = 0
        self.produced: dict[str, int] = {}
        self.covered: dict[tuple[str, int], str] = {}  # how each result ended: received, or announced as missing
        self.open()

    def open(self) -> None:
        """Open the outbox of the next boot."""
        self.boot += 1
        self.over = Amount()  # may be on disk above the bound until the next commit: it was in flight before
        self.taken: list[Row] = []
        self.settled: set[int] = set()
        path = Path(self.folder.name) / "state.db"
        self.outbox = Outbox(path, f"boot-{self.boot}", stored=self.stored, waiting=self.waiting)

    @rule(sizes=st.lists(st.integers(0, LARGEST), min_size=1, max_size=8), numbered=st.booleans())
    def append(self, *, sizes: list[int], numbered: bool) -> None:
        """Produce results or events, and wait for the commit, or for its failure."""
        for size in sizes:
            document = {"result": "x" * size}
            seq = self.outbox.append("r" if numbered else "e", document, numbered=numbered)
            if seq is not None:
                self.produced[f"boot-{self.boot}"] = seq
        if self.full:
            wait_for(lambda: self.outbox.problem)
        else:
            settle(self.outbox)
            self.over = Amount()

    @rule(limit=st.integers(1, 10))
    def take(self, limit: int) -> None:
        """Send some."""
        rows = self.outbox.take(limit)
        assert not self.settled & {row.id for row in rows}, "handed out again after the acknowledgement"
        assert not {row.id for row in self.taken} & {row.id for row in rows}, "handed out twice"
        self.taken += rows

    @rule(count=st.integers(1, 10))
    def acknowledge(self, count: int) -> None:
        """The broker acknowledges the oldest of what was sent."""
        for row in self.taken[:count]:
            self.cover(row)
            self.outbox.acknowledge(row.id)
            self.settled.add(row.id)
        del self.taken[:count]

    @rule()
    def refuse(self) -> None:
        """The broker refuses the oldest of what was sent."""
        for row in self.taken[:1]:
            if row.topic:
                self.outbox.refuse(row)
                self.settled.add(row.id)
                del self.taken[:1]

    @rule()
    def reconnect(self) -> None:
        """The connection is lost, with everything in flight."""
        self.over += self.flying()
        self.outbox.rewind()
        self.taken = []

    @rule()
    @precondition(lambda self: not self.full)
    def fill(self) -> None:
        """The disk is full."""
        settle(self.outbox)
        self.full = True
        fill_disk(self.patch)

    @rule()
    def heal(self) -> None:
        """The disk has room again."""
        self.full = False
        self.patch.undo()
        settle(self.outbox)
        wait_for(lambda: not self.outbox.problem)

    @rule()
    @precondition(lambda self: not self.full)
    def restart(self) -> None:
        """The daemon stops and starts."""
        self.reopen()

    @rule()
    @precondition(lambda self: not self.full)
    def crash(self) -> None:
        """The daemon dies: acknowledgements that were not committed are forgotten, rows come again."""
        self.crashed = True
        flying = self.flying()
        with self.outbox._changed:
            self.outbox._acknowledged.clear()
        self.reopen()
        self.over += flying

    def reopen(self) -> None:
        """Close the outbox, and open it for the next boot; what was in flight is not any more."""
        over = self.over + self.flying()
        self.outbox.close()
        self.open()
        self.over = over

    def flying(self) -> Amount:
        """What was sent and is not acknowledged, or acknowledged and not deleted, at most."""
        with self.outbox._changed:
            unsettled = len(self.outbox._acknowledged)
        flying = sum((row.amount for row in self.taken), Amount())
        return flying + Amount(unsettled, unsettled, unsettled * (LARGEST + 300))

    @invariant()
    def bounded(self) -> None:
        """Never more than the bounds and what is in flight, on disk and in memory; gaps are few."""
        if not hasattr(self, "outbox"):
            return
        spared = self.flying() + self.over
        with self.outbox._changed:
            stored, waiting = self.outbox._table.amount, self.outbox._waiting.amount
        assert stored.bytes <= self.stored.bytes + spared.bytes
        assert stored.messages <= self.stored.messages + spared.messages
        assert waiting.bytes <= self.waiting.bytes
        assert waiting.messages <= self.waiting.messages

    def cover(self, row: Row) -> None:
        """Note what the subscriber learns from a row."""
        if row.gap.first is None or row.gap.last is None:
            return
        for seq in range(row.gap.first, row.gap.last + 1):
            ended = "received" if row.topic else "missing"
            before = self.covered.setdefault((row.gap.boot, seq), ended)
            assert self.crashed or before == ended, "received, and announced as missing, too"

    def teardown(self) -> None:
        """Send the rest: every result was received or announced, none is unknown, and the rest came in order."""
        if not hasattr(self, "outbox"):
            return
        self.heal()
        rows = take_all(self.outbox)
        self.outbox.close()
        self.folder.cleanup()
        messages = [row for row in rows if row.topic]
        order = [(int(boot.removeprefix("boot-")), first) for boot, first, _ in sent(messages)]
        assert order == sorted(order)
        for row in rows:
            self.cover(row)
        expected = {(boot, seq) for boot, last in self.produced.items() for seq in range(1, last + 1)}
        assert set(self.covered) == expected


TestOutboxModel = OutboxMachine.TestCase
TestOutboxModel.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
