"""TFLite Metadata of inputs: pictures and sound are declared as the metadata say, and broken ones not at all."""

import flatbuffers
import numpy as np
import pytest
from flatbuffers.table import Table

from edge_runtime.contract import flatbuffer
from edge_runtime.contract.input_metadata import read_input
from edge_runtime.contract.inputs import AudioDeclaration, InputDeclaration

IMAGE, AUDIO, FEATURE = 2, 4, 1


def tensor(
    kind: int, numbers: tuple[int, ...] = (), normalization: tuple[list[float], list[float]] | None = None
) -> Table:
    """A TensorMetadata table whose content has these properties (uint32, or int8 for a picture's colours)."""
    builder = flatbuffers.Builder()
    units = 0
    if normalization is not None:
        mean, std = (builder.CreateNumpyVector(np.array(values, np.float32)) for values in normalization)
        builder.StartObject(4)
        builder.PrependUOffsetTRelativeSlot(0, mean, 0)
        builder.PrependUOffsetTRelativeSlot(1, std, 0)
        options = builder.EndObject()
        builder.StartObject(2)
        builder.PrependUint8Slot(0, 1, 0)
        builder.PrependUOffsetTRelativeSlot(1, options, 0)
        unit = builder.EndObject()
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(unit)
        units = builder.EndVector()
    builder.StartObject(2)
    for slot, value in enumerate(numbers):
        (builder.PrependInt8Slot if kind == IMAGE else builder.PrependUint32Slot)(slot, value, 0)
    properties = builder.EndObject()
    builder.StartObject(3)
    builder.PrependUint8Slot(0, kind, 0)
    builder.PrependUOffsetTRelativeSlot(1, properties, 0)
    content = builder.EndObject()
    builder.StartObject(7)
    builder.PrependUOffsetTRelativeSlot(3, content, 0)
    if units:
        builder.PrependUOffsetTRelativeSlot(4, units, 0)
    builder.Finish(builder.EndObject())
    return flatbuffer.root(bytes(builder.Output()))


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (tensor(AUDIO, (44_100, 2)), InputDeclaration("audio", audio=AudioDeclaration(44_100, 2))),
        (tensor(AUDIO, (16_000,)), InputDeclaration("audio", audio=AudioDeclaration(16_000, 1))),
        (
            tensor(AUDIO, (16_000, 1), ([1.0], [2.0])),
            InputDeclaration("audio", mean=(1.0,), std=(2.0,), audio=AudioDeclaration()),
        ),
        (tensor(AUDIO), None),
        (tensor(AUDIO, (5,)), None),
        (tensor(AUDIO, (16_000, 1000)), None),
        (tensor(IMAGE, (1,)), InputDeclaration("image")),
        (tensor(IMAGE, (2,), ([127.5], [127.5])), InputDeclaration("image", color="GRAY", mean=(127.5,), std=(127.5,))),
        (tensor(IMAGE, (1,), ([0.0], [0.0])), None),
        (tensor(FEATURE), None),
        (tensor(FEATURE, (), ([1.0], [2.0])), InputDeclaration("tensor", mean=(1.0,), std=(2.0,))),
    ],
)
def test_what_the_metadata_say_is_declared(table: Table, expected: InputDeclaration | None) -> None:
    """Rate and channels of sound, colours of pictures, normalization of both; nonsense declares nothing."""
    assert read_input(table) == expected
