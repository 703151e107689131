"""What the box has, durably: deployments in the state database, members as content-addressed files."""

import hashlib
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import RLock
from typing import Any

from edge_runtime.contract import manifest as manifests
from edge_runtime.contract.bundle import MODEL, BundleReader
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.manifest import Manifest
from edge_runtime.deploy.trust import Accepted
from edge_runtime.errors import Code, ContentError, DeviceError
from edge_runtime.inference.description import Description
from edge_runtime.system import durable


class State(StrEnum):
    """Where a deployment stands."""

    RECEIVING = "RECEIVING"
    RECEIVED = "RECEIVED"
    VERIFIED = "VERIFIED"
    STAGED = "STAGED"
    TRIAL = "TRIAL"
    COMMITTED = "COMMITTED"
    ROLLED_BACK = "ROLLED_BACK"
    REFUSED = "REFUSED"

    @property
    def final(self) -> bool:
        """Nothing more will happen by itself."""
        return self in (State.COMMITTED, State.ROLLED_BACK, State.REFUSED)


@dataclass(frozen=True, slots=True)
class Deployment:
    """One bundle on this box. `description` is None until the probe has passed."""

    digest: str
    manifest: Manifest
    signed_by: str | None
    state: State
    reason: str
    description: Description | None


_SCHEMA = """
CREATE TABLE IF NOT EXISTS deployments (
    digest TEXT PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, manifest BLOB NOT NULL, signed_by TEXT,
    state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', description TEXT, ordinal INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS served (model TEXT PRIMARY KEY, digest TEXT NOT NULL, fallback TEXT);
CREATE TABLE IF NOT EXISTS sequences (model TEXT PRIMARY KEY, highest INTEGER NOT NULL);
"""
_COLUMNS = "digest, manifest, signed_by, state, reason, description"


