"""Makes .tflite files as other tools write them: with TFLite Metadata, or with outputs of any shapes."""

import io
import zipfile
from collections.abc import Mapping, Sequence

import flatbuffers
import numpy as np
from ai_edge_litert.tools import flatbuffer_utils

from converters.engine import native_silence

_LABELS_TYPE, _IMAGE, _NORMALIZATION = 2, 2, 1  # see converters/frontends/metadata.py


def with_metadata(
    content: bytes,
    files: Mapping[str, str],
    *,
    named: Sequence[str] = ("labels.txt",),
    normalization: tuple[Sequence[float], Sequence[float]] | None = None,
) -> bytes:
    """The model with a metadata flatbuffer and the files in a ZIP archive behind it.

    `named`: which files the metadata call labels of the output; `normalization`: (means, stds) of a picture.
    """
    return with_archive(attached(content, _metadata(named, normalization)), files)


def attached(content: bytes, metadata: bytes) -> bytes:
    """The model with a metadata flatbuffer."""
    with native_silence():
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    schema = flatbuffer_utils.schema_fb
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer = b"TFLITE_METADATA", len(model.buffers)
    buffer.data = np.frombuffer(metadata, np.uint8)
    model.metadata = [*(model.metadata or []), entry]
    model.buffers.append(buffer)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def with_archive(content: bytes, files: Mapping[str, str]) -> bytes:
    """The model with a ZIP archive behind it, as TFLite Metadata appends one."""
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def _metadata(named: Sequence[str], normalization: tuple[Sequence[float], Sequence[float]] | None) -> bytes:
    """A ModelMetadata flatbuffer with one subgraph, one input and one output."""
    builder = flatbuffers.Builder()
    files = []
    for name in named:
        text = builder.CreateString(name)
        files.append(_table(builder, 5, {0: text}, {2: _LABELS_TYPE}))
    output = _table(builder, 7, {6: _vector(builder, files)})
    fields = {}
    if normalization is not None:
        mean, std = (builder.CreateNumpyVector(np.array(values, np.float32)) for values in normalization)
        unit = _table(builder, 2, {1: _table(builder, 4, {0: mean, 1: std})}, {0: _NORMALIZATION})
        content = _table(builder, 3, {1: _table(builder, 2, {})}, {0: _IMAGE})
        fields = {3: content, 4: _vector(builder, [unit])}
    source = _table(builder, 7, fields)
    subgraph = _table(builder, 5, {2: _vector(builder, [source]), 3: _vector(builder, [output])})
    builder.Finish(_table(builder, 8, {3: _vector(builder, [subgraph])}), b"M001")
    return bytes(builder.Output())


def _table(
    builder: flatbuffers.Builder, slots: int, offsets: Mapping[int, int], numbers: Mapping[int, int] | None = None
) -> int:
    builder.StartObject(slots)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, value in (numbers or {}).items():
        builder.PrependUint8Slot(slot, value, 0)
    return int(builder.EndObject())


def _vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
