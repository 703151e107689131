"""Reads FlatBuffers without generated code: a table's fields by their numbers in the schema.

Source: the FlatBuffers binary format ("FlatBuffer internals"). Everything raises ValueError, IndexError, struct.error
or TypeError where the bytes do not hold what they claim.
"""

import struct
from typing import Any

import flatbuffers.number_types as number
from flatbuffers.table import Table

_MAX_NUMBERS = 16


def root(data: bytes) -> Table:
    """The root table of a buffer."""
    (offset,) = struct.unpack_from("<I", data, 0)
    return Table(data, offset)


def _field(table: Table, index: int) -> int:
    """Absolute position of a field, or 0 if it is absent (FlatBuffers: the vtable starts with two uint16)."""
    offset = table.Offset(4 + 2 * index)
    return int(table.Pos + offset) if offset else 0


def scalar(table: Table, index: int, kind: Any) -> int:
    """A whole number, 0 where the field is absent (the default of all fields that are read here)."""
    position = _field(table, index)
    return int(table.Get(kind, position)) if position else 0


def table(parent: Table, index: int) -> Table | None:
    """A table, None where the field is absent."""
    position = _field(parent, index)
    return Table(parent.Bytes, parent.Indirect(position)) if position else None


def tables(parent: Table, index: int) -> list[Table]:
    """A vector of tables, empty where the field is absent."""
    start, length = _vector(parent, index)
    # Each element takes four bytes: a length that the file cannot hold is a lie.
    if length * 4 > len(parent.Bytes):
        raise ValueError("a vector is longer than the file")
    return [Table(parent.Bytes, parent.Indirect(start + 4 * i)) for i in range(length)]


def _vector(table: Table, index: int) -> tuple[int, int]:
    position = _field(table, index)
    if not position:
        return 0, 0
    offset = position - table.Pos
    return int(table.Vector(offset)), int(table.VectorLen(offset))


def octets(parent: Table, index: int) -> bytes:
    """A string or a vector of bytes, empty where the field is absent."""
    start, length = _vector(parent, index)
    return bytes(parent.Bytes[start : start + length])


def floats(parent: Table, index: int) -> tuple[float, ...]:
    """The first numbers of a vector of floats, empty where the field is absent."""
    start, length = _vector(parent, index)
    return tuple(struct.unpack_from(f"<{min(length, _MAX_NUMBERS)}f", parent.Bytes, start))


def whole_numbers(parent: Table, index: int) -> tuple[int, ...]:
    """The first numbers of a vector of uint32, empty where the field is absent."""
    start, length = _vector(parent, index)
    return tuple(struct.unpack_from(f"<{min(length, _MAX_NUMBERS)}I", parent.Bytes, start))


def real(parent: Table, index: int) -> float:
    """A float32, 0.0 where the field is absent."""
    position = _field(parent, index)
    return float(parent.Get(number.Float32Flags, position)) if position else 0.0
