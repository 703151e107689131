"""The outbox against a model of itself, and its promises one by one."""

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from brokers import wait_for
from outboxes import fill_disk, messages, sent, settle, take_all

from edge_runtime.errors import DeviceError
from edge_runtime.transports.mqtt.gaps import Gap
from edge_runtime.transports.mqtt.outbox import Outbox
from edge_runtime.transports.mqtt.rows import OVERHEAD_BYTES, Amount, Bound, Row
from edge_runtime.transports.mqtt.table import WAL_MAX_BYTES
from edge_runtime.transports.mqtt.waiting import Waiting


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the state is."""
    return tmp_path / "state.db"


def test_numbers_and_order(path: Path) -> None:
    """Results carry boot and seq 1, 2, ...; events share the order, but have no number."""
    outbox = Outbox(path, "b", stored=messages(100))
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
    outbox = Outbox(path, "b", stored=messages(100))
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
        outbox = Outbox(path, "b", stored=messages(100))
        assert outbox.append("r", {}, numbered=True) == expected
        settle(outbox)
        for row in take_all(outbox):
            outbox.acknowledge(row.id)
        outbox.close()


def test_many_threads(path: Path) -> None:
    """Appends from several threads lose nothing, and rows are in the order of their numbers."""
    outbox = Outbox(path, "b", stored=messages(10_000))
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
    """While a commit hangs, appends return; over the bound in memory the oldest that is not in it becomes a gap."""
    outbox = Outbox(path, "b", stored=messages(100), waiting=messages(10))
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
    assert sent(rows) == [("b", 1, 1), ("b", 2, 12)] + [("b", seq, seq) for seq in range(13, 23)]
    assert [row.topic for row in rows[:3]] == ["r", "", "r"]
    outbox.close()


def test_gathered_messages_share_a_commit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred messages that wait cost one transaction, not a hundred."""
    outbox = Outbox(path, "b", stored=messages(1000))
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
    outbox = Outbox(path, "b", stored=messages(100))
    with monkeypatch.context() as patched:
        fill_disk(patched)
        outbox.append("r", {}, numbered=True)
        wait_for(lambda: outbox.problem)
        assert "disk is full" in outbox.problem
        outbox.append("r", {}, numbered=True)
        assert outbox.depth == 2
    settle(outbox)
    wait_for(lambda: outbox.problem == "")
    assert sent(take_all(outbox)) == [("b", 1, 1), ("b", 2, 2)]
    outbox.close()


