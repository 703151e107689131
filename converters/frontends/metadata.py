"""TFLite Metadata of a source: labels and normalization, which a converted model would lose.

The quantizer rewrites the flatbuffer and leaves out what is behind it, where the label files are (a ZIP archive).
Source: the TensorFlow Lite Metadata schema (`metadata_schema.fbs`); field numbers below are its own. A box reads the
same from a bare model (edge_runtime/deploy/tflite_metadata.py), by the same rules.
"""

import io
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

from converters.engine import native_silence
from edge_runtime.contract.bundle import MAX_LABELS_BYTES
from edge_runtime.contract.manifest import InputDeclaration

_NAME = b"TFLITE_METADATA"
_SUBGRAPHS, _INPUTS, _OUTPUTS = 3, 2, 3  # ModelMetadata.subgraph_metadata, SubGraphMetadata
_CONTENT, _UNITS, _FILES = 3, 4, 6  # TensorMetadata.content, .process_units, .associated_files
_FILE_NAME, _FILE_TYPE = 0, 2  # AssociatedFile
_LABEL_TYPES = (2, 3)  # AssociatedFileType.TENSOR_AXIS_LABELS, TENSOR_VALUE_LABELS
_UNION_TYPE, _UNION_VALUE = 0, 1  # Content.content_properties, ProcessUnit.options
_IMAGE, _NORMALIZATION = 2, 1  # ContentProperties.ImageProperties, ProcessUnitOptions.NormalizationOptions
_MEAN, _STD = 0, 1  # NormalizationOptions
_MAX_CHANNELS = 16
_BROKEN = (
    struct.error,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OSError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a source says of itself; None where it says nothing.

    Attributes:
        files: names in the archive behind the model, whether or not anything could be made of them.
    """

    input: InputDeclaration | None = None
    labels: tuple[str, ...] | None = None
    files: tuple[str, ...] = ()


def read(content: bytes) -> Metadata:
    """The metadata of a .tflite; what is broken counts as absent."""
    files = _file_names(content)
    try:
        table = _root(content)
        if table is None:
            return Metadata(files=files)
        subgraph = _tables(table, _SUBGRAPHS)[0]
        inputs, outputs = _tables(subgraph, _INPUTS), _tables(subgraph, _OUTPUTS)
        return Metadata(_input(inputs[0]) if inputs else None, _labels(outputs, content), files)
    except _BROKEN:
        return Metadata(files=files)


def _file_names(content: bytes) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return tuple(archive.namelist())
    except _BROKEN:
        return ()


def _lines(content: bytes, name: str) -> tuple[str, ...] | None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if archive.getinfo(name).file_size > MAX_LABELS_BYTES:
            return None
        return tuple(archive.read(name).decode().rstrip("\n").splitlines()) or None


def _root(content: bytes) -> Any:
    from ai_edge_litert.tools import flatbuffer_utils  # noqa: PLC0415 - heavy
    from flatbuffers.table import Table  # noqa: PLC0415 - comes with LiteRT

    with native_silence():
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    for entry in model.metadata or []:
        if entry.name == _NAME:
            data = bytes(model.buffers[entry.buffer].data)
            return Table(data, struct.unpack_from("<I", data)[0])
    return None


def _labels(outputs: list[Any], content: bytes) -> tuple[str, ...] | None:
    """The first label file of any output that has one (its name may carry a locale: the first one wins)."""
    for output in outputs:
        for entry in _tables(output, _FILES):
            if _byte(entry, _FILE_TYPE) in _LABEL_TYPES:
                return _lines(content, _vector(entry, _FILE_NAME, 1).decode())
    return None


def _input(tensor: Any) -> InputDeclaration | None:
    """How pixels or numbers become the input; None if nothing is said of either."""
    content = _table(tensor, _CONTENT)
    kind = "image" if content is not None and _byte(content, _UNION_TYPE) == _IMAGE else "tensor"
    for unit in _tables(tensor, _UNITS):
        options = _table(unit, _UNION_VALUE)
        if options is not None and _byte(unit, _UNION_TYPE) == _NORMALIZATION:
            mean, std = _floats(options, _MEAN), _floats(options, _STD)
            if all(map(math.isfinite, mean + std)):
                return InputDeclaration(kind, mean=mean or (0.0,), std=std or (1.0,))  # type: ignore[arg-type]
    return InputDeclaration("image") if kind == "image" else None


def _field(table: Any, index: int) -> int:
    """Position of a field relative to its table, 0 if it is absent (FlatBuffers: the vtable starts with two uint16)."""
    return int(table.Offset(4 + 2 * index))


def _byte(table: Any, index: int) -> int:
    offset = _field(table, index)
    return int(table.Bytes[table.Pos + offset]) if offset else 0


def _table(table: Any, index: int) -> Any:
    offset = _field(table, index)
    return type(table)(table.Bytes, table.Indirect(table.Pos + offset)) if offset else None


def _tables(table: Any, index: int) -> list[Any]:
    offset = _field(table, index)
    if not offset:
        return []
    start, length = table.Vector(offset), table.VectorLen(offset)
    if length * 4 > len(table.Bytes):
        raise ValueError("a vector is longer than the file")
    return [type(table)(table.Bytes, table.Indirect(start + 4 * i)) for i in range(length)]


def _vector(table: Any, index: int, size: int) -> bytes:
    """The bytes of a vector (or string) whose elements have `size` bytes."""
    offset = _field(table, index)
    if not offset:
        return b""
    start = table.Vector(offset)
    return bytes(table.Bytes[start : start + size * table.VectorLen(offset)])


def _floats(table: Any, index: int) -> tuple[float, ...]:
    data = _vector(table, index, 4)[: 4 * _MAX_CHANNELS]
    return struct.unpack(f"<{len(data) // 4}f", data)
