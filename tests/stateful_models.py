"""Models that keep state between calls, written as bytes: no converter is needed, so every engine's tests have them."""

import struct
from collections.abc import Mapping, Sequence

import flatbuffers

# Numbers of tflite's schema (schema.fbs): BuiltinOperator, BuiltinOptions, TensorType.
_ADD, _CALL_ONCE, _VAR_HANDLE, _READ, _ASSIGN = 0, 129, 142, 143, 144
_ADD_OPTIONS, _ONCE_OPTIONS, _VAR_HANDLE_OPTIONS, _READ_OPTIONS, _ASSIGN_OPTIONS = 11, 103, 111, 112, 113
_FLOAT32, _RESOURCE = 0, 13


def accumulator() -> bytes:
    """A float model (1,) -> (1,) that answers the sum of everything it was given.

    Its state is a resource variable, which a subgraph that is called once sets to 0.
    """
    builder = flatbuffers.Builder()
    zero = _table(builder, 1, {0: _bytes(builder, struct.pack("<f", 0))})
    buffers = _vector(builder, [_table(builder, 1, {}), zero])
    handle = _table(builder, 2, {0: builder.CreateString(""), 1: builder.CreateString("total")})
    main = _graph(
        builder,
        [("x", _FLOAT32, 0), ("handle", _RESOURCE, 0), ("before", _FLOAT32, 0), ("sum", _FLOAT32, 0)],
        [
            _operator(builder, 4, (), (), _ONCE_OPTIONS, _table(builder, 1, {}, {0: (1, "Int32")})),
            _operator(builder, 0, (), (1,), _VAR_HANDLE_OPTIONS, handle),
            _operator(builder, 1, (1,), (2,), _READ_OPTIONS, _table(builder, 0, {})),
            _operator(builder, 2, (0, 2), (3,), _ADD_OPTIONS, _table(builder, 2, {})),
            _operator(builder, 3, (1, 3), (), _ASSIGN_OPTIONS, _table(builder, 0, {})),
        ],
        (0,),
        (3,),
    )
    handle = _table(builder, 2, {0: builder.CreateString(""), 1: builder.CreateString("total")})
    first = _graph(
        builder,
        [("handle", _RESOURCE, 0), ("zero", _FLOAT32, 1)],
        [
            _operator(builder, 0, (), (0,), _VAR_HANDLE_OPTIONS, handle),
            _operator(builder, 3, (0, 1), (), _ASSIGN_OPTIONS, _table(builder, 0, {})),
        ],
        (),
        (),
    )
    codes = [_code(builder, code) for code in (_VAR_HANDLE, _READ, _ADD, _ASSIGN, _CALL_ONCE)]
    fields = {1: _vector(builder, codes), 2: _vector(builder, [main, first]), 4: buffers}
    builder.Finish(_table(builder, 8, fields, {0: (3, "Uint32")}), b"TFL3")
    return bytes(builder.Output())


def _graph(
    builder: flatbuffers.Builder,
    tensors: Sequence[tuple[str, int, int]],
    operators: Sequence[int],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> int:
    made = [_tensor(builder, *tensor) for tensor in tensors]
    fields = {0: _vector(builder, made), 1: _ints(builder, inputs), 2: _ints(builder, outputs)}
    return _table(builder, 5, fields | {3: _vector(builder, operators)})


def _code(builder: flatbuffers.Builder, code: int) -> int:
    return _table(builder, 4, {}, {0: (min(code, 127), "Int8"), 2: (1, "Int32"), 3: (code, "Int32")})


def _tensor(builder: flatbuffers.Builder, name: str, kind: int, buffer: int) -> int:
    fields = {0: _ints(builder, (1,)), 3: builder.CreateString(name)}
    return _table(builder, 8, fields, {1: (kind, "Int8"), 2: (buffer, "Uint32")})


def _operator(
    builder: flatbuffers.Builder, code: int, inputs: Sequence[int], outputs: Sequence[int], kind: int, options: int
) -> int:
    fields = {1: _ints(builder, inputs), 2: _ints(builder, outputs), 4: options}
    return _table(builder, 9, fields, {0: (code, "Uint32"), 3: (kind, "Uint8")})


def _table(
    builder: flatbuffers.Builder,
    slots: int,
    offsets: Mapping[int, int],
    numbers: Mapping[int, tuple[int, str]] | None = None,
) -> int:
    builder.StartObject(slots)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, (value, kind) in (numbers or {}).items():
        getattr(builder, f"Prepend{kind}Slot")(slot, value, 0)
    return int(builder.EndObject())


def _vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _ints(builder: flatbuffers.Builder, values: Sequence[int]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependInt32(value)
    return int(builder.EndVector())


def _bytes(builder: flatbuffers.Builder, data: bytes) -> int:
    return int(builder.CreateByteVector(data))
