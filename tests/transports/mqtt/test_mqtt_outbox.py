"""The outbox against a model of itself, and its promises one by one."""

import json
import sqlite3
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from brokers import wait_for
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_runtime.errors import DeviceError
from edge_runtime.transports.mqtt.outbox import Outbox, Row


def settle(outbox: Outbox) -> None:
    """Wait until everything that was appended is on disk."""
    wait_for(lambda: not outbox._waiting and not outbox._committing, what="committed")


def take_all(outbox: Outbox) -> list[Row]:
    """Everything that is left to send."""
    outbox.rewind()
    return outbox.take(1_000_000)


def sent(rows: list[Row]) -> list[tuple[str, int, int]]:
    """(boot, first, last) of each row with a result in it, be it a message or a gap."""
    return [(row.gap.boot, row.gap.first, row.gap.last or 0) for row in rows if row.gap.first is not None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the state is."""
    return tmp_path / "state.db"


def test_numbers_and_order(path: Path) -> None:
    """Results carry boot and seq 1, 2, ...; events share the order, but have no number."""
    outbox = Outbox(path, "b", max_messages=100)
    assert outbox.append("r", {"result": 0}, numbered=True) == 1
    assert outbox.append("e", {"kind": "deployed"}, numbered=False) is None
    assert outbox.append("r", {"result": 1}, numbered=True) == 2
    settle(outbox)
    rows = outbox.take(10)
    assert [(row.topic, json.loads(row.payload)) for row in rows] == [
        ("r", {"result": 0, "boot": "b", "seq": 1}),
        ("e", {"kind": "deployed"}),
        ("r", {"result": 1, "boot": "b", "seq": 2}),
    ]
    assert outbox.take(10) == []
    outbox.close()


def test_acknowledged_rows_do_not_come_again(path: Path) -> None:
    """A new connection gets what is not acknowledged, even if the acknowledged rows are not deleted yet."""
    outbox = Outbox(path, "b", max_messages=100)
    for _ in range(3):
        outbox.append("r", {}, numbered=True)
    settle(outbox)
    outbox.acknowledge(outbox.take(3)[0].id)
    assert sent(take_all(outbox)) == [("b", 2, 2), ("b", 3, 3)]
    assert outbox.depth == 2
    outbox.close()


def test_reopening_the_same_boot_goes_on_counting(path: Path) -> None:
    """(boot, seq) never names two results, even if a boot's name is used again and its rows are gone."""
    for expected in (1, 2, 3):
        outbox = Outbox(path, "b", max_messages=100)
        assert outbox.append("r", {}, numbered=True) == expected
        settle(outbox)
        for row in take_all(outbox):
            outbox.acknowledge(row.id)
        outbox.close()


def test_many_threads(path: Path) -> None:
    """Appends from several threads lose nothing, and rows are in the order of their numbers."""
    outbox = Outbox(path, "b", max_messages=10_000)
    threads = [
        threading.Thread(target=lambda: [outbox.append("r", {}, numbered=True) for _ in range(250)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle(outbox)
    assert [row.gap.first for row in take_all(outbox)] == list(range(1, 1001))
    outbox.close()


def test_slow_disk_does_not_hold_up_appends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a commit hangs, appends return; over the bound in memory they become a gap at their place."""
    outbox = Outbox(path, "b", max_messages=100, max_waiting=10)
    hanging, go_on = threading.Event(), threading.Event()
    commit = outbox._commit

    def hang(*args: Any) -> bool:
        hanging.set()
        go_on.wait(10)
        return commit(*args)

    monkeypatch.setattr(outbox, "_commit", hang)
    outbox.append("r", {}, numbered=True)
    assert hanging.wait(10)
    for _ in range(20):
        outbox.append("r", {}, numbered=True)
    go_on.set()
    settle(outbox)
    outbox.append("r", {}, numbered=True)
    settle(outbox)
    rows = take_all(outbox)
    assert sent(rows) == [("b", seq, seq) for seq in range(1, 12)] + [("b", 12, 21), ("b", 22, 22)]
    assert [row.topic for row in rows[-2:]] == ["", "r"]
    outbox.close()


def test_gathered_messages_share_a_commit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred messages that wait cost one transaction, not a hundred."""
    outbox = Outbox(path, "b", max_messages=1000)
    commits: list[int] = []
    commit, first = outbox._commit, threading.Event()

    def count(batch: Any, acknowledged: Any) -> bool:
        commits.append(len(batch))
        first.wait(10)
        return commit(batch, acknowledged)

    monkeypatch.setattr(outbox, "_commit", count)
    outbox.append("r", {}, numbered=True)
    wait_for(lambda: commits)
    for _ in range(100):
        outbox.append("r", {}, numbered=True)
    first.set()
    settle(outbox)
    outbox.close()
    assert commits[:2] == [1, 100]


def test_failing_disk_is_reported_and_outlived(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk refuses, messages wait in memory and the problem is named; then they are committed in order."""
    monkeypatch.setattr("edge_runtime.transports.mqtt.outbox.RETRY_SECONDS", 0.01)
    outbox = Outbox(path, "b", max_messages=100)
    full = threading.Event()
    full.set()

    def shrink(_stored: int) -> int:
        if full.is_set():
            raise sqlite3.OperationalError("database or disk is full")
        return 0

    monkeypatch.setattr(outbox, "_shrink", shrink)
    outbox.append("r", {}, numbered=True)
    wait_for(lambda: outbox.problem)
    assert "disk is full" in outbox.problem
    outbox.append("r", {}, numbered=True)
    assert outbox.depth == 2
    full.clear()
    settle(outbox)
    assert outbox.problem == ""
    assert sent(take_all(outbox)) == [("b", 1, 1), ("b", 2, 2)]
    outbox.close()


def test_hopeless_disk_does_not_hold_up_the_close(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last commit fails, too, the outbox closes and says what is lost."""
    monkeypatch.setattr("edge_runtime.transports.mqtt.outbox.RETRY_SECONDS", 0.01)
    outbox = Outbox(path, "b", max_messages=100)
    monkeypatch.setattr(outbox, "_commit", lambda *_: False)
    outbox.append("r", {}, numbered=True)
    outbox.close()
    assert not outbox._thread.is_alive()


def test_what_is_in_flight_is_not_dropped(path: Path) -> None:
    """At the bound the oldest rows that the sender has not been given are dropped: the others may have arrived."""
    outbox = Outbox(path, "b", max_messages=10)
    for _ in range(10):
        outbox.append("r", {}, numbered=True)
    settle(outbox)
    in_flight = outbox.take(3)
    for _ in range(5):
        outbox.append("r", {}, numbered=True)
    settle(outbox)
    assert sent(outbox.take(100)) == [("b", 4, 8)] + [("b", seq, seq) for seq in range(9, 16)]
    assert sent(in_flight) == [("b", 1, 1), ("b", 2, 2), ("b", 3, 3)]
    outbox.close()


def test_refused_message_becomes_a_gap_once(path: Path) -> None:
    """A message that the broker will not take is announced; a gap that it will not take is not."""
    outbox = Outbox(path, "b", max_messages=10)
    outbox.append("r", {}, numbered=True)
    settle(outbox)
    outbox.refuse(outbox.take(1)[0])
    settle(outbox)
    (gap,) = outbox.take(10)
    assert (gap.topic, gap.gap.first, gap.gap.last) == ("", 1, 1)
    outbox.refuse(gap)
    wait_for(lambda: outbox.depth == 0)
    outbox.close()


def test_state_that_is_no_database(path: Path) -> None:
    """A broken state file is an error that names it."""
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(DeviceError, match=r"state\.db"):
        Outbox(path, "b", max_messages=10)


class OutboxMachine(RuleBasedStateMachine):
    """Appends, sends, acknowledgements, crashes and restarts, against a list of what each boot produced."""

    @initialize(bound=st.integers(1, 12))
    def open_first(self, bound: int) -> None:
        """Start with an empty state."""
        self.folder = tempfile.TemporaryDirectory()
        self.bound = bound
        self.boot = 0
        self.appended = 0
        self.taken: list[Row] = []
        self.produced: dict[str, int] = {}
        self.covered: dict[tuple[str, int], str] = {}  # how each result ended: received, or announced as missing
        self.open()

    def open(self) -> None:
        """Open the outbox of the next boot."""
        self.boot += 1
        self.taken = []
        self.settled: set[int] = set()
        self.outbox = Outbox(Path(self.folder.name) / "state.db", f"boot-{self.boot}", max_messages=self.bound)

    @rule(count=st.integers(1, 8), numbered=st.booleans())
    def append(self, *, count: int, numbered: bool) -> None:
        """Produce results or events, and wait for the commit."""
        self.appended += count
        for _ in range(count):
            seq = self.outbox.append("r" if numbered else "e", {}, numbered=numbered)
            if seq is not None:
                self.produced[f"boot-{self.boot}"] = seq
        settle(self.outbox)

    @rule(limit=st.integers(1, 10))
    def take(self, limit: int) -> None:
        """Send some."""
        rows = self.outbox.take(limit)
        assert not self.settled & {row.id for row in rows}, "handed out again after the acknowledgement"
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
    def reconnect(self) -> None:
        """The connection is lost, with everything in flight."""
        self.outbox.rewind()
        self.taken = []

    @rule()
    def restart(self) -> None:
        """The daemon stops and starts."""
        self.outbox.close()
        self.open()

    @rule()
    def crash(self) -> None:
        """The daemon dies: acknowledgements that were not committed are forgotten, rows come again."""
        with self.outbox._changed:
            self.outbox._acknowledged.clear()
        self.outbox.close()
        self.open()

    @invariant()
    def bounded(self) -> None:
        """Never more rows than the bound, what is in flight, and the gaps between."""
        if hasattr(self, "outbox"):
            assert self.outbox.depth <= self.bound + len(self.taken) + 2 * self.boot + 2

    def cover(self, row: Row) -> None:
        """Note what the subscriber learns from a row."""
        if row.gap.first is None or row.gap.last is None:
            return
        for seq in range(row.gap.first, row.gap.last + 1):
            self.covered.setdefault((row.gap.boot, seq), "received" if row.topic else "missing")

    def teardown(self) -> None:
        """Send the rest: every result was received or announced, none is unknown, and the rest came in order."""
        if not hasattr(self, "outbox"):
            return
        rows = take_all(self.outbox)
        self.outbox.close()
        self.folder.cleanup()
        order = [(int(boot.removeprefix("boot-")), first) for boot, first, _ in sent(rows)]
        assert order == sorted(order)
        for row in rows:
            self.cover(row)
        expected = {(boot, seq) for boot, last in self.produced.items() for seq in range(1, last + 1)}
        assert set(self.covered) == expected
        if self.appended <= self.bound:
            assert "missing" not in self.covered.values()


TestOutboxModel = OutboxMachine.TestCase
TestOutboxModel.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
