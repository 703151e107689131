"""Tensors as raw bytes, little-endian and row by row: the binary tensor data of HTTP, the raw contents of gRPC."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.tensors import NUMPY_NAMES, Datatype, TensorSpec
from edge_runtime.errors import CallerError

_LENGTH = struct.Struct("<I")
_ON_WIRE = {datatype: np.dtype(name).newbyteorder("<") for datatype, name in NUMPY_NAMES.items() if datatype != "BYTES"}


def from_raw(data: bytes | memoryview, spec: TensorSpec) -> NDArray[Any]:
    """A flat array of the datatype in `spec`; all but BOOL and BYTES share the memory of `data` (and its writability).

    Raises:
        CallerError: the bytes do not end where an element does.
    """
    if spec.datatype == "BYTES":
        return objects(_split(data, spec.name))
    dtype = _ON_WIRE[spec.datatype]
    if len(data) % dtype.itemsize:
        raise CallerError(
            f"input {spec.name!r} has {len(data)} raw bytes, but each {spec.datatype} takes {dtype.itemsize}"
        )
    if spec.datatype == "BOOL":  # a byte of 2 must not become a bool that is neither true nor false
        return np.frombuffer(data, np.uint8).astype(bool)
    values = np.frombuffer(data, dtype)
    return values if dtype.isnative else values.astype(NUMPY_NAMES[spec.datatype])


def to_raw(values: NDArray[Any], datatype: Datatype) -> bytes:
    """Raw bytes of an array of any shape."""
    if datatype != "BYTES" and values.dtype == _ON_WIRE[datatype]:  # the common case
        return values.tobytes()
    return bytes(to_buffer(values, datatype))


def to_buffer(values: NDArray[Any], datatype: Datatype) -> bytes | memoryview:
    """Raw bytes of an array of any shape; all but BYTES share its memory where it is laid out that way."""
    if datatype == "BYTES":
        items = [as_bytes(item) for item in values.reshape(-1)]
        return b"".join(part for item in items for part in (_LENGTH.pack(len(item)), item))
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def _split(data: bytes | memoryview, name: str) -> list[bytes]:
    items: list[bytes] = []
    at = 0
    while at < len(data):
        start = at + _LENGTH.size
        if start > len(data):
            raise CallerError(f"the raw bytes of input {name!r} end within the length of element {len(items)}")
        at = start + _LENGTH.unpack_from(data, at)[0]
        if at > len(data):
            raise CallerError(f"the raw bytes of input {name!r} end within element {len(items)}")
        items.append(bytes(data[start:at]))
    return items


def objects(items: list[bytes]) -> NDArray[Any]:
    """A flat array of Python objects, as BYTES are held."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def as_bytes(item: Any) -> bytes:
    """One element of a BYTES tensor."""
    return item if isinstance(item, bytes) else str(item).encode()
