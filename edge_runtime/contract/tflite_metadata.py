"""Reads TFLite Metadata: the labels and the normalization that a bare model carries.

Source: the TensorFlow Lite Metadata schema (`metadata_schema.fbs`, file identifier "M001") and the model
schema's `metadata` and `buffers` fields; associated files are a ZIP archive behind the model. Field numbers
below are those of the schemas. Content of unknown origin is parsed here: a box does it in the probe's child only.
"""

import io
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import flatbuffers.number_types as number
from flatbuffers.table import Table

from edge_runtime.contract.bundle import MAX_LABELS_BYTES
from edge_runtime.contract.manifest import InputDeclaration

_NAME = b"TFLITE_METADATA"
_MODEL_OPERATORS, _MODEL_BUFFERS, _MODEL_METADATA = 1, 4, 6  # tflite.Model
_OLD_CODE, _NEW_CODE = 0, 3  # tflite.OperatorCode.deprecated_builtin_code, .builtin_code
_CONTROL_FLOW = {31, 118, 119, 129}  # tflite.BuiltinOperator CALL, IF, WHILE, CALL_ONCE
_METADATA_NAME, _METADATA_BUFFER = 0, 1  # tflite.Metadata
_BUFFER_DATA = 0  # tflite.Buffer
_SUBGRAPHS = 3  # ModelMetadata.subgraph_metadata
_INPUTS, _OUTPUTS = 2, 3  # SubGraphMetadata
_CONTENT, _UNITS, _FILES = 3, 4, 6  # TensorMetadata.content, .process_units, .associated_files
_CONTENT_TYPE, _CONTENT_VALUE = 0, 1  # Content.content_properties (a union)
_IMAGE_PROPERTIES = 2  # ContentProperties.ImageProperties
_FILE_NAME, _FILE_TYPE = 0, 2  # AssociatedFile
_AXIS_LABELS, _VALUE_LABELS = 2, 3  # AssociatedFileType.TENSOR_AXIS_LABELS, TENSOR_VALUE_LABELS
_UNIT_TYPE, _UNIT_VALUE = 0, 1  # ProcessUnit.options (a union)
_NORMALIZATION = 1  # ProcessUnitOptions.NormalizationOptions
_MEAN, _STD = 0, 1  # NormalizationOptions
_MAX_CHANNELS = 16
_PARSE_ERRORS = (
    *(struct.error, IndexError, ValueError, TypeError, KeyError, OSError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True, slots=True)
class TFLiteMetadata:
    """What the metadata says of the first input and the outputs; None and empty where it says nothing.

    Attributes:
        files: names in the archive behind the model, whether or not anything could be made of them.
    """

    input: InputDeclaration | None = None
    labels: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def read(content: bytes) -> TFLiteMetadata:
    """Metadata of a `.tflite` file's bytes; what is broken counts as absent."""
    files = _file_names(content)
    try:
        root = _metadata_root(content)
        if root is None:
            return TFLiteMetadata(files=files)
        subgraph = _tables(root, _SUBGRAPHS)[0]
        inputs, outputs = _tables(subgraph, _INPUTS), _tables(subgraph, _OUTPUTS)
        return TFLiteMetadata(_input(inputs[0]) if inputs else None, _labels(content, outputs), files)
    except _PARSE_ERRORS:
        return TFLiteMetadata(files=files)


def has_control_flow(content: bytes) -> bool:
    """Whether the running time may depend on values, for there are loops or calls; True if it cannot be told."""
    try:
        return any(_operator(code) in _CONTROL_FLOW for code in _tables(_root(content), _MODEL_OPERATORS))
    except _PARSE_ERRORS:
        return True


def _operator(code: Table) -> int:
    # Codes below 127 are in the old one-byte field, the new field is 0 then in old files: the larger one counts.
    return max(_scalar(code, _OLD_CODE, number.Int8Flags), _scalar(code, _NEW_CODE, number.Int32Flags))


def _metadata_root(data: bytes) -> Table | None:
    model = _root(data)
    buffers = _tables(model, _MODEL_BUFFERS)
    for entry in _tables(model, _MODEL_METADATA):
        if _bytes(entry, _METADATA_NAME) == _NAME:
            buffer = buffers[_scalar(entry, _METADATA_BUFFER, number.Uint32Flags)]
            return _root(_bytes(buffer, _BUFFER_DATA))
    return None


def _input(tensor: Table) -> InputDeclaration | None:
    """How pixels or numbers become the input; None if nothing is said of either."""
    content = _table(tensor, _CONTENT)
    is_image = content is not None and _scalar(content, _CONTENT_TYPE, number.Uint8Flags) == _IMAGE_PROPERTIES
    for unit in _tables(tensor, _UNITS):
        options = _table(unit, _UNIT_VALUE)
        if options is not None and _scalar(unit, _UNIT_TYPE, number.Uint8Flags) == _NORMALIZATION:
            mean, std = _floats(options, _MEAN), _floats(options, _STD)
            if all(map(math.isfinite, mean + std)):
                return InputDeclaration("image" if is_image else "tensor", mean=mean or (0.0,), std=std or (1.0,))
    return InputDeclaration("image") if is_image else None


def _file_names(content: bytes) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return tuple(archive.namelist())
    except _PARSE_ERRORS:
        return ()


def _labels(content: bytes, outputs: list[Table]) -> tuple[str, ...]:
    """The first label file of any output that has one (its name may carry a locale: the first one wins)."""
    for output in outputs:
        for file in _tables(output, _FILES):
            if _scalar(file, _FILE_TYPE, number.Int8Flags) in (_AXIS_LABELS, _VALUE_LABELS):
                return _archived_lines(content, _bytes(file, _FILE_NAME).decode())
    return ()


def _archived_lines(content: bytes, name: str) -> tuple[str, ...]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if archive.getinfo(name).file_size > MAX_LABELS_BYTES:
            return ()
        return tuple(archive.read(name).decode().rstrip("\n").splitlines())


def _root(data: bytes) -> Table:
    (offset,) = struct.unpack_from("<I", data, 0)
    return Table(data, offset)


def _field(table: Table, index: int) -> int:
    """Absolute position of a field, or 0 if it is absent (FlatBuffers: the vtable starts with two uint16)."""
    offset = table.Offset(4 + 2 * index)
    return int(table.Pos + offset) if offset else 0


def _scalar(table: Table, index: int, kind: Any) -> int:
    position = _field(table, index)
    return int(table.Get(kind, position)) if position else 0


def _table(table: Table, index: int) -> Table | None:
    position = _field(table, index)
    return Table(table.Bytes, table.Indirect(position)) if position else None


def _tables(table: Table, index: int) -> list[Table]:
    start, length = _vector(table, index)
    # Each element takes four bytes: a length that the file cannot hold is a lie.
    if length * 4 > len(table.Bytes):
        raise ValueError("a vector is longer than the file")
    return [Table(table.Bytes, table.Indirect(start + 4 * i)) for i in range(length)]


def _vector(table: Table, index: int) -> tuple[int, int]:
    position = _field(table, index)
    if not position:
        return 0, 0
    offset = position - table.Pos
    return int(table.Vector(offset)), int(table.VectorLen(offset))


def _bytes(table: Table, index: int) -> bytes:
    start, length = _vector(table, index)
    return bytes(table.Bytes[start : start + length])


def _floats(table: Table, index: int) -> tuple[float, ...]:
    start, length = _vector(table, index)
    return tuple(struct.unpack_from(f"<{min(length, _MAX_CHANNELS)}f", table.Bytes, start))
