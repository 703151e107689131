"""Frontends: each turns one kind of source into a float .tflite. A new kind is one entry in FRONTENDS."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from converters.errors import ConvertError
from converters.frontends import tflite

FRONTENDS: dict[str, Callable[[Path], bytes]] = {".tflite": tflite.read}


@dataclass(frozen=True, slots=True)
class Source:
    """A source as a .tflite, and the sha256 (hex) of the file it came from."""

    content: bytes
    sha256: str


def load(path: Path) -> Source:
    """Read a source with the frontend that its suffix names.

    Raises:
        ConvertError: the suffix is not known here, or the file is not usable.
    """
    frontend = FRONTENDS.get(path.suffix.lower())
    if frontend is None:
        kinds = ", ".join(sorted(FRONTENDS))
        raise ConvertError(
            f"{path}: a source of kind {path.suffix or 'without suffix'!r} is not supported; supported: {kinds}"
        )
    content = frontend(path)
    return Source(content, hashlib.sha256(path.read_bytes()).hexdigest())