def test_hopeless_disk_does_not_hold_up_the_close(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last commit fails, too, the outbox closes and says what is lost."""
    monkeypatch.setattr("edge_runtime.transports.mqtt.outbox.RETRY_SECONDS", 0.01)
    outbox = Outbox(path, "b", stored=messages(100))
    monkeypatch.setattr(outbox, "_commit", lambda *_: False)
    outbox.append("r", {}, numbered=True)
    outbox.close()
    assert not outbox._thread.is_alive()


def test_what_is_in_flight_is_not_dropped(path: Path) -> None:
    """At the bound the oldest rows that the sender has not been given are dropped: the others may have arrived."""
    outbox = Outbox(path, "b", stored=messages(10))
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
    outbox = Outbox(path, "b", stored=messages(10))
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
        Outbox(path, "b", stored=messages(10))


def test_bytes_are_bounded_on_disk(path: Path) -> None:
    """Large results push the oldest out although they are few; what is left is under the bound, and gaps are told."""
    outbox = Outbox(path, "b", stored=Bound(100_000, 1_000_000))
    for _ in range(50):
        outbox.append("r", {"result": "x" * 40_000}, numbered=True)
    settle(outbox)
    rows = take_all(outbox)
    total = sum((row.amount for row in rows), Amount())
    assert outbox._table.amount == total
    assert 950_000 < total.bytes <= 1_000_000
    assert sent(rows) == [("b", 1, 26)] + [("b", seq, seq) for seq in range(27, 51)]
    outbox.close()
    outbox = Outbox(path, "c", stored=Bound(100_000, 1_000_000))
    assert outbox._table.amount == total, "as counted when it is opened again"
    outbox.close()


def test_a_message_too_large_for_the_outbox_goes_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is larger than all there may be does not push the others out: it is a gap at once."""
    outbox = Outbox(path, "b", stored=Bound(100, 10_000))
    for size in (10, 10_000, 10):
        outbox.append("r", {"result": "x" * size}, numbered=True)
    settle(outbox)
    assert [(row.topic, row.gap.first) for row in take_all(outbox)] == [("r", 1), ("", 2), ("r", 3)]
    assert "mqtt.outbox_max_bytes" in caplog.text
    outbox.close()


def test_the_file_does_not_grow_with_each_backlog(path: Path) -> None:
    """Pages of a backlog that is gone are used by the next one, and the write-ahead log is cut."""
    outbox = Outbox(path, "b", stored=Bound(100_000, 4_000_000))
    sizes = []
    for _ in range(3):
        for _ in range(400):
            outbox.append("r", {"result": "x" * 20_000}, numbered=True)
        settle(outbox)
        for row in take_all(outbox):
            outbox.acknowledge(row.id)
        wait_for(lambda: outbox.depth == 0 and not outbox._acknowledged)
        sizes.append(path.stat().st_size)
    assert sizes[-1] <= 1.5 * 4_000_000
    assert sizes[2] <= sizes[1] * 1.05
    outbox.append("r", {}, numbered=True)
    settle(outbox)
    assert path.with_name("state.db-wal").stat().st_size <= WAL_MAX_BYTES
    outbox.close()


def test_committed_rows_come_before_those_in_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the rows that it has go first, then those in memory, each once; a reconnect starts again."""
    outbox = Outbox(path, "b", stored=messages(100))
    for _ in range(3):
        outbox.append("r", {}, numbered=True)
    settle(outbox)
    with monkeypatch.context() as patched:
        fill_disk(patched)
        for _ in range(3):
            outbox.append("r", {}, numbered=True)
        wait_for(lambda: outbox.problem)
        assert [row.gap.first for row in outbox.take(4)] == [1, 2, 3, 4]
        assert [row.gap.first for row in outbox.take(4)] == [5, 6]
        assert outbox.take(4) == []
        rows = take_all(outbox)
        assert [row.gap.first for row in rows] == [1, 2, 3, 4, 5, 6]
        for row in rows[:5]:
            outbox.acknowledge(row.id)
        assert outbox.depth == 1
    settle(outbox)
    assert sent(take_all(outbox)) == [("b", 6, 6)]
    assert outbox.append("r", {}, numbered=True) == 7
    outbox.close()


def test_numbers_sent_from_memory_are_not_used_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """(boot, seq) names one result even where the disk has never seen it."""
    outbox = Outbox(path, "b", stored=messages(100))
    with monkeypatch.context() as patched:
        fill_disk(patched)
        outbox.append("r", {}, numbered=True)
        wait_for(lambda: outbox.problem)
        (row,) = outbox.take(10)
        outbox.acknowledge(row.id)
    wait_for(lambda: outbox.problem == "")
    outbox.close()
    outbox = Outbox(path, "b", stored=messages(100))
    assert outbox.append("r", {}, numbered=True) == 2
    outbox.close()


def test_unreadable_rows_do_not_hold_up_those_in_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that can be neither written nor read costs what is on it, not what comes."""

    def broken(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    outbox = Outbox(path, "b", stored=messages(100))
    with monkeypatch.context() as patched:
        fill_disk(patched)
        patched.setattr(outbox._table, "read", broken)
        outbox.append("r", {}, numbered=True)
        wait_for(lambda: outbox.problem)
        assert [row.gap.first for row in outbox.take(10)] == [1]
    outbox.close()


def test_rows_in_memory_do_not_overtake_unreadable_ones(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While older results are on a disk that cannot be read, newer ones wait for them, and the problem says so."""

    def broken(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    outbox = Outbox(path, "b", stored=messages(100))
    outbox.append("r", {}, numbered=True)
    settle(outbox)
    with monkeypatch.context() as patched:
        fill_disk(patched)
        outbox.append("r", {}, numbered=True)
        wait_for(lambda: outbox.problem)
        with monkeypatch.context() as unreadable:
            unreadable.setattr(outbox._table, "read", broken)
            assert outbox.take(10) == []
        assert [row.gap.first for row in outbox.take(10)] == [1, 2]
    outbox.close()


def test_only_committed_rows_are_sent_while_the_disk_works(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow commit is no failure: what is in it is not handed out before it is on disk."""
    outbox = Outbox(path, "b", stored=messages(100))
    hanging, go_on = threading.Event(), threading.Event()
    commit = outbox._table.commit

    def hang(*args: Any) -> int:
        hanging.set()
        go_on.wait(10)
        return commit(*args)

    monkeypatch.setattr(outbox._table, "commit", hang)
    outbox.append("r", {}, numbered=True)
    assert hanging.wait(10)
    assert outbox.take(10) == []
    go_on.set()
    settle(outbox)
    assert sent(outbox.take(10)) == [("b", 1, 1)]
    outbox.close()


def test_rows_from_memory_after_a_reconnect(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all that was on disk is acknowledged, a reconnect on a full disk still finds what is in memory."""
    outbox = Outbox(path, "b", stored=messages(100))
    outbox.append("r", {}, numbered=True)
    settle(outbox)
    outbox.acknowledge(outbox.take(1)[0].id)
    wait_for(lambda: not outbox._acknowledged)
    with monkeypatch.context() as patched:
        fill_disk(patched)
        outbox.append("r", {}, numbered=True)
        wait_for(lambda: outbox.problem)
        assert sent(take_all(outbox)) == [("b", 2, 2)]
    settle(outbox)
    assert outbox.take(10) == []
    outbox.close()


def test_acknowledged_during_a_commit_that_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the broker got while a commit was being tried is neither sent again nor written."""
    outbox = Outbox(path, "b", stored=messages(100))
    with monkeypatch.context() as patched:
        fill_disk(patched)
        outbox.append("r", {}, numbered=True)
        wait_for(lambda: outbox.problem)
        (row,) = outbox.take(10)
        acknowledged, again = threading.Event(), list[Row]()

        def fail(*_: object) -> int:
            if not acknowledged.is_set():
                outbox.acknowledge(row.id)
                again.extend(take_all(outbox))
                acknowledged.set()
            raise sqlite3.OperationalError("database or disk is full")

        patched.setattr(outbox._table, "commit", fail)
        assert acknowledged.wait(10)
        wait_for(lambda: not outbox._waiting)
        assert outbox.depth == 0
    assert again + take_all(outbox) == []
    outbox.close()


def test_waiting_rows_are_bounded_and_in_order() -> None:
    """In memory, too, the oldest gives way by bytes, except what is protected; a gap joins the one before it."""
    waiting = Waiting(Bound(100, 5 * (OVERHEAD_BYTES + 11)))
    dropped = [waiting.add(Row(i, "r", b"x" * 10, Gap("b", i, i)), 2) for i in range(1, 11)]
    assert dropped == [0] * 5 + [1] * 5
    rows = waiting.after(0, 100)
    assert [(row.id, row.gap.first, row.gap.last) for row in rows] == [
        (1, 1, 1),
        (2, 2, 2),
        (7, 3, 7),
        (8, 8, 8),
        (9, 9, 9),
        (10, 10, 10),
    ]
    assert waiting.amount == sum((row.amount for row in rows), Amount())
    assert waiting.remove(8)
    assert not waiting.remove(5)
    waiting.remove_to(9)
    assert waiting.amount == Amount(1, 1, OVERHEAD_BYTES + 11)
