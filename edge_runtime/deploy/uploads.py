"""Bundles on their way in: resumable files in the state folder, and the deployment that follows the last byte."""

import asyncio
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.config import DeployConfig
from edge_runtime.deploy.deployer import Deployer, Progress
from edge_runtime.deploy.store import State
from edge_runtime.errors import CallerError, Code, DeviceError
from edge_runtime.system import durable

log = logging.getLogger(__name__)

_ID = re.compile(r"[0-9a-f]{32}")
_WRITE_BYTES = 1024 * 1024
_FINISHED_KEPT = 64


@dataclass(frozen=True, slots=True)
class Announced:
    """What the sender said of an upload before its first byte."""

    length: int
    filename: str = ""
    force: bool = False


class _Turn:
    """One sender's time with an upload: it ends by itself, when nothing comes any more, or for another sender."""

    def __init__(self, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self.timeout = asyncio.timeout(idle_seconds)
        self.ended = asyncio.Event()
        self.superseded = False

    def goes_on(self) -> None:
        """Something came."""
        if not self.superseded:
            self.timeout.reschedule(asyncio.get_running_loop().time() + self._idle_seconds)

    def supersede(self) -> None:
        """End the turn; what came, but is not written yet, is dropped."""
        if not self.superseded:
            self.superseded = True
            self.timeout.reschedule(asyncio.get_running_loop().time())


@dataclass(eq=False)
class Upload:
    """One upload; `offset` bytes are here."""

    id: str
    announced: Announced
    path: Path
    offset: int = 0
    progress: Progress = field(default_factory=lambda: Progress(State.RECEIVING))
    turn: _Turn | None = None
    active: float = field(default_factory=time.monotonic)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def outstanding_bytes(self) -> int:
        """What it will still take of the disk: its own rest, and the members that are copied out of it."""
        return 0 if self.progress.state.final else 2 * self.announced.length - self.offset

    def changed(self) -> None:
        """Wake up whoever waits for the next state."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seen: str, seconds: float) -> None:
        """Return when the state is another than `seen`, is final, or after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while self.progress.state == seen and not self.progress.state.final:
                    await self._changed.wait()
        except TimeoutError:
            pass

    def view(self) -> dict[str, Any]:
        """As plain data."""
        progress = self.progress
        return {
            "id": self.id,
            "state": progress.state,
            "model": progress.model,
            "version": progress.version,
            "reason": progress.reason,
            "size": self.announced.length,
            "offset": self.offset,
        }


class Uploads:
    """All uploads of the box, bounded in number, size and age. Use it from the event loop."""

    def __init__(self, config: DeployConfig, state_dir: Path, deployer: Deployer, tasks: asyncio.TaskGroup) -> None:
        self._config = config
        self._folder = state_dir / "uploads"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._deployer = deployer
        self._tasks = tasks
        self._uploads = {upload.id: upload for upload in map(_resume, self._folder.glob("*.json")) if upload}

    @property
    def max_bytes(self) -> int:
        """The largest bundle that is taken."""
        return self._config.max_bundle_bytes

    def create(self, announced: Announced) -> Upload:
        """Make room for an upload.

        Raises:
            CallerError: TOO_LARGE, or OVERLOADED with too many at once of which none is idle.
            DeviceError: NO_SPACE.
        """
        self._expire()
        if not 0 < announced.length <= self._config.max_bundle_bytes:
            raise CallerError(
                f"a bundle has 1 to {self._config.max_bundle_bytes} bytes here, this one {announced.length}",
                Code.TOO_LARGE,
            )
        self._find_place()
        free = shutil.disk_usage(self._folder).free - sum(u.outstanding_bytes for u in self._uploads.values())
        needed = 2 * announced.length + self._config.min_free_bytes
        if free < needed:
            raise DeviceError(
                f"the disk has {max(free, 0)} bytes free beside what is announced, but {needed} are needed; "
                "remove a model",
                Code.NO_SPACE,
            )
        identity = secrets.token_hex(16)
        upload = Upload(identity, announced, self._folder / f"{identity}.part")
        upload.path.touch()
        with durable.replace(upload.path.with_suffix(".json")) as file:
            file.write(json.dumps(asdict(announced)).encode())
        self._uploads[identity] = upload
        return upload

    def get(self, identity: str) -> Upload:
        """One upload; raises CallerError NOT_FOUND."""
        upload = self._uploads.get(identity) if _ID.fullmatch(identity) else None
        if upload is None:
            raise CallerError(f"there is no upload {identity[:40]!r} (it may have expired)", Code.NOT_FOUND)
        return upload

    async def append(self, upload: Upload, offset: int, chunks: AsyncIterator[bytes]) -> None:
        """Add bytes at `offset`; with the last one the deployment starts. What arrived before a broken link is kept.

        Whoever sends at the right offset takes over: the link of the sender before may be dead, and nobody told us.

        Raises:
            CallerError: CONFLICT for another offset than what is here, or when another sender took over; TOO_LARGE
                for more bytes than announced; DEADLINE_EXCEEDED where nothing came for `upload_idle_seconds`.
        """
        while upload.turn is not None and offset == upload.offset:
            upload.turn.supersede()
            await upload.turn.ended.wait()
        if upload.turn is not None or offset != upload.offset or upload.progress.state is not State.RECEIVING:
            raise CallerError(f"upload {upload.id} is at offset {upload.offset}, not {offset}", Code.CONFLICT)
        upload.turn = turn = _Turn(self._config.upload_idle_seconds)
        try:
            async with turn.timeout:
                await self._receive(upload, turn, chunks)
        except TimeoutError as error:
            raise _interrupted(upload, turn) from error
        except OSError as error:
            raise DeviceError(f"the upload cannot be stored: {error}", Code.NO_SPACE) from error
        finally:
            upload.turn = None
            turn.ended.set()
            upload.active = time.monotonic()
        if upload.offset == upload.announced.length:
            upload.progress.state = State.RECEIVED
            upload.changed()
            self._tasks.create_task(self._deploy(upload), name=f"deploy {upload.id}")

    async def _receive(self, upload: Upload, turn: _Turn, chunks: AsyncIterator[bytes]) -> None:
        pending = bytearray()
        try:
            async for chunk in chunks:
                turn.goes_on()
                pending += chunk
                if upload.offset + len(pending) > upload.announced.length:
                    raise CallerError(f"more bytes than the announced {upload.announced.length}", Code.TOO_LARGE)
                if len(pending) >= _WRITE_BYTES:
                    await asyncio.to_thread(_write, upload.path, bytes(pending), upload.offset)
                    upload.offset += len(pending)
                    pending.clear()
        finally:
            if not turn.superseded:  # or the new sender would not be at the right offset any more
                pending = pending[: upload.announced.length - upload.offset]
                _write(upload.path, bytes(pending), upload.offset)
                upload.offset += len(pending)
        await asyncio.to_thread(_sync, upload.path)

    async def _deploy(self, upload: Upload) -> None:
        try:
            await self._deployer.deploy(
                upload.path, upload.progress, force=upload.announced.force, changed=upload.changed
            )
            self._discard_files(upload)
        except Exception as error:  # a full disk, say: it must not end the tasks beside it
            log.exception("upload %s could not be finished", upload.id)
            if not upload.progress.state.final:
                upload.progress.state = State.REFUSED
                upload.progress.reason = f"it could not be finished ({type(error).__name__}); the box's log says why"
                upload.changed()

    def cancel(self, upload: Upload) -> None:
        """Drop an upload that is not complete; raises CallerError if it is being deployed."""
        if upload.progress.state is not State.RECEIVING:
            raise CallerError(f"upload {upload.id} is complete and cannot be cancelled", Code.CONFLICT)
        if upload.turn is not None:
            upload.turn.supersede()
        self._discard_files(upload)
        del self._uploads[upload.id]

    def _find_place(self) -> None:
        """Where all places are taken, whoever has been silent for the longest time loses his."""
        unfinished = [u for u in self._uploads.values() if not u.progress.state.final]
        if len(unfinished) < self._config.max_uploads:
            return
        since = time.monotonic() - self._config.upload_idle_seconds
        idle = [u for u in unfinished if u.progress.state is State.RECEIVING and not u.turn and u.active < since]
        if not idle:
            raise CallerError(f"{self._config.max_uploads} uploads are under way; try again later", Code.OVERLOADED)
        oldest = min(idle, key=lambda upload: upload.active)
        log.info("upload %s has received nothing for a while and gives its place to a new one", oldest.id)
        self.cancel(oldest)

    def _expire(self) -> None:
        oldest = time.time() - self._config.upload_max_age_seconds
        for upload in tuple(self._uploads.values()):
            idle = upload.progress.state is State.RECEIVING and not upload.turn
            if idle and (not upload.path.exists() or upload.path.stat().st_mtime < oldest):
                self.cancel(upload)
        finished = [u for u in self._uploads.values() if u.progress.state.final]
        for upload in finished[:-_FINISHED_KEPT]:
            del self._uploads[upload.id]

    @staticmethod
    def _discard_files(upload: Upload) -> None:
        upload.path.with_suffix(".json").unlink(missing_ok=True)
        upload.path.unlink(missing_ok=True)


def _interrupted(upload: Upload, turn: _Turn) -> CallerError:
    if turn.superseded:
        return CallerError(f"another sender goes on with upload {upload.id}, or it was cancelled", Code.CONFLICT)
    return CallerError(f"nothing came for too long; go on at offset {upload.offset}", Code.DEADLINE_EXCEEDED)


def _write(path: Path, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`. It may go on in its thread after the turn's end: twice does no harm."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _resume(note: Path) -> Upload | None:
    """An upload that an earlier run of the daemon had begun; what cannot be resumed is deleted."""
    part = note.with_suffix(".part")
    try:
        announced = Announced(**json.loads(note.read_bytes()))
        offset = part.stat().st_size
        if _ID.fullmatch(note.stem) and offset < announced.length:
            return Upload(note.stem, announced, part, offset)
    except (OSError, ValueError, TypeError):
        pass
    note.unlink(missing_ok=True)
    part.unlink(missing_ok=True)
    return None
