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


@dataclass(eq=False)
class Upload:
    """One upload; `offset` bytes are here."""

    id: str
    announced: Announced
    path: Path
    offset: int = 0
    progress: Progress = field(default_factory=lambda: Progress(State.RECEIVING))
    receiving: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

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
            CallerError: TOO_LARGE, or OVERLOADED with too many at once.
            DeviceError: NO_SPACE.
        """
        self._expire()
        if not 0 < announced.length <= self._config.max_bundle_bytes:
            raise CallerError(
                f"a bundle has 1 to {self._config.max_bundle_bytes} bytes here, this one {announced.length}",
                Code.TOO_LARGE,
            )
        if sum(not u.progress.state.final for u in self._uploads.values()) >= self._config.max_uploads:
            raise CallerError(f"{self._config.max_uploads} uploads are under way; try again later", Code.OVERLOADED)
        # Twice: the upload itself, and the members that are copied out of it.
        free, needed = shutil.disk_usage(self._folder).free, 2 * announced.length + self._config.min_free_bytes
        if free < needed:
            raise DeviceError(f"the disk has {free} bytes free, but {needed} are needed; remove a model", Code.NO_SPACE)
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

        Raises:
            CallerError: CONFLICT for another offset than what is here, TOO_LARGE for more bytes than announced.
        """
        if upload.receiving or offset != upload.offset:
            raise CallerError(f"upload {upload.id} is at offset {upload.offset}, not {offset}", Code.CONFLICT)
        upload.receiving = True
        try:
            await self._receive(upload, chunks)
        except OSError as error:
            raise DeviceError(f"the upload cannot be stored: {error}", Code.NO_SPACE) from error
        finally:
            upload.receiving = False
        if upload.offset == upload.announced.length:
            upload.progress.state = State.RECEIVED
            upload.changed()
            self._tasks.create_task(self._deploy(upload), name=f"deploy {upload.id}")

    async def _receive(self, upload: Upload, chunks: AsyncIterator[bytes]) -> None:
        with upload.path.open("r+b") as file:
            file.seek(upload.offset)
            pending = bytearray()
            try:
                async for chunk in chunks:
                    pending += chunk
                    if upload.offset + len(pending) > upload.announced.length:
                        raise CallerError(f"more bytes than the announced {upload.announced.length}", Code.TOO_LARGE)
                    if len(pending) >= _WRITE_BYTES:
                        await asyncio.to_thread(file.write, bytes(pending))
                        upload.offset += len(pending)
                        pending.clear()
            finally:
                pending = pending[: upload.announced.length - upload.offset]
                file.write(pending)
                file.flush()
                upload.offset += len(pending)
            await asyncio.to_thread(os.fsync, file.fileno())

    async def _deploy(self, upload: Upload) -> None:
        try:
            await self._deployer.deploy(
                upload.path, upload.progress, force=upload.announced.force, changed=upload.changed
            )
            self._discard_files(upload)
        except Exception:  # a full disk, say: it must not end the tasks beside it
            log.exception("upload %s could not be finished", upload.id)

    def cancel(self, upload: Upload) -> None:
        """Drop an upload that is not complete; raises CallerError if it is being deployed."""
        if upload.progress.state is not State.RECEIVING or upload.receiving:
            raise CallerError(f"upload {upload.id} is complete or under way and cannot be cancelled", Code.CONFLICT)
        self._discard_files(upload)
        del self._uploads[upload.id]

    def _expire(self) -> None:
        oldest = time.time() - self._config.upload_max_age_seconds
        for upload in tuple(self._uploads.values()):
            idle = upload.progress.state is State.RECEIVING and not upload.receiving
            if idle and (not upload.path.exists() or upload.path.stat().st_mtime < oldest):
                self.cancel(upload)
        finished = [u for u in self._uploads.values() if u.progress.state.final]
        for upload in finished[:-_FINISHED_KEPT]:
            del self._uploads[upload.id]

    @staticmethod
    def _discard_files(upload: Upload) -> None:
        upload.path.with_suffix(".json").unlink(missing_ok=True)
        upload.path.unlink(missing_ok=True)


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
