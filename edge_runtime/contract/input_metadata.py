"""What TFLite Metadata say of a model's input: pictures, sound, numbers, and their normalization.

Source: the TensorFlow Lite Metadata schema (`metadata_schema.fbs`); field numbers below are the schema's. Content of
unknown origin: see tflite_metadata.py.
"""

import math

import flatbuffers.number_types as number
from flatbuffers.table import Table

from edge_runtime.contract import flatbuffer
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.inputs import AudioDeclaration, InputDeclaration

_CONTENT, _UNITS = 3, 4  # TensorMetadata.content, .process_units
_CONTENT_TYPE, _CONTENT_VALUE = 0, 1  # Content.content_properties (a union)
_IMAGE, _AUDIO = 2, 4  # ContentProperties.ImageProperties, .AudioProperties
_COLOR_SPACE, _GRAYSCALE = 0, 2  # ImageProperties.color_space, ColorSpaceType.GRAYSCALE
_SAMPLE_RATE, _CHANNELS = 0, 1  # AudioProperties
_UNIT_TYPE, _UNIT_VALUE = 0, 1  # ProcessUnit.options (a union)
_NORMALIZATION = 1  # ProcessUnitOptions
_MEAN, _STD = 0, 1  # NormalizationOptions


def read_input(tensor: Table) -> InputDeclaration | None:
    """How raw input becomes the tensor that a TensorMetadata table describes; None if nothing is said of it."""
    content = flatbuffer.table(tensor, _CONTENT)
    kind = 0 if content is None else flatbuffer.scalar(content, _CONTENT_TYPE, number.Uint8Flags)
    about = None if content is None else flatbuffer.table(content, _CONTENT_VALUE)
    normalization = _normalization(tensor)
    mean, std = normalization or ((0.0,), (1.0,))
    try:
        if kind == _IMAGE:
            grey = about is not None and flatbuffer.scalar(about, _COLOR_SPACE, number.Int8Flags) == _GRAYSCALE
            return InputDeclaration("image", mean=mean, std=std, color="GRAY" if grey else "RGB")
        if kind == _AUDIO and about is not None:
            return _sound(about, mean, std)
        return InputDeclaration("tensor", mean=mean, std=std) if normalization else None
    except ContractError:
        return None


def _sound(about: Table, mean: tuple[float, ...], std: tuple[float, ...]) -> InputDeclaration | None:
    """Samples -1..1, as the Task Library feeds them; None where the rate is not told."""
    rate = flatbuffer.scalar(about, _SAMPLE_RATE, number.Uint32Flags)
    if not rate:
        return None
    channels = max(1, flatbuffer.scalar(about, _CHANNELS, number.Uint32Flags))
    return InputDeclaration("audio", mean=mean, std=std, audio=AudioDeclaration(rate, channels))


def _normalization(tensor: Table) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    for unit in flatbuffer.tables(tensor, _UNITS):
        options = flatbuffer.table(unit, _UNIT_VALUE)
        if options is not None and flatbuffer.scalar(unit, _UNIT_TYPE, number.Uint8Flags) == _NORMALIZATION:
            mean, std = flatbuffer.floats(options, _MEAN), flatbuffer.floats(options, _STD)
            if all(map(math.isfinite, mean + std)):
                return mean or (0.0,), std or (1.0,)
    return None
