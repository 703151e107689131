"""Uploads: places, disk space, and senders that come and go."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime.config import DeployConfig
from edge_runtime.deploy.deployer import Progress
from edge_runtime.deploy.store import State
from edge_runtime.deploy.uploads import Announced, Upload, Uploads
from edge_runtime.errors import CallerError, Code, DeviceError

CONFIG = DeployConfig(max_uploads=3, upload_idle_seconds=0.2, min_free_bytes=0)
MIB = 2**20


def read(path: Path) -> bytes:
    """A small file's bytes."""
    return path.read_bytes()


def files(folder: Path) -> list[Path]:
    """What is kept of uploads."""
    return list(folder.glob("uploads/*"))


class Sink:
    """A deployer that takes everything, and remembers it."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.error: Exception | None = None

    async def deploy(self, path: Path, progress: Progress, **_: Any) -> None:
        """Commit at once, or fail."""
        if self.error:
            raise self.error
        self.taken.append(read(path))
        progress.state = State.COMMITTED


class Sender:
    """Chunks that come when the test says so; after `hang` none does."""

    def __init__(self, *chunks: bytes | None) -> None:
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        for chunk in chunks:
            self._chunks.put_nowait(chunk)

    def send(self, chunk: bytes | None) -> None:
        """Send one more; None ends the body."""
        self._chunks.put_nowait(chunk)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._chunks.get()) is not None:
            yield chunk


def run(folder: Path, test: Callable[[Uploads, Sink], Awaitable[None]], config: DeployConfig = CONFIG) -> None:
    """Run a test with uploads in `folder`."""

    async def scenario() -> None:
        sink = Sink()
        async with asyncio.TaskGroup() as tasks:
            await test(Uploads(config, folder, sink, tasks), sink)

    asyncio.run(scenario())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has no event."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)


async def refused(work: Awaitable[None]) -> Code:
    """The code of the CallerError that `work` ends with."""
    with pytest.raises(CallerError) as caught:
        await work
    return caught.value.code


def test_a_sender_who_is_silent_is_cut_off_and_what_came_is_kept(tmp_path: Path) -> None:
    """A half-open link would hold the upload for ever."""

    async def test(uploads: Uploads, sink: Sink) -> None:
        upload = uploads.create(Announced(10))
        assert await refused(uploads.append(upload, 0, aiter(Sender(b"abc")))) is Code.DEADLINE_EXCEEDED
        assert (upload.offset, upload.turn) == (3, None)
        rest = Sender(b"defghij", None)
        await uploads.append(upload, 3, aiter(rest))
        await until(lambda: sink.taken == [b"abcdefghij"])

    run(tmp_path, test)


def test_a_slow_sender_who_goes_on_is_not_cut_off(tmp_path: Path) -> None:
    """Longer than the limit in all."""

    async def test(uploads: Uploads, sink: Sink) -> None:
        upload, sender = uploads.create(Announced(10)), Sender()
        receiving = asyncio.create_task(uploads.append(upload, 0, aiter(sender)))
        for byte in range(10):
            await asyncio.sleep(CONFIG.upload_idle_seconds / 4)
            sender.send(b"%d" % byte)
        sender.send(None)
        await receiving
        await until(lambda: sink.taken == [b"0123456789"])

    run(tmp_path, test)


@pytest.mark.parametrize("sent", [100, MIB + 100, 3 * MIB])
def test_a_new_sender_at_the_right_offset_takes_over(tmp_path: Path, sent: int) -> None:
    """The one before is told, and cannot write any more; bytes that were not stored yet are sent again."""
    data = os.urandom(4 * MIB)
    stored = sent - sent % MIB  # the rest is held back

    async def test(uploads: Uploads, sink: Sink) -> None:
        upload, before = uploads.create(Announced(len(data))), Sender(data[: min(sent, MIB)], data[MIB:sent])
        receiving = asyncio.create_task(uploads.append(upload, 0, aiter(before)))
        await until(lambda: upload.turn is not None and upload.offset == stored)
        assert await refused(uploads.append(upload, upload.offset + 1, aiter(Sender()))) is Code.CONFLICT
        assert upload.turn is not None, "a wrong offset takes over nothing"
        await uploads.append(upload, upload.offset, aiter(Sender(data[upload.offset :], None)))
        assert await refused(receiving) is Code.CONFLICT
        await until(lambda: sink.taken == [data])

    run(tmp_path, test, replace(CONFIG, upload_idle_seconds=30))


def test_two_who_take_over_at_once_are_told_apart(tmp_path: Path) -> None:
    """One goes on, the other is told the offset."""

    async def test(uploads: Uploads, sink: Sink) -> None:
        upload = uploads.create(Announced(4))
        senders = [asyncio.create_task(uploads.append(upload, 0, aiter(Sender()))) for _ in range(2)]
        await asyncio.sleep(0)
        last = asyncio.create_task(uploads.append(upload, 0, aiter(Sender(b"abcd", None))))
        results = await asyncio.gather(*senders, last, return_exceptions=True)
        assert [type(result) for result in results[:2]] == [CallerError, CallerError]
        assert results[2] is None
        await until(lambda: sink.taken == [b"abcd"])

    run(tmp_path, test, replace(CONFIG, upload_idle_seconds=30))


def test_when_all_places_are_taken_the_longest_silent_one_gives_way(tmp_path: Path) -> None:
    """Abandoned uploads must not keep others out for a day; one that receives is left alone."""

    async def test(uploads: Uploads, sink: Sink) -> None:
        made = [uploads.create(Announced(10)) for _ in range(3)]
        with pytest.raises(CallerError, match="3 uploads are under way"):
            uploads.create(Announced(10))
        sender = Sender(b"a")
        receiving = asyncio.create_task(uploads.append(made[0], 0, aiter(sender)))
        for _ in range(8):
            await asyncio.sleep(CONFIG.upload_idle_seconds / 5)
            sender.send(b"b")
        made.append(uploads.create(Announced(10)))
        with pytest.raises(CallerError, match="no upload"):
            uploads.get(made[1].id)
        for upload in (made[0], made[2], made[3]):
            assert uploads.get(upload.id) is upload
        assert len(files(tmp_path)) == 6
        receiving.cancel()

    run(tmp_path, test)


def test_a_stalled_upload_can_be_cancelled(tmp_path: Path) -> None:
    """Its sender is told, and nothing is left of it."""

    async def test(uploads: Uploads, sink: Sink) -> None:
        upload = uploads.create(Announced(10))
        receiving = asyncio.create_task(uploads.append(upload, 0, aiter(Sender(b"abc"))))
        await until(lambda: upload.turn is not None)
        uploads.cancel(upload)
        assert await refused(receiving) is Code.CONFLICT
        assert files(tmp_path) == []

    run(tmp_path, test, replace(CONFIG, upload_idle_seconds=30))


def test_announced_bytes_are_no_free_space_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that fit alone, but not together: the second is refused at once, not when the disk is full."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * MIB))

    async def test(uploads: Uploads, sink: Sink) -> None:
        first = uploads.create(Announced(MIB))
        with pytest.raises(DeviceError, match="remove a model") as caught:
            uploads.create(Announced(MIB))
        assert caught.value.code is Code.NO_SPACE
        uploads.create(Announced(MIB // 2))
        uploads.cancel(first)
        uploads.create(Announced(MIB))

    run(tmp_path, test)


def test_a_deployment_that_fails_in_an_unforeseen_way_ends_the_upload(tmp_path: Path) -> None:
    """It neither keeps its place nor lets the sender wait for ever."""

    async def test(uploads: Uploads, sink: Sink) -> None:
        sink.error = OSError(28, "No space left on device")
        upload: Upload = uploads.create(Announced(1))
        await uploads.append(upload, 0, aiter(Sender(b"a", None)))
        await until(lambda: upload.progress.state is State.REFUSED)
        assert "the box's log" in upload.view()["reason"]

    run(tmp_path, test)