class Store:
    """Thread-safe; every method is one transaction. `served` changes only at a commit: a crash before it is undone."""

    def __init__(self, connection: sqlite3.Connection, state_dir: Path) -> None:
        self._db = connection
        self._lock = RLock()
        self._objects = state_dir / "objects"
        self._objects.mkdir(parents=True, exist_ok=True)
        with self._lock, self._db:
            self._db.executescript(_SCHEMA)

    def stage(self, bundle: BundleReader, accepted: Accepted, min_free_bytes: int) -> str:
        """Copy the members in, checked against the manifest, and record the deployment as STAGED; returns its digest.

        Raises:
            ContentError: a member is missing, is not listed, or differs from its sha256.
            DeviceError: NO_SPACE where the disk has not enough room.
        """
        manifest = accepted.manifest
        self._check_space(sum(entry.size for entry in manifest.files.values()) + min_free_bytes)
        unlisted = set(bundle.names) - set(manifest.files) - {"manifest.json", "signature.json"}
        if unlisted:
            raise ContentError(f"the bundle has members that its manifest does not list: {', '.join(sorted(unlisted))}")
        for name in manifest.files:
            self._copy_in(bundle, name, manifest)
        row = (
            manifest.digest(),
            manifest.name,
            manifest.version,
            manifest.canonical(),
            accepted.signed_by,
            State.STAGED,
        )
        with self._lock, self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO deployments (digest, model, version, manifest, signed_by, state, ordinal) "
                "VALUES (?, ?, ?, ?, ?, ?, (SELECT IFNULL(MAX(ordinal), 0) + 1 FROM deployments))",
                row,
            )
        return manifest.digest()

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._objects).free
        if free < needed:
            raise DeviceError(f"the disk has {free} bytes free, but {needed} are needed; remove a model", Code.NO_SPACE)

    def _copy_in(self, bundle: BundleReader, name: str, manifest: Manifest) -> None:
        expected = manifest.files[name]
        target = self._objects / expected.sha256
        try:
            with durable.replace(target) as file:
                found = bundle.copy_member(name, file)
                if found != expected:
                    raise ContentError(
                        f"{name} is not what the manifest says: sha256 {found.sha256[:12]} with {found.size} bytes, "
                        f"expected {expected.sha256[:12]} with {expected.size}"
                    )
        except ContractError as error:
            raise ContentError(str(error)) from error
        except OSError as error:
            raise DeviceError(f"{name} cannot be stored: {error}", Code.NO_SPACE) from error

    def file(self, manifest: Manifest, name: str = MODEL) -> Path | None:
        """Where a member lies; None if the bundle has none of that name."""
        entry = manifest.files.get(name)
        return self._objects / entry.sha256 if entry else None

    def intact(self, manifest: Manifest) -> bool:
        """Whether the stored model still has the bytes that were proven: cards wear out, and power fails."""
        expected, path = manifest.files[MODEL], self._objects / manifest.files[MODEL].sha256
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == expected.sha256
        except OSError:
            return False

    def describe(self, digest: str, description: Description) -> None:
        """Keep what the probe found."""
        self._execute("UPDATE deployments SET description = ? WHERE digest = ?", description.to_json(), digest)

    def set_state(self, digest: str, state: State, reason: str = "") -> None:
        """Record where a deployment stands."""
        self._execute("UPDATE deployments SET state = ?, reason = ? WHERE digest = ?", state, reason, digest)

    def commit(self, deployment: Deployment, fallback: str | None) -> None:
        """Make a deployment the one that is served, from the next start on as well."""
        manifest = deployment.manifest
        with self._lock, self._db:
            self._db.execute(
                "UPDATE deployments SET state = ?, reason = '' WHERE digest = ?", (State.COMMITTED, deployment.digest)
            )
            self._db.execute(
                "INSERT OR REPLACE INTO served VALUES (?, ?, ?)", (manifest.name, deployment.digest, fallback)
            )
            self._db.execute(
                "INSERT INTO sequences VALUES (?, ?) "
                "ON CONFLICT DO UPDATE SET highest = MAX(highest, excluded.highest)",
                (manifest.name, manifest.sequence),
            )

    def served(self, model: str) -> tuple[str, str | None] | None:
        """Digest of the committed version and of the one to fall back to; None if the model is not here."""
        row = self._one("SELECT digest, fallback FROM served WHERE model = ?", model)
        return (row[0], row[1]) if row else None

    def models(self) -> tuple[str, ...]:
        """Names of the committed models."""
        return tuple(row[0] for row in self._all("SELECT model FROM served ORDER BY model"))

    def highest_sequence(self, model: str) -> int:
        """The highest sequence ever committed; 0 if none was."""
        row = self._one("SELECT highest FROM sequences WHERE model = ?", model)
        return int(row[0]) if row else 0

    def get(self, digest: str) -> Deployment | None:
        """One deployment."""
        row = self._one(f"SELECT {_COLUMNS} FROM deployments WHERE digest = ?", digest)  # noqa: S608 - constant columns
        return _deployment(row) if row else None

    def versions(self, model: str) -> tuple[Deployment, ...]:
        """Every deployment of a model, newest first."""
        query = f"SELECT {_COLUMNS} FROM deployments WHERE model = ? ORDER BY ordinal DESC"  # noqa: S608 - constant columns
        return tuple(_deployment(row) for row in self._all(query, model))

    def remove(self, model: str) -> None:
        """Forget a model; its highest sequence is kept, so that an old bundle cannot come back as a new one."""
        with self._lock, self._db:
            self._db.execute("DELETE FROM served WHERE model = ?", (model,))
            self._db.execute("DELETE FROM deployments WHERE model = ?", (model,))
        self.collect(keep_versions=0)

    def unfinished(self) -> tuple[Deployment, ...]:
        """Deployments that a crash or power cut interrupted."""
        query = f"SELECT {_COLUMNS} FROM deployments WHERE state IN ('STAGED', 'TRIAL')"  # noqa: S608 - constant columns
        return tuple(_deployment(row) for row in self._all(query))

    def forget(self, digest: str) -> None:
        """Delete one deployment's record."""
        self._execute("DELETE FROM deployments WHERE digest = ?", digest)

    def collect(self, keep_versions: int) -> None:
        """Delete what nothing needs: versions beyond the newest `keep_versions`, then files that none refers to."""
        pinned = {d for row in self._all("SELECT digest, fallback FROM served") for d in row}
        for model in self.models():
            spare = [d.digest for d in self.versions(model) if d.digest not in pinned and d.state is State.COMMITTED]
            for digest in spare[max(0, keep_versions - 2) :]:
                self.forget(digest)
        rows = self._all("SELECT manifest FROM deployments WHERE state IN ('STAGED', 'TRIAL', 'COMMITTED')")
        kept = {entry.sha256 for (data,) in rows for entry in manifests.parse(data).files.values()}
        for path in self._objects.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the database."""
        with self._lock, closing(self._db):
            pass

    def _execute(self, sql: str, *values: object) -> None:
        with self._lock, self._db:
            self._db.execute(sql, values)

    def _one(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        rows = self._all(sql, *values)
        return rows[0] if rows else None

    def _all(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()


def _deployment(row: tuple[Any, ...]) -> Deployment:
    digest, manifest, signed_by, state, reason, description = row
    return Deployment(
        digest=digest,
        manifest=manifests.parse(manifest),
        signed_by=signed_by,
        state=State(state),
        reason=reason,
        description=Description.from_json(description) if description else None,
    )
