"""Numbers in CSV and JSON."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract.inputs import InputDeclaration
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference import preprocess
from edge_runtime.inference.inputs import document

NUMBER = st.floats(allow_nan=False, allow_infinity=False, width=32)
A, B = TensorSpec("a", "FP32", (1, 2)), TensorSpec("b", "INT32", (1, 3))


@given(
    st.lists(st.lists(NUMBER, min_size=2, max_size=2), min_size=1, max_size=20), st.sampled_from(",;\t "), st.booleans()
)
def test_tables_come_back(rows: list[list[float]], separator: str, header: bool) -> None:  # noqa: FBT001
    """Whatever separates the cells, with a header or without, with a byte order mark and DOS line ends."""
    lines = ["left" + separator + "right"] * header + [separator.join(map(repr, row)) for row in rows]
    found = document.csv_array(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    np.testing.assert_array_equal(found, rows)


def test_columns_are_chosen_by_name_in_the_models_order() -> None:
    """Times and remarks beside them need not be numbers."""
    table = b'time, "y", x,remark\n12:00,1,2,"a, b"\n12:01,3,4,\n'
    assert document.csv_array(table, ("x", "y")).tolist() == [[2, 1], [4, 3]]
    with pytest.raises(CallerError, match=r"no column 'z'; it has time, y, x, remark"):
        document.csv_array(table, ("z",))
    with pytest.raises(CallerError, match=r"line 3 .* 1 cells, but 'remark'"):
        document.csv_array(b"x,remark\n1,2\n3", ("x", "remark"))


def test_a_table_is_known_by_its_content() -> None:
    """`curl --data-binary @table.csv` calls it a form; JSON stays JSON, and words are no table."""
    for kind in ("", "application/x-www-form-urlencoded", "text/plain"):
        for text in (b"1,2\n", b"a;b\n1;2\n", b" 1 2", b"1\n2\n"):
            assert preprocess.to_tensor(text, kind, A, None).tolist() == [[1, 2]]
        for text in (b"hello, world\n", b"[1, 2", b"\0\0\0", b"7"):
            with pytest.raises(CallerError, match=r"neither a picture|1 values"):
                preprocess.to_tensor(text, kind, A, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"x,y\n1,two\n", "line 2 has 'two'"),
        (b"1,2\n3,four\n", "line 2 has 'four'"),
        (b"1,\n", "CSV|values"),
        (b"\xff\xfe1,2", "not UTF-8"),
        (b"a,b\n", "0 values"),
        (b"", "0 values"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused_with_the_line(text: bytes, message: str) -> None:
    """So that it can be found in a file of thousands."""
    with pytest.raises(CallerError, match=message):
        preprocess.to_tensor(text, "text/csv", A, None)


def test_several_inputs_are_sent_by_name() -> None:
    """One JSON object; the first is normalized as declared, the others are taken as they are."""
    body = json.dumps({"inputs": {"b": [1, 2, 3], "a": [[4, 5]]}}).encode()
    declared = InputDeclaration("tensor", std=(2.0,))
    (run,) = preprocess.prepare(body, "application/json", (A, B), declared).runs
    assert run["a"].tolist() == [[2.0, 2.5]]
    assert (run["b"].tolist(), run["b"].dtype) == ([[1, 2, 3]], np.int32)
    assert preprocess.to_tensor(b'{"inputs": {"a": [1, 2]}}', "", A, None).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[1, 2]", r'2 inputs \(a, b\): send JSON {"inputs": {"a"'),
        (b'{"inputs": {"a": [1, 2]}}', r"inputs must be \['a', 'b'\], but are \['a'\]"),
        (b'{"inputs": {"a": [1, 2], "b": [1]}}', "1 values"),
        (b'{"inputs": {"a": [1, 2], "b": ["x", 1, 2]}}', "input 'b': .*numbers only"),
        (b'{"inputs": [1]}', '"inputs" must be a JSON object'),
        (b'{"inputs": {}, "id": 1}', '"inputs" must be a JSON object'),
        (b'{"inputs": {', "nor JSON"),
        (b'{"inputs": ' + b" " * 100_000, "100011 bytes"),
    ],
)
def test_several_inputs_that_do_not_fit_are_refused(body: bytes, message: str) -> None:
    """With the name of the one that is wrong."""
    with pytest.raises(CallerError, match=message):
        preprocess.prepare(body, "", (A, B), None)


@given(st.binary(max_size=100), st.sampled_from(["text/csv", "application/json", "audio/wav", "image/webp", ""]))
def test_no_bytes_do_anything_but_work_or_be_refused(data: bytes, kind: str) -> None:
    """Of every kind of declaration."""
    for said in (None, InputDeclaration("audio"), InputDeclaration("series"), InputDeclaration("image")):
        for head in (b"", b'{"inputs"', b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WEBP", b"1,2\n"):
            try:
                preprocess.prepare(head + data, kind, (A,), said)
            except CallerError as error:
                assert error.code in (Code.INVALID_INPUT, Code.UNSUPPORTED_MEDIA, Code.TOO_LARGE)  # noqa: PT017
