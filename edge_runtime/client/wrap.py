"""Make a bundle of a bare .tflite file, so that there is one way onto a box."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from edge_runtime.client.errors import ClientError
from edge_runtime.contract import bundle, names, signing
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.manifest import InputDeclaration, Manifest, OutputDeclaration, Task

FIRST_VERSION = "1.0.0"
DEFAULT_KEY_NAME = "default"
_MAX_PART = 999_999

Kind = Literal["bundle", "model"]


@dataclass(frozen=True, slots=True)
class WrapOptions:
    """What a person says of a bare model; None leaves it to the model's own TFLite Metadata.

    Attributes:
        name: of the model on the box; empty: the file's.
        version: empty: 1.0.0, or the next patch where the box has other content of that name.
        labels: content of a file with one label a line, UTF-8.
        output: how the answer is read.
    """

    name: str = ""
    version: str = ""
    task: Task | None = None
    input: InputDeclaration | None = None
    labels: bytes | None = None
    output: OutputDeclaration = field(default_factory=OutputDeclaration)


def kind_of(path: Path) -> Kind:
    """Whether a file is a bundle (a ZIP archive) or a bare model, by its first bytes.

    Raises:
        ClientError: it cannot be read, or is neither.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ClientError(f"cannot read {path}: {error.strerror or error}") from error
    # TFLite schema, file_identifier "TFL3": a FlatBuffer has its identifier after the root's offset.
    if head[4:8] == b"TFL3":
        return "model"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "bundle"
    raise ClientError(f"{path} is not a bundle and not a TFLite model")


def model_name(stem: str) -> str:
    """A legal model name as near to a file's name as can be; raises ClientError if nothing of it is left."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-")[:64].rstrip("._-")
    if not name:
        raise ClientError(f"the file's name {stem!r} makes no model name: give one with --name")
    return name


def default_key() -> Path:
    """Where `edgectl keygen` without arguments puts the private key: $XDG_CONFIG_HOME/edge-runtime/default.key."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "edge-runtime" / f"{DEFAULT_KEY_NAME}.key"


def wrap(
    path: Path, target: BinaryIO, options: WrapOptions, *, key: Path | None, on_box: Iterable[Mapping[str, Any]] = ()
) -> Manifest:
    """Write the bundle of a bare model to `target`, signed where there is a key, and return its manifest.

    `on_box` is what `GET /models` lists; it decides the version where none is given.

    Raises:
        ClientError: a name, version, label file or key that cannot be used, or a model that cannot be read.
    """
    try:
        content = {bundle.MODEL: path.read_bytes()}
        if options.labels is not None:
            content[bundle.LABELS] = _checked_labels(options.labels)
        manifest = _manifest(path, content, options, on_box)
        data = manifest.canonical()
        signature = signing.sign(data, signing.load_private(key)) if key else None
        bundle.write(target, data, signature, content)
    except OSError as error:
        raise ClientError(f"cannot make a bundle of {path}: {error}") from error
    except ContractError as error:
        raise ClientError(str(error)) from error
    return manifest


def _checked_labels(labels: bytes) -> bytes:
    if len(labels) > bundle.MAX_LABELS_BYTES:
        raise ClientError(f"the labels have {len(labels)} bytes, more than {bundle.MAX_LABELS_BYTES}")
    try:
        labels.decode()
    except UnicodeDecodeError as error:
        raise ClientError(f"the labels are not UTF-8: {error}") from error
    return labels


def _manifest(
    path: Path, content: Mapping[str, bytes], options: WrapOptions, on_box: Iterable[Mapping[str, Any]]
) -> Manifest:
    name = options.name or model_name(path.stem)
    files = {member: bundle.entry(data) for member, data in content.items()}

    def declare(version: str) -> Manifest:
        sequence = names.sequence_of(version) if _parts(version) else 0
        return Manifest(name, version, files, sequence, task=options.task, input=options.input, output=options.output)

    if options.version:
        return declare(options.version)
    known = _versions(name, on_box)
    for version, digest in known.items():
        if declare(version).digest() == digest:
            return declare(version)
    return declare(next_version(known))


def _versions(name: str, on_box: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Digest by version of what a box has of a model."""
    found = {}
    for model in on_box:
        if model.get("name") == name:
            for entry in (model, *model.get("versions", ())):
                found[str(entry.get("version", ""))] = str(entry.get("digest", ""))
    return {version: digest for version, digest in found.items() if version}


def next_version(known: Iterable[str]) -> str:
    """One patch above the newest MAJOR.MINOR.PATCH among `known`; 1.0.0 where there is none."""
    newest = max(filter(None, map(_parts, known)), default=None)
    if newest is None:
        return FIRST_VERSION
    major, minor, patch = newest
    if patch < _MAX_PART:
        return f"{major}.{minor}.{patch + 1}"
    raise ClientError(f"no version follows {major}.{minor}.{patch}: give one with --version")


def _parts(version: str) -> tuple[int, int, int] | None:
    parts = re.fullmatch(r"([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})", version)
    return (int(parts[1]), int(parts[2]), int(parts[3])) if parts else None
