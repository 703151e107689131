"""What the box has, durably: versions and attempts in the state database, members as content-addressed files.

A version is what was committed; an attempt is a push on its way, or one that failed. They are apart so that no attempt,
not even one with the same bytes as a version, can harm what is served.
"""

import hashlib
import logging
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import RLock
from typing import Any

from edge_runtime.contract import manifest as manifests
from edge_runtime.contract.bundle import MANIFEST, MODEL, SIGNATURE, BundleReader
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.manifest import Manifest
from edge_runtime.deploy.trust import Accepted
from edge_runtime.errors import Code, ContentError, DeviceError
from edge_runtime.inference.description import Description
from edge_runtime.system import durable

log = logging.getLogger(__name__)

# Of what failed, the reason is kept for people to read; this many of them.
MAX_FAILURES = 50
# Measurements outlive the versions that they are of: a model may come back. The oldest go first.
MAX_TUNINGS = 200


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
    description: Description | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A push that came to nothing."""

    digest: str
    model: str
    version: str
    state: State
    reason: str


_SCHEMA = """
CREATE TABLE IF NOT EXISTS versions (
    digest TEXT PRIMARY KEY, model TEXT NOT NULL, manifest BLOB NOT NULL, signed_by TEXT, description TEXT,
    ordinal INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS attempts (
    digest TEXT PRIMARY KEY, manifest BLOB NOT NULL, signed_by TEXT, description TEXT, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS failures (
    digest TEXT PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
    ordinal INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS served (model TEXT PRIMARY KEY, digest TEXT NOT NULL, fallback TEXT);
CREATE TABLE IF NOT EXISTS residence (
    model TEXT PRIMARY KEY, unloaded INTEGER NOT NULL DEFAULT 0, used INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS tunings (key TEXT PRIMARY KEY, document TEXT NOT NULL, ordinal INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sequences (model TEXT PRIMARY KEY, highest INTEGER NOT NULL);
"""
_VERSION = "SELECT digest, manifest, signed_by, 'COMMITTED', description FROM versions"
_ATTEMPT = "SELECT digest, manifest, signed_by, state, description FROM attempts"
_FAILURE = "SELECT digest, model, version, state, reason FROM failures"
_NEXT = "(SELECT IFNULL(MAX(ordinal), 0) + 1 FROM {})"


class Store:
    """Thread-safe; every change is one transaction. `served` changes only at a commit: a crash before it is undone."""

    def __init__(self, connection: sqlite3.Connection, state_dir: Path) -> None:
        self._db = connection
        self._lock = RLock()
        self._objects = state_dir / "objects"
        self._objects.mkdir(parents=True, exist_ok=True)
        with self._lock, self._db:
            self._db.executescript(_SCHEMA)

    # An attempt, from its first member on disk to its commit or failure

    def stage(self, bundle: BundleReader, accepted: Accepted, min_free_bytes: int) -> str:
        """Copy the members in, checked against the manifest, and record a STAGED attempt; returns its digest.

        Raises:
            ContentError: a member is missing, is not listed, or differs from its sha256.
            DeviceError: NO_SPACE where the disk has not enough room.
        """
        manifest = accepted.manifest
        self._check_space(sum(entry.size for entry in manifest.files.values()) + min_free_bytes)
        unlisted = set(bundle.names) - set(manifest.files) - {MANIFEST, SIGNATURE}
        if unlisted:
            raise ContentError(f"the bundle has members that its manifest does not list: {', '.join(sorted(unlisted))}")
        for name in manifest.files:
            self._copy_in(bundle, name, manifest)
        values = (manifest.digest(), manifest.canonical(), accepted.signed_by, State.STAGED)
        self._execute("INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, NULL, ?)", *values)
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

    def attempt(self, digest: str) -> Deployment | None:
        """One attempt that is under way."""
        return next(iter(self._deployments(f"{_ATTEMPT} WHERE digest = ?", digest)), None)

    def unfinished(self) -> tuple[Deployment, ...]:
        """Attempts that a crash or power cut interrupted."""
        return self._deployments(_ATTEMPT)

    def begin_trial(self, digest: str) -> None:
        """On disk before it may harm: if the daemon dies now, the next start knows what was on trial."""
        self._execute("UPDATE attempts SET state = ? WHERE digest = ?", State.TRIAL, digest)

    def abandon(self, digest: str) -> None:
        """Forget an attempt as if it had not been made; a version with the same digest stays."""
        self._execute("DELETE FROM attempts WHERE digest = ?", digest)

    def fail(self, attempt: Deployment, state: State, reason: str) -> None:
        """End an attempt as REFUSED or ROLLED_BACK; only the reason is kept."""
        manifest = attempt.manifest
        with self._lock, self._db:
            self._db.execute("DELETE FROM attempts WHERE digest = ?", (attempt.digest,))
            self._db.execute(
                f"INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, {_NEXT.format('failures')})",  # noqa: S608 - constant
                (attempt.digest, manifest.name, manifest.version, state, reason),
            )
            self._db.execute(
                "DELETE FROM failures WHERE ordinal <= (SELECT MAX(ordinal) FROM failures) - ?", (MAX_FAILURES,)
            )

    def failures(self, model: str) -> tuple[Failure, ...]:
        """What failed of a model, newest first."""
        rows = self._all(f"{_FAILURE} WHERE model = ? ORDER BY ordinal DESC", model)
        return tuple(
            Failure(digest, name, version, State(state), reason) for digest, name, version, state, reason in rows
        )

    def commit(self, deployment: Deployment, fallback: str | None) -> None:
        """Make an attempt a version, or take a version again, and serve it, from the next start on as well."""
        manifest, description = deployment.manifest, deployment.description
        text = description.to_json() if description else None
        with self._lock, self._db:
            self._db.execute("DELETE FROM attempts WHERE digest = ?", (deployment.digest,))
            self._db.execute("DELETE FROM failures WHERE digest = ?", (deployment.digest,))
            self._db.execute(
                f"INSERT INTO versions VALUES (?, ?, ?, ?, ?, {_NEXT.format('versions')}) "  # noqa: S608 - constant
                "ON CONFLICT DO UPDATE SET signed_by = excluded.signed_by, description = excluded.description",
                (deployment.digest, manifest.name, manifest.canonical(), deployment.signed_by, text),
            )
            self._db.execute(
                "INSERT OR REPLACE INTO served VALUES (?, ?, ?)", (manifest.name, deployment.digest, fallback)
            )
            self._db.execute("UPDATE residence SET unloaded = 0 WHERE model = ?", (manifest.name,))
            for digest in self._replaced(deployment, fallback):
                self._db.execute("DELETE FROM versions WHERE digest = ?", (digest,))
            if deployment.signed_by is not None:  # what nobody signed must not shut out what somebody will sign
                self._db.execute(
                    "INSERT INTO sequences VALUES (?, ?) "
                    "ON CONFLICT DO UPDATE SET highest = MAX(highest, excluded.highest)",
                    (manifest.name, manifest.sequence),
                )

    def _replaced(self, new: Deployment, fallback: str | None) -> list[str]:
        """Other content that was committed under the same version: a version's name must mean one thing."""
        return [
            known.digest
            for known in self.versions(new.manifest.name)
            if known.manifest.version == new.manifest.version and known.digest not in (new.digest, fallback)
        ]

    # Versions

    def version(self, digest: str) -> Deployment | None:
        """One committed version."""
        return next(iter(self._deployments(f"{_VERSION} WHERE digest = ?", digest)), None)

    def versions(self, model: str) -> tuple[Deployment, ...]:
        """Every committed version of a model, newest first."""
        return self._deployments(f"{_VERSION} WHERE model = ? ORDER BY ordinal DESC", model)

    def describe(self, digest: str, description: Description) -> None:
        """Keep what the probe found."""
        with self._lock, self._db:
            for table in ("attempts", "versions"):
                self._db.execute(
                    f"UPDATE {table} SET description = ? WHERE digest = ?",  # noqa: S608 - constant
                    (description.to_json(), digest),
                )

    def file(self, manifest: Manifest, name: str = MODEL) -> Path | None:
        """Where a member lies; None if the bundle has none of that name."""
        entry = manifest.files.get(name)
        return self._objects / entry.sha256 if entry else None

    def intact(self, manifest: Manifest) -> bool:
        """Whether the stored model still has the bytes that were proven: cards wear out, and power fails."""
        expected = manifest.files[MODEL].sha256
        try:
            with (self._objects / expected).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == expected
        except OSError:
            return False

    def served(self, model: str) -> tuple[str, str | None] | None:
        """Digest of the committed version and of the one to fall back to; None if the model is not here."""
        rows = self._all("SELECT digest, fallback FROM served WHERE model = ?", model)
        return (rows[0][0], rows[0][1]) if rows else None

    def models(self) -> tuple[str, ...]:
        """Names of the committed models."""
        return tuple(row[0] for row in self._all("SELECT model FROM served ORDER BY model"))

    # What was in memory

    def models_by_use(self) -> tuple[str, ...]:
        """Names of the committed models, the most recently used first, then the most recently committed."""
        rows = self._all(
            "SELECT served.model FROM served LEFT JOIN residence USING (model) LEFT JOIN versions USING (digest) "
            "ORDER BY IFNULL(used, 0) DESC, ordinal DESC"
        )
        return tuple(row[0] for row in rows)

    def note_use(self, models: Sequence[str]) -> None:
        """Keep the order in which models were used, the last one last; those that are not named were used before."""
        with self._lock, self._db:
            (latest,) = self._db.execute("SELECT IFNULL(MAX(used), 0) FROM residence").fetchone()
            self._db.executemany(
                "INSERT INTO residence (model, used) VALUES (?, ?) ON CONFLICT DO UPDATE SET used = excluded.used",
                [(model, latest + i) for i, model in enumerate(models, 1)],
            )

    def note_unloaded(self, model: str, *, unloaded: bool) -> None:
        """Keep whether the operator has unloaded a model."""
        self._execute(
            "INSERT INTO residence (model, unloaded) VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET unloaded = excluded.unloaded",
            *(model, unloaded),
        )

    def is_unloaded(self, model: str) -> bool:
        """Whether the operator has unloaded a model."""
        return bool(self._all("SELECT 1 FROM residence WHERE model = ? AND unloaded", model))

    def stored(self, manifest: Manifest) -> bool:
        """Whether the model's file is there in its full size; `intact` reads it."""
        entry = manifest.files[MODEL]
        try:
            return (self._objects / entry.sha256).stat().st_size == entry.size
        except OSError:
            return False

    def highest_sequence(self, model: str) -> int:
        """The highest sequence of a signed version ever committed; 0 if none was."""
        rows = self._all("SELECT highest FROM sequences WHERE model = ?", model)
        return int(rows[0][0]) if rows else 0

    def tuning(self, key: str) -> str | None:
        """What was measured under this key."""
        rows = self._all("SELECT document FROM tunings WHERE key = ?", key)
        return str(rows[0][0]) if rows else None

    def keep_tuning(self, key: str, document: str) -> None:
        """Remember measurements in the place of older ones under this key."""
        with self._lock, self._db:
            self._db.execute(
                f"INSERT OR REPLACE INTO tunings VALUES (?, ?, {_NEXT.format('tunings')})",  # noqa: S608 - constant
                (key, document),
            )
            self._db.execute(
                "DELETE FROM tunings WHERE ordinal <= (SELECT MAX(ordinal) FROM tunings) - ?", (MAX_TUNINGS,)
            )

    def remove(self, model: str) -> None:
        """Forget a model; its highest sequence is kept, so that an old bundle cannot come back as a new one."""
        with self._lock, self._db:
            for table in ("served", "versions", "failures", "residence"):
                self._db.execute(f"DELETE FROM {table} WHERE model = ?", (model,))  # noqa: S608 - constant
        self.sweep()

    def prune(self, model: str, keep_versions: int) -> None:
        """Forget a model's oldest versions beyond `keep_versions`, never the served one or its fallback."""
        pinned = set(self.served(model) or ())
        spare = [version.digest for version in self.versions(model) if version.digest not in pinned]
        with self._lock, self._db:
            for digest in spare[max(0, keep_versions - len(pinned - {None})) :]:
                self._db.execute("DELETE FROM versions WHERE digest = ?", (digest,))
        self.sweep()

    def sweep(self) -> None:
        """Delete the files that no version and no attempt refers to."""
        deployments = self._deployments(_VERSION) + self._deployments(_ATTEMPT)
        rows = self._all("SELECT (SELECT COUNT(*) FROM versions) + (SELECT COUNT(*) FROM attempts)")
        if len(deployments) != rows[0][0]:
            return  # a row cannot be read: what it refers to is not known, so nothing is deleted
        kept = {entry.sha256 for deployment in deployments for entry in deployment.manifest.files.values()}
        for path in self._objects.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the database."""
        with self._lock, closing(self._db):
            pass

    def _deployments(self, query: str, *values: object) -> tuple[Deployment, ...]:
        return tuple(found for row in self._all(query, *values) if (found := _deployment(row)) is not None)

    def _execute(self, sql: str, *values: object) -> None:
        with self._lock, self._db:
            self._db.execute(sql, values)

    def _all(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()


def _deployment(row: tuple[Any, ...]) -> Deployment | None:
    """What a row says; None, with a line in the log, if another release wrote it in a way that is not known here."""
    digest, manifest, signed_by, state, description = row
    try:
        return Deployment(digest, manifests.parse(manifest), signed_by, State(state), _description(description))
    except ValueError as error:
        log.error("bundle %s in the state cannot be read: %s", digest[:12], error)  # noqa: TRY400 - the message says it all
        return None


def _description(text: str | None) -> Description | None:
    try:
        return Description.from_json(text) if text else None
    except ValueError:
        return None  # written by another release: the probe will make a new one
