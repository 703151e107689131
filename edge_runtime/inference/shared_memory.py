"""Tensors in memory that a worker process shares: a nameless file of fixed size (memfd), sealed by who made it.

No name means that nothing is left behind whoever dies and how. The seals (fcntl(2), "File Sealing") are what makes it
safe to read what the other side maps, too: memory that could be cut off under a reader would end it with SIGBUS.
"""

import fcntl
import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 64
_FIXED_SIZE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
STRINGS = np.dtype(object).str
_LENGTH = struct.Struct("<I")


class Placed(NamedTuple):
    """A tensor as it lies in a region: numpy's code of its dtype ("|O" for strings), its shape, its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int

    @staticmethod
    def read(plain: Any) -> "Placed":
        """From JSON; raises ValueError or TypeError where it is none: the other side is not trusted."""
        name, dtype, shape, size = plain
        for number in (size, *shape):
            if type(number) is not int or number < 0:
                raise ValueError(f"a tensor has a size of {number!r}")
        return Placed(str(name), str(dtype), tuple(shape), size)


class Region:
    """Memory of both processes. Whoever makes it reserves all of it at once and hands its descriptor on."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        self._memory = mmap.mmap(descriptor, size)

    @staticmethod
    def make(size: int) -> "Region":
        """New memory of `size` bytes. Raises OSError where the box has not as much."""
        descriptor = os.memfd_create("tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(descriptor, 0, size)  # what cannot be had is told now, and not by SIGBUS later
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _FIXED_SIZE)
            return Region(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise

    def close_descriptor(self) -> None:
        """The mapping stays; no new one can be made from here."""
        os.close(self.descriptor)
        self.descriptor = -1

    def write(self, tensors: Sequence[tuple[Placed, NDArray[Any]]]) -> None:
        """Lay the tensors down one after the other; `needed` says how much room that takes."""
        for (placed, value), start in zip(tensors, _starts(p for p, _ in tensors), strict=True):
            if placed.dtype == STRINGS:
                self._memory[start : start + placed.size] = _packed(value)
            elif placed.size:
                target = np.frombuffer(self._memory, value.dtype, value.size, start)
                target.reshape(value.shape)[...] = value

    def read(self, placed: Sequence[Placed]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Names and views of the tensors (strings are copied); the dtypes must be ones that numpy may make of bytes.

        Raises:
            ValueError: they are not where they are said to be.
        """
        for tensor, start in zip(placed, _starts(placed), strict=True):
            if start + tensor.size > self.size:
                raise ValueError(f"tensor {tensor.name!r} lies outside of the shared memory")
            count = math.prod(tensor.shape)
            if tensor.dtype == STRINGS:
                yield tensor.name, _unpacked(self._memory[start : start + tensor.size], count).reshape(tensor.shape)
                continue
            dtype = np.dtype(tensor.dtype)
            if count * dtype.itemsize != tensor.size:
                raise ValueError(f"tensor {tensor.name!r} has {tensor.size} bytes, not {count * dtype.itemsize}")
            flat = np.frombuffer(self._memory, dtype, count, start) if count else np.empty(0, dtype)
            yield tensor.name, flat.reshape(tensor.shape)


def place(tensors: Mapping[str, NDArray[Any]]) -> list[tuple[Placed, NDArray[Any]]]:
    """How each tensor will lie in a region."""
    return [(Placed(name, value.dtype.str, value.shape, _size(value)), value) for name, value in tensors.items()]


def needed(placed: Iterable[Placed]) -> int:
    """Bytes that these tensors take in a region."""
    return sum(_aligned(tensor.size) for tensor in placed)


def _starts(placed: Iterable[Placed]) -> Iterator[int]:
    start = 0
    for tensor in placed:
        yield start
        start += _aligned(tensor.size)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _size(value: NDArray[Any]) -> int:
    if not value.dtype.hasobject:
        return value.nbytes
    return sum(_LENGTH.size + len(_as_bytes(text)) for text in value.flat)


def _as_bytes(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()


def _packed(value: NDArray[Any]) -> bytes:
    """Strings one after the other, each with its length before it."""
    return b"".join(_LENGTH.pack(len(data)) + data for data in map(_as_bytes, value.flat))


def _unpacked(data: bytes, count: int) -> NDArray[Any]:
    texts: list[bytes] = []
    at = 0
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise ValueError("strings end in the middle of a length")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + length
        if at > len(data):
            raise ValueError("a string is longer than its memory")
        texts.append(data[at - length : at])
    if len(texts) != count:
        raise ValueError(f"there are {len(texts)} strings, not {count}")
    strings = np.empty(count, dtype=object)
    strings[:] = texts
    return strings
