"""The bundle: a plain ZIP whose members are stored, not compressed.

Nothing of a member is interpreted here; `read_member` gives bytes, and only `manifest.json` and
`signature.json` are meant to be read before the signature is known to be good.
"""

import hashlib
import io
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Self

from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.manifest import MAX_MANIFEST_BYTES, FileEntry

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
MODEL = "model.tflite"
LABELS = "labels.txt"
GOLDEN = "golden.npz"
REFERENCE = "reference.json"
REPORT = "report.json"
# What a manifest may list; manifest and signature themselves are not listed.
CONTENT = (MODEL, LABELS, GOLDEN, REFERENCE, REPORT)
MEMBERS = (MANIFEST, SIGNATURE, *CONTENT)

MAX_LABELS_BYTES = 4 * 1024 * 1024
MAX_SIGNATURE_BYTES = 64 * 1024
_CAPS = {MANIFEST: MAX_MANIFEST_BYTES, SIGNATURE: MAX_SIGNATURE_BYTES, LABELS: MAX_LABELS_BYTES}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a ZIP can hold: the same input gives the same bytes
_CHUNK = 1 << 20
_END_RECORD = struct.Struct("<4sHHHHIIH")
_MAX_DIRECTORY_BYTES = 4096


def entry(content: bytes) -> FileEntry:
    """The manifest's entry for a member with this content."""
    return FileEntry(hashlib.sha256(content).hexdigest(), len(content))


def write(target: BinaryIO, manifest: bytes, signature: bytes | None, content: Mapping[str, bytes]) -> None:
    """Write a bundle: canonical manifest bytes, signature.json (or none) and the members that the manifest lists."""
    members = {MANIFEST: manifest} | ({SIGNATURE: signature} if signature is not None else {}) | dict(content)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in MEMBERS:
            if name in members:
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), members[name])


def _check_directory(path: Path, size: int) -> None:
    """Refuse a directory that a bundle cannot have before anything reads it: each entry would cost memory.

    The end record is the last 22 bytes of an archive without a comment (ZIP application note, section 4.3.16).
    """
    with path.open("rb") as file:
        file.seek(max(0, size - _END_RECORD.size))
        data = file.read(_END_RECORD.size)
    if len(data) < _END_RECORD.size:
        raise ContractError(f"not a bundle (a bundle is a ZIP archive): it has {size} bytes")
    magic, _, _, here, entries, length, start, comment = _END_RECORD.unpack(data)
    if magic != b"PK\x05\x06" or comment:
        raise ContractError("not a bundle (a bundle is a ZIP archive), or not a whole one: its end record is missing")
    if here != entries or entries > len(MEMBERS) or length > _MAX_DIRECTORY_BYTES or start + length + len(data) != size:
        raise ContractError(f"the bundle's directory is not a bundle's: {entries} members in {length} bytes")


class BundleReader:
    """Opens a bundle and checks its shape only: known names, no duplicates, stored, sizes that add up.

    Raises ContractError for whatever is wrong, at construction or while reading.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size
        try:
            _check_directory(path, self._size)
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
            raise ContractError(f"not a bundle (a bundle is a ZIP archive): {error}") from error
        try:
            self._members = self._check(self._archive.infolist())
        except ContractError:
            self._archive.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members."""
        return tuple(self._members)

    def _check(self, infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            if info.filename not in MEMBERS:
                raise ContractError(f"bundle has a member {info.filename!r} that does not belong in it")
            if info.filename in members:
                raise ContractError(f"bundle has the member {info.filename!r} twice")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
                raise ContractError(
                    f"bundle member {info.filename!r} is compressed or encrypted; members must be stored"
                )
            members[info.filename] = info
        if MANIFEST not in members:
            raise ContractError(f"bundle has no {MANIFEST}")
        total = sum(info.file_size for info in members.values())
        if total > self._size:
            raise ContractError(f"bundle members claim {total} bytes, but the file has {self._size}")
        return members

    def read_member(self, name: str) -> bytes:
        """All bytes of a small member; raises ContractError if it is absent, over its cap or broken."""
        info = self._members.get(name)
        if info is None:
            raise ContractError(f"bundle has no {name}")
        if info.file_size > _CAPS.get(name, self._size):
            raise ContractError(f"{name} has {info.file_size} bytes, more than {_CAPS[name]}")
        buffer = io.BytesIO()
        self.copy_member(name, buffer)
        return buffer.getvalue()

    def copy_member(self, name: str, target: BinaryIO) -> FileEntry:
        """Stream a member to `target`; returns the size and sha256 of what was really read."""
        info = self._members.get(name)
        if info is None:
            raise ContractError(f"bundle has no {name}")
        digest, size = hashlib.sha256(), 0
        for chunk in self._chunks(info):
            digest.update(chunk)
            size += len(chunk)
            target.write(chunk)  # outside of _chunks: a full disk is not the bundle's fault
        return FileEntry(digest.hexdigest(), size)

    def _chunks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        # OSError: offsets that do not fit the file make zipfile seek to before its start.
        wrong = (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, struct.error)
        try:
            source = self._archive.open(info)
        except wrong as error:
            raise ContractError(f"bundle member {info.filename!r} cannot be read: {error}") from error
        with source:
            while True:
                try:
                    chunk = source.read(_CHUNK)
                except wrong as error:
                    raise ContractError(f"bundle member {info.filename!r} cannot be read: {error}") from error
                if not chunk:
                    return
                yield chunk
