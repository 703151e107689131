"""Frames become readings of finite numbers, or a reason is counted."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.sensors.faults import Agreement, Fault
from edge_runtime.sensors.values import CsvValues, JsonValues

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("frame", "values"),
    [
        (b"1,2,3", [1, 2, 3]),
        (b"1;2;3", [1, 2, 3]),
        (b"1\t2\t3", [1, 2, 3]),
        (b"  1  2   3 ", [1, 2, 3]),
        (b" -1.5 , +2e3,\t.5 ", [-1.5, 2000, 0.5]),
        (b"1,2,3,", [1, 2, 3]),
        (b"42", [42]),
    ],
)
def test_csv_separators(frame: bytes, values: list[float]) -> None:
    """Comma, semicolon, tab and spaces separate; one may end the line."""
    reading = CsvValues().decode(frame)
    assert reading is not None
    assert reading.dtype == np.float64
    assert reading.tolist() == values


@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        (b"1,,2", Fault.NOT_NUMBERS),
        (b",1", Fault.NOT_NUMBERS),
        (b",", Fault.NOT_NUMBERS),
        (b"   ", Fault.NOT_NUMBERS),
        (b"1,5;2,5", Fault.NOT_NUMBERS),
        (b"1_000", Fault.NOT_NUMBERS),
        (b"0x10", Fault.NOT_NUMBERS),
        (b"temp=21.5", Fault.NOT_NUMBERS),
        (b"1\x00", Fault.NOT_NUMBERS),
        (b"1,nan", Fault.NOT_FINITE),
        (b"-inf", Fault.NOT_FINITE),
        (b"1e999", Fault.NOT_FINITE),
        (b"\xff\xfe1", Fault.NOT_TEXT),
        ("\u0661".encode(), Fault.NOT_TEXT),
    ],
)
def test_csv_faults(frame: bytes, fault: Fault) -> None:
    """A line that is not all finite numbers is counted under its reason."""
    decoder = CsvValues()
    assert decoder.decode(frame) is None
    assert decoder.faults == {fault: 1}


@pytest.mark.parametrize(
    ("frame", "values"),
    [(b"5", [5]), (b"[1, 2.5]", [1, 2.5]), (b'{"t": 20, "h": 0.5}', [20, 0.5]), (b" [1]\t", [1])],
)
def test_json_shapes(frame: bytes, values: list[float]) -> None:
    """A number, an array and an object are readings."""
    reading = JsonValues().decode(frame)
    assert reading is not None
    assert reading.tolist() == values


@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        (b"{", Fault.NOT_JSON),
        (b"[" * 4000, Fault.NOT_JSON),
        (b"1" * 5000, Fault.NOT_JSON),
        (b"\xff", Fault.NOT_TEXT),
        (b"null", Fault.NOT_NUMBERS),
        (b"true", Fault.NOT_NUMBERS),
        (b'"1"', Fault.NOT_NUMBERS),
        (b"[]", Fault.NOT_NUMBERS),
        (b"{}", Fault.NOT_NUMBERS),
        (b"[[1]]", Fault.NOT_NUMBERS),
        (b'{"a": [1]}', Fault.NOT_NUMBERS),
        (b"NaN", Fault.NOT_FINITE),
        (b"[1, -Infinity]", Fault.NOT_FINITE),
        (b'{"a": 1e400}', Fault.NOT_FINITE),
        (b"1" + b"0" * 400, Fault.NOT_FINITE),
    ],
)
def test_json_faults(frame: bytes, fault: Fault) -> None:
    """A document that is no reading is counted under its reason."""
    decoder = JsonValues()
    assert decoder.decode(frame) is None
    assert decoder.faults == {fault: 1}


def test_json_objects_keep_the_key_order_of_the_first() -> None:
    """A sensor may send its keys in any order; the channels stay where the first frame put them."""
    decoder = JsonValues()
    assert decoder.decode(b'{"x": NaN, "y": 1}') is None  # a bad frame does not set the order
    readings = [decoder.decode(b'{"b": 1, "a": 2}'), decoder.decode(b'{"a": 4, "b": 3}')]
    assert [reading.tolist() for reading in readings if reading is not None] == [[1, 2], [3, 4]]
    assert decoder.decode(b'{"b": 1}') is None
    assert decoder.decode(b'{"a": 1, "b": 1, "c": 1}') is None
    assert decoder.faults == {Fault.NOT_FINITE: 1, Fault.KEYS: 2}
    decoder.reset()
    assert decoder.decode(b'{"c": 1}') is not None


def test_a_first_object_that_was_odd_is_outvoted() -> None:
    """Keys that come again and again replace those of a first frame that never comes again."""
    decoder = JsonValues()
    assert decoder.decode(b'{"hello": 1}') is not None
    readings = [decoder.decode(b'{"b": 1, "a": 2}') for _ in range(9)]
    assert readings[:7] == [None] * 7
    assert [reading.tolist() for reading in readings[7:] if reading is not None] == [[1, 2], [1, 2]]


def test_only_rivals_in_a_row_that_agree_outvote() -> None:
    """Noise that differs each time, or between good readings, never replaces what was agreed."""
    agreement: Agreement[int] = Agreement(patience=3)
    assert agreement.accepts(5)
    assert not any(agreement.accepts(value) for value in (1, 2, 1, 2, 1, 2))
    for _ in range(10):
        assert not agreement.accepts(7)
        assert not agreement.accepts(7)
        assert agreement.accepts(5)
    assert [agreement.accepts(7) for _ in range(3)] == [False, False, True]


@given(st.lists(FINITE, min_size=1, max_size=30), st.sampled_from([",", ";", "\t", " ", ", ", " ; "]))
def test_csv_numbers_come_back_exactly(values: list[float], separator: str) -> None:
    """The shortest decimal form of any float64 is read back to the same float64."""
    reading = CsvValues().decode(separator.join(map(repr, values)).encode())
    assert reading is not None
    assert reading.tolist() == values


@given(st.lists(FINITE, min_size=1, max_size=30))
def test_json_numbers_come_back_exactly(values: list[float]) -> None:
    """The same for JSON."""
    reading = JsonValues().decode(json.dumps(values).encode())
    assert reading is not None
    assert reading.tolist() == values


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_garbage_never_raises_and_is_counted(frames: list[bytes]) -> None:
    """Whatever comes, it is a reading of finite numbers or counted once."""
    for decoder in (CsvValues(), JsonValues()):
        readings = [decoder.decode(frame) for frame in frames]
        good = [reading for reading in readings if reading is not None]
        assert len(good) + decoder.faults.total() == len(frames)
        assert all(reading.ndim == 1 and len(reading) and all(map(math.isfinite, reading)) for reading in good)
