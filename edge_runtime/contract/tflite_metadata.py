"""Reads TFLite Metadata: labels, normalization, and how the outputs are to be read, as a bare model carries them.

Source: the TensorFlow Lite Metadata schema (`metadata_schema.fbs`, file identifier "M001") and the model
schema's `metadata` and `buffers` fields; associated files are a ZIP archive behind the model. Field numbers
below are those of the schemas. Content of unknown origin is parsed here: a box does it in the probe's child only.
"""

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import flatbuffers.number_types as number
from flatbuffers.table import Table

from edge_runtime.contract import flatbuffer
from edge_runtime.contract.bundle import MAX_LABELS_BYTES
from edge_runtime.contract.input_metadata import read_input
from edge_runtime.contract.inputs import InputDeclaration
from edge_runtime.contract.outputs import BoxDeclaration, BoxFormat, BoxRole, OutputDeclaration, ScoreCalibration
from edge_runtime.contract.states import State

_NAME = b"TFLITE_METADATA"
_MODEL_OPERATORS, _MODEL_SUBGRAPHS, _MODEL_BUFFERS, _MODEL_METADATA = 1, 2, 4, 6  # tflite.Model
_OLD_CODE, _NEW_CODE = 0, 3  # tflite.OperatorCode.deprecated_builtin_code, .builtin_code
_CALL_ONCE, _ASSIGN_VARIABLE = 129, 144  # tflite.BuiltinOperator
_OPCODE, _OPTIONS = 0, 4  # tflite.Operator.opcode_index, .builtin_options
_IS_VARIABLE = 5  # tflite.Tensor
_CONTROL_FLOW = {31, 118, 119, 129}  # tflite.BuiltinOperator CALL, IF, WHILE, CALL_ONCE
_METADATA_NAME, _METADATA_BUFFER = 0, 1  # tflite.Metadata
_BUFFER_DATA = 0  # tflite.Buffer
_SUBGRAPHS = 3  # ModelMetadata.subgraph_metadata
_INPUTS, _OUTPUTS = 2, 3  # SubGraphMetadata
_CONTENT, _UNITS, _FILES = 3, 4, 6  # TensorMetadata.content, .process_units, .associated_files
_CONTENT_TYPE, _CONTENT_VALUE = 0, 1  # Content.content_properties (a union)
_FILE_NAME, _FILE_TYPE = 0, 2  # AssociatedFile
_AXIS_LABELS, _VALUE_LABELS = 2, 3  # AssociatedFileType.TENSOR_AXIS_LABELS, TENSOR_VALUE_LABELS
_AXIS_CALIBRATION = 4  # AssociatedFileType.TENSOR_AXIS_SCORE_CALIBRATION
_UNIT_TYPE, _UNIT_VALUE = 0, 1  # ProcessUnit.options (a union)
_CALIBRATION, _THRESHOLDING = 2, 3  # ProcessUnitOptions
_TRANSFORMATION, _DEFAULT_SCORE = 0, 1  # ScoreCalibrationOptions
_TRANSFORMATIONS: tuple[Literal["identity", "log", "inverse_logistic"], ...] = ("identity", "log", "inverse_logistic")
_GLOBAL_THRESHOLD = 0  # ScoreThresholdingOptions
_BOX_PROPERTIES = 3  # ContentProperties.BoundingBoxProperties
_BOX_INDEX, _BOX_TYPE, _BOX_COORDINATES = 0, 1, 2  # BoundingBoxProperties
_TENSOR_NAME = 0  # TensorMetadata.name
# BoundingBoxType BOUNDARIES, UPPER_LEFT, CENTER: the order that it names, and the one with the axes swapped.
_BOX_FORMATS: dict[int, tuple[BoxFormat, BoxFormat]] = {
    1: ("xyxy", "yxyx"),
    2: ("xywh", "yxhw"),
    3: ("cxcywh", "cycxhw"),
}
_IN_ORDER, _AXES_SWAPPED = (0, 1, 2, 3), (1, 0, 3, 2)
# What the metadata writers of TensorFlow Lite Support and of Model Maker call the outputs of a detector.
_ROLES: dict[str, BoxRole] = {
    "location": "boxes",
    "locations": "boxes",
    "category": "classes",
    "categories": "classes",
    "classes": "classes",
    "score": "scores",
    "scores": "scores",
    "number of detections": "count",
}
_MAX_CALIBRATED = 10_000  # classes
_PARSE_ERRORS = (
    *(struct.error, IndexError, ValueError, TypeError, KeyError, OSError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True, slots=True)
class TFLiteMetadata:
    """What the metadata says of the first input and the outputs; None and empty where it says nothing.

    Attributes:
        output: thresholds, score calibration, and what boxes look like; None where nothing is said.
        files: names in the archive behind the model, whether or not anything could be made of them.
    """

    input: InputDeclaration | None = None
    labels: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    output: OutputDeclaration | None = None


def read(content: bytes) -> TFLiteMetadata:
    """Metadata of a `.tflite` file's bytes; what is broken counts as absent."""
    files = _file_names(content)
    try:
        root = _metadata_root(content)
        if root is None:
            return TFLiteMetadata(files=files)
        subgraph = flatbuffer.tables(root, _SUBGRAPHS)[0]
        inputs, outputs = flatbuffer.tables(subgraph, _INPUTS), flatbuffer.tables(subgraph, _OUTPUTS)
        return TFLiteMetadata(
            read_input(inputs[0]) if inputs else None, _labels(content, outputs), files, _output(content, outputs)
        )
    except _PARSE_ERRORS:
        return TFLiteMetadata(files=files)


def has_control_flow(content: bytes) -> bool:
    """Whether the running time may depend on values, for there are loops or calls; True if it cannot be told."""
    try:
        return any(
            _operator(code) in _CONTROL_FLOW for code in flatbuffer.tables(flatbuffer.root(content), _MODEL_OPERATORS)
        )
    except _PARSE_ERRORS:
        return True


def state(content: bytes) -> State:
    """What a model keeps between two runs; "resources", the more that may be, if it cannot be told.

    Source: tflite's schema, Tensor.is_variable and ASSIGN_VARIABLE; what CALL_ONCE's subgraph assigns is a beginning.
    """
    try:
        model = flatbuffer.root(content)
        codes = [_operator(code) for code in flatbuffer.tables(model, _MODEL_OPERATORS)]
        subgraphs = flatbuffer.tables(model, _MODEL_SUBGRAPHS)
        used = [
            [(codes[flatbuffer.scalar(op, _OPCODE, number.Uint32Flags)], op) for op in flatbuffer.tables(graph, 3)]
            for graph in subgraphs
        ]
        first = {
            flatbuffer.scalar(options, 0, number.Int32Flags)
            for operators in used
            for code, op in operators
            if code == _CALL_ONCE and (options := flatbuffer.table(op, _OPTIONS)) is not None
        }
        assigned = any(
            code == _ASSIGN_VARIABLE for i, operators in enumerate(used) if i not in first for code, _ in operators
        )
        if assigned:
            return "resources"
        tensors = (tensor for graph in subgraphs for tensor in flatbuffer.tables(graph, 0))
        return "variables" if any(flatbuffer.scalar(t, _IS_VARIABLE, number.BoolFlags) for t in tensors) else "none"
    except _PARSE_ERRORS:
        return "resources"


def _operator(code: Table) -> int:
    # Codes below 127 are in the old one-byte field, the new field is 0 then in old files: the larger one counts.
    return max(
        flatbuffer.scalar(code, _OLD_CODE, number.Int8Flags), flatbuffer.scalar(code, _NEW_CODE, number.Int32Flags)
    )


def _metadata_root(data: bytes) -> Table | None:
    model = flatbuffer.root(data)
    buffers = flatbuffer.tables(model, _MODEL_BUFFERS)
    for entry in flatbuffer.tables(model, _MODEL_METADATA):
        if flatbuffer.octets(entry, _METADATA_NAME) == _NAME:
            buffer = buffers[flatbuffer.scalar(entry, _METADATA_BUFFER, number.Uint32Flags)]
            return flatbuffer.root(flatbuffer.octets(buffer, _BUFFER_DATA))
    return None


def _output(content: bytes, outputs: list[Table]) -> OutputDeclaration | None:
    try:
        said = OutputDeclaration(
            threshold=_threshold(outputs), calibration=_calibration(content, outputs), boxes=_boxes(outputs)
        )
    except _PARSE_ERRORS:  # labels and input may be sound all the same
        return None
    return None if said == OutputDeclaration() else said


def _options(outputs: list[Table], kind: int) -> Iterator[tuple[Table, Table]]:
    """Each output that has process units of this kind, and their options."""
    for output in outputs:
        for unit in flatbuffer.tables(output, _UNITS):
            options = flatbuffer.table(unit, _UNIT_VALUE)
            if options is not None and flatbuffer.scalar(unit, _UNIT_TYPE, number.Uint8Flags) == kind:
                yield output, options


def _threshold(outputs: list[Table]) -> float | None:
    for _, options in _options(outputs, _THRESHOLDING):
        threshold = flatbuffer.real(options, _GLOBAL_THRESHOLD)
        if math.isfinite(threshold):
            return threshold
    return None


def _calibration(content: bytes, outputs: list[Table]) -> ScoreCalibration | None:
    """Source: `ScoreCalibrationOptions` of the schema; a line a class of scale, slope, offset and, maybe, min_score."""
    for output, options in _options(outputs, _CALIBRATION):
        for file in flatbuffer.tables(output, _FILES):
            if flatbuffer.scalar(file, _FILE_TYPE, number.Int8Flags) == _AXIS_CALIBRATION:
                lines = _archived_lines(content, flatbuffer.octets(file, _FILE_NAME).decode())
                classes = tuple(_numbers(line) for line in lines[:_MAX_CALIBRATED])
                transformation = flatbuffer.scalar(options, _TRANSFORMATION, number.Int8Flags)
                default = flatbuffer.real(options, _DEFAULT_SCORE)
                return ScoreCalibration(_TRANSFORMATIONS[transformation], default, classes)
    return None


def _numbers(line: str) -> tuple[float, ...]:
    return tuple(float(word) for word in line.split(",")) if line.strip() else ()


def _boxes(outputs: list[Table]) -> BoxDeclaration:
    """The first bounding boxes of the outputs; roles where every output has a name that is known."""
    for output in outputs:
        properties = _box_properties(output)
        if properties is None:
            continue
        names = [flatbuffer.octets(tensor, _TENSOR_NAME).decode(errors="replace").lower() for tensor in outputs]
        roles = tuple(_ROLES[name] for name in names if name in _ROLES)
        pixel = flatbuffer.scalar(properties, _BOX_COORDINATES, number.Int8Flags) == 1
        return BoxDeclaration(
            roles=roles if len(set(roles)) == len(outputs) and "scores" in roles else (),
            format=_box_format(properties),
            coordinates="pixel" if pixel else "fraction",
        )
    return BoxDeclaration()


def _box_properties(output: Table) -> Table | None:
    content = flatbuffer.table(output, _CONTENT)
    if content is None or flatbuffer.scalar(content, _CONTENT_TYPE, number.Uint8Flags) != _BOX_PROPERTIES:
        return None
    return flatbuffer.table(content, _CONTENT_VALUE)


def _box_format(properties: Table) -> BoxFormat | None:
    index = flatbuffer.whole_numbers(properties, _BOX_INDEX) or _IN_ORDER
    formats = _BOX_FORMATS.get(flatbuffer.scalar(properties, _BOX_TYPE, number.Int8Flags))
    if formats is None or index not in (_IN_ORDER, _AXES_SWAPPED):
        return None
    return formats[index == _AXES_SWAPPED]


def _file_names(content: bytes) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return tuple(archive.namelist())
    except _PARSE_ERRORS:
        return ()


def _labels(content: bytes, outputs: list[Table]) -> tuple[str, ...]:
    """The first label file of any output that has one (its name may carry a locale: the first one wins)."""
    for output in outputs:
        for file in flatbuffer.tables(output, _FILES):
            if flatbuffer.scalar(file, _FILE_TYPE, number.Int8Flags) in (_AXIS_LABELS, _VALUE_LABELS):
                return _archived_lines(content, flatbuffer.octets(file, _FILE_NAME).decode())
    return ()


def _archived_lines(content: bytes, name: str) -> tuple[str, ...]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if archive.getinfo(name).file_size > MAX_LABELS_BYTES:
            return ()
        return tuple(archive.read(name).decode().rstrip("\n").splitlines())
