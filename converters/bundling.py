"""Puts a bundle together and writes it whole or not at all."""

import io
import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from converters.errors import ConvertError
from edge_runtime.contract import bundle, signing
from edge_runtime.contract.manifest import Manifest, parse

TOOLS = ("ai-edge-litert", "litert-quantizer", "edge-runtime")


def tool_versions() -> dict[str, str]:
    """Version by distribution name of what makes the bundle."""
    return {name: _version(name) for name in TOOLS}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "source tree"


def canonical_json(document: Mapping[str, Any]) -> bytes:
    """JSON whose bytes depend on the content only."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def read_labels(path: Path) -> list[str]:
    """The lines of a label file; raises ConvertError if there are none or they are no text."""
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConvertError(f"{path}: labels must be UTF-8 text, one a line: {error}") from error
    if not lines or len(content) > bundle.MAX_LABELS_BYTES:
        raise ConvertError(f"{path}: {len(lines)} labels in {len(content)} bytes; a label file has 1 to 4 MiB of lines")
    return lines


def build(manifest: Manifest, content: Mapping[str, bytes], key: Ed25519PrivateKey | None) -> bytes:
    """The bytes of a bundle, signed if there is a key. The manifest names the content's digests already."""
    manifest_bytes = manifest.canonical()
    parse(manifest_bytes)  # a box will: better that it fails here
    signature = signing.sign(manifest_bytes, key) if key is not None else None
    buffer = io.BytesIO()
    bundle.write(buffer, manifest_bytes, signature, content)
    return buffer.getvalue()


def check_writable(target: Path) -> None:
    """Raise ConvertError now rather than after minutes of work if `target` cannot be written."""
    if target.is_dir():
        raise ConvertError(f"{target}: is a folder; name a file in it")
    if not target.parent.is_dir():
        raise ConvertError(f"{target}: there is no folder {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise ConvertError(f"{target}: the folder {target.parent} is not writable")


def write_whole(target: Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `target` and rename it; on an error nothing is left or changed.

    Raises:
        ConvertError: the disk is full or the folder is not writable.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ConvertError(f"{target}: cannot be written: {error.strerror} ({len(content)} bytes)") from error
