"""Frontends: each turns one kind of source into a float .tflite. A new kind is one entry in FRONTENDS."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from converters.errors import ConvertError
from converters.frontends import tflite
from edge_runtime.contract import tflite_metadata
from edge_runtime.contract.tflite_metadata import TFLiteMetadata

FRONTENDS: dict[str, Callable[[Path], bytes]] = {".tflite": tflite.read}

_SAVED_MODEL_FILE = "saved_model.pb"
_SAVED_MODEL = "SavedModel folder"
_KERAS = "tf.lite.TFLiteConverter.from_keras_model(tf.keras.models.load_model(FILE)).convert() in TensorFlow"
_TORCH = "litert_torch.convert(model.eval(), (sample,)).export('model.tflite') of litert-torch"
# How to get a float .tflite of what is not read here yet.
_WAYS = {
    ".h5": _KERAS,
    ".keras": _KERAS,
    ".onnx": "onnx2tf -i FILE -o FOLDER",
    ".pt2": _TORCH,
    ".pt": _TORCH,
    ".pth": _TORCH,
    _SAVED_MODEL: "tf.lite.TFLiteConverter.from_saved_model(FOLDER).convert() in TensorFlow",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A source as a .tflite, the sha256 (hex) of the file it came from, and what it says of itself."""

    content: bytes
    sha256: str
    metadata: TFLiteMetadata


def load(path: Path) -> Source:
    """Read a source with the frontend that its suffix names.

    Raises:
        ConvertError: there is none, its kind is not read here, or it is not usable.
    """
    if not path.exists():
        raise ConvertError(f"{path}: there is no such file")
    kind = _kind(path)
    frontend = FRONTENDS.get(kind)
    if frontend is None:
        raise ConvertError(f"{path}: {_not_read(kind)}")
    content = frontend(path)
    return Source(content, hashlib.sha256(path.read_bytes()).hexdigest(), tflite_metadata.read(content))


def _kind(path: Path) -> str:
    if path.is_dir():
        return _SAVED_MODEL if (path / _SAVED_MODEL_FILE).is_file() else "folder"
    return _SAVED_MODEL if path.name == _SAVED_MODEL_FILE else path.suffix.lower()


def _not_read(kind: str) -> str:
    if kind == "folder":
        return f"a folder, and no SavedModel (it has no {_SAVED_MODEL_FILE}); give a float .tflite"
    if kind not in _WAYS:
        return f"sources of kind {kind or 'without suffix'!r} are not read; give a float .tflite"
    return f"a {kind} is not read yet; make a float .tflite of it, with {_WAYS[kind]}, and give that"
