"""Tensors in shared memory: what is written is read, and the other side can neither cut it off nor make us misread."""

import fcntl
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edge_runtime.inference.shared_memory import Placed, Region, needed, place

DTYPES = st.sampled_from(["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"])
NUMBERS = DTYPES.flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


def as_objects(texts: list[bytes]) -> NDArray[Any]:
    """An array of strings as an engine gives them."""
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


STRINGS = st.lists(st.binary(max_size=300), max_size=5).map(as_objects)


def fits(region: Region, plain: list[Any]) -> dict[str, NDArray[Any]]:
    """What is read from descriptions that came from the other side."""
    return dict(region.read([Placed.read(one) for one in plain]))


@given(st.dictionaries(st.text(max_size=5), NUMBERS | STRINGS, max_size=4))
def test_what_is_written_is_read(tensors: dict[str, NDArray[Any]]) -> None:
    """Every dtype, no dimension, empty ones, strings; in exactly the room that was asked for."""
    placed = place(tensors)
    region = Region.make(max(1, needed(one for one, _ in placed)))
    region.write(placed)
    found = fits(region, [list(one) for one, _ in placed])
    region.close_descriptor()
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@given(
    st.text(max_size=3),
    st.sampled_from(["|O", "<f4", "|i1"]),
    st.lists(st.integers(-1, 2**40), max_size=3),
    st.integers(-1, 10_000),
)
def test_a_wrong_description_is_an_error(name: str, dtype: str, shape: list[int], size: int) -> None:
    """Never memory that is not ours, never another exception."""
    region = Region.make(4096)
    region.close_descriptor()
    try:
        (value,) = fits(region, [[name, dtype, shape, size]]).values()
    except ValueError:
        return
    assert value.nbytes <= 4096 or dtype == "|O"


@pytest.mark.parametrize(
    "plain", [[], ["a"], ["a", "<f4", 3, 4], ["a", "<f4", ["x"], 4], ["a", "<f4", [True], 4], None]
)
def test_what_is_no_description_is_refused(plain: Any) -> None:
    """The same two exceptions for whatever JSON may hold."""
    with pytest.raises((TypeError, ValueError)):
        Placed.read(plain)


def test_the_memory_can_neither_shrink_nor_grow() -> None:
    """Cut off under the daemon, it would end it with SIGBUS; nothing unseals it."""
    region = Region.make(8192)
    for size in (0, 4096, 16384):
        with pytest.raises(PermissionError):
            os.ftruncate(region.descriptor, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(region.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    region.close_descriptor()


def test_two_mappings_are_one_memory() -> None:
    """What one side writes, the other reads; no name of it is anywhere."""
    region = Region.make(4096)
    other = mmap.mmap(region.descriptor, 4096)
    assert "/memfd:tensors" in str(Path(f"/proc/self/fd/{region.descriptor}").readlink())
    region.close_descriptor()
    region.write(place({"x": np.arange(8, dtype=np.int32)}))
    np.testing.assert_array_equal(np.frombuffer(other, np.int32, 8), np.arange(8))
