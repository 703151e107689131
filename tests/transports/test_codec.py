"""The Open Inference Protocol in JSON and raw bytes, with tritonclient's own encoder and decoder as the peer."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from peers import require_library

from edge_runtime.contract.tensors import NUMPY_NAMES, Datatype, TensorSpec
from edge_runtime.errors import CallerError
from edge_runtime.inference.service import Inference
from edge_runtime.transports import codec
from edge_runtime.transports.codec import InferRequest
from edge_runtime.transports.raw import to_raw

SHAPES = npst.array_shapes(max_dims=4, max_side=4)
INT8 = TensorSpec("x", "INT8", (2,))
Array = np.ndarray[Any, Any]


@st.composite
def tensor(draw: st.DrawFn) -> tuple[Datatype, Array, bool]:
    """A datatype, an array of it, and whether it goes as raw bytes."""
    datatype: Datatype = draw(st.sampled_from(list(NUMPY_NAMES)))
    shape, raw = draw(SHAPES), draw(st.booleans())
    if datatype == "BYTES":
        elements = st.binary(max_size=9) if raw else st.text(max_size=9).map(str.encode)
        return datatype, draw(npst.arrays(object, shape, elements=elements, fill=st.nothing())), raw
    finite = npst.from_dtype(np.dtype(NUMPY_NAMES[datatype]), allow_nan=False, allow_infinity=False)
    return datatype, draw(npst.arrays(NUMPY_NAMES[datatype], shape, elements=finite)), raw


def same(found: Array, sent: Array) -> None:
    """Dtype, shape, and every value."""
    assert (found.dtype, found.shape) == (sent.dtype, sent.shape)
    assert found.tolist() == sent.tolist()


@given(cases=st.lists(tensor(), min_size=1, max_size=4), identity=st.text(max_size=5), by_default=st.booleans())
def test_tritonclient_s_requests_are_read_as_they_were_meant(
    *, cases: list[tuple[Datatype, Array, bool]], identity: str, by_default: bool
) -> None:
    """Mixed raw and JSON inputs, of every datatype and shape."""
    require_library("geventhttpclient", "tritonclient[http]")
    import tritonclient.http as triton  # noqa: PLC0415 - see above

    inputs = []
    for number, (datatype, array, raw) in enumerate(cases):
        entry = triton.InferInput(f"x{number}", list(array.shape), datatype)
        if raw or datatype == "FP16":  # which tritonclient does not offer to send as JSON
            entry.set_data_from_numpy(array, binary_data=True)
        else:
            entry.set_data_from_numpy(array, binary_data=False)
        inputs.append(entry)
    outputs = None if by_default else [triton.InferRequestedOutput("y", binary_data=False, class_count=3)]
    body, json_bytes = triton.InferenceServerClient.generate_request_body(
        inputs, outputs=outputs, request_id=identity, timeout=5
    )
    specs = [TensorSpec(f"x{n}", datatype, array.shape) for n, (datatype, array, _) in enumerate(cases)]
    request = codec.parse_infer(body, specs, json_bytes)
    for number, (_, array, _) in enumerate(cases):
        same(request.tensors[f"x{number}"], array)
    assert request.id == identity
    assert request.parameters["timeout"] == 5
    assert request.binary_by_default is by_default
    if not by_default:
        assert (request.outputs, request.binary, request.classes) == (("y",), {"y": False}, {"y": 3})


@given(st.lists(tensor(), min_size=1, max_size=4))
def test_tritonclient_reads_our_answers(cases: list[tuple[Datatype, Array, bool]]) -> None:
    """Outputs as raw bytes and as JSON, next to each other."""
    require_library("geventhttpclient", "tritonclient[http]")
    import tritonclient.http as triton  # noqa: PLC0415 - see above

    specs = tuple(TensorSpec(f"y{n}", datatype, array.shape) for n, (datatype, array, _) in enumerate(cases))
    arrays = {spec.name: array for spec, (_, array, _) in zip(specs, cases, strict=True)}
    wanted = {spec.name: raw for spec, (_, _, raw) in zip(specs, cases, strict=True)}
    request = InferRequest({}, "7", binary=wanted, binary_by_default=True)
    answer = codec.format_infer(Inference("m", "1.0.0", arrays, specs), request)
    assert (answer.json_bytes is None) is not any(wanted.values())
    result = triton.InferenceServerClient.parse_response_body(answer.body, header_length=answer.json_bytes)
    for spec in specs:
        found = result.as_numpy(spec.name)
        if spec.datatype == "BYTES" and not wanted[spec.name]:
            found = np.array([str(item).encode() for item in found.flat] or [], object).reshape(found.shape)
        same(found, arrays[spec.name])


@given(st.binary(max_size=60), st.integers(0, 80))
def test_whatever_comes_is_read_or_refused(body: bytes, json_bytes: int) -> None:
    """Never another error."""
    for specs in ([INT8], [TensorSpec("x", "BYTES", (-1,))], [INT8, INT8]):
        try:
            codec.parse_infer(body, specs, json_bytes)
        except CallerError:
            continue


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {"inputs": st.lists(st.fixed_dictionaries({"name": st.just("x"), "shape": JUNK, "datatype": st.just("INT8")}))},
        optional={"parameters": JUNK, "outputs": JUNK, "id": JUNK},
    ),
    st.dictionaries(st.sampled_from(["data", "parameters"]), JUNK | st.fixed_dictionaries({"binary_data_size": JUNK})),
)
def test_documents_of_nearly_the_right_form_are_read_or_refused(document: Any, more: dict[str, Any]) -> None:
    """Every member may be anything."""
    for entry in document["inputs"]:
        entry |= more  # noqa: PLW2901 - it is the document's
    try:
        codec.parse_document(document, [INT8], b"12")
    except CallerError:
        return


def request(**changes: Any) -> bytes:
    """A request for INT8, changed."""
    entry = {"name": "x", "shape": [2], "datatype": "INT8", "data": [1, 2]}
    entry |= {name: changes.pop(name) for name in tuple(changes) if name in ("shape", "data")}
    if "size" in changes:
        entry["parameters"] = {"binary_data_size": changes.pop("size")}
        del entry["data"]
    return json.dumps({"inputs": [entry], **changes}).encode()


@pytest.mark.parametrize(
    ("head", "rest", "message"),
    [
        (request(size=2), b"123", "1 more are in the body"),
        (request(size=3), b"123", "3 values"),
        (request(size=4), b"12", "at most the 2 bytes"),
        (request(size=-1), b"", "at most the 0 bytes"),
        (request(size=True), b"12", "at most the 2 bytes"),
        (request(size="2"), b"12", "at most the 2 bytes"),
        (request(parameters=[]), b"", "must be an object"),
        (request(parameters={"binary_data_output": 1}), b"", "must be true or false"),
        (request(outputs=[{"name": "y", "parameters": {"binary_data": "yes"}}]), b"", "must be true or false"),
        (request(outputs=[{"name": "y", "parameters": {"classification": 0.5}}]), b"", "whole number"),
        (request(outputs=[{"name": "y", "parameters": {"shared_memory_region": "r"}}]), b"", "not offered"),
        (request(outputs=[{"name": "y"}] * 2), b"", "once"),
        (b'{"inputs": [], "id": "\\ud800"', b"", "not JSON"),
    ],
)
def test_a_refusal_says_what_is_wrong(head: bytes, rest: bytes, message: str) -> None:
    """In the words of the protocol."""
    with pytest.raises(CallerError, match=message):
        codec.parse_infer(head + rest, [INT8], len(head))


def test_more_json_than_there_is_body() -> None:
    """The header lies."""
    with pytest.raises(CallerError, match="only 2"):
        codec.parse_infer(b"{}", [INT8], 3)


@pytest.mark.parametrize(
    ("datatype", "data", "good"),
    [
        ("UINT64", [2**64 - 1, 0], True),
        ("UINT64", [2**64, 0], False),
        ("INT64", [-(2**63), 2**63 - 1], True),
        ("INT64", [2**63, 0], False),
        ("UINT8", [256, 0], False),
        ("UINT8", [0.5, 0], False),
        ("FP16", [65504, 1], True),
        ("FP16", [70000, 1], False),
        ("FP32", [1e39, 1], False),
        ("FP32", [None, 1], False),
        ("BOOL", [True, False], True),
        ("BOOL", [1, 0], False),
        ("INT8", [True, False], False),
        ("BYTES", ["\ud800", ""], False),
        ("BYTES", ["a", 1], False),
    ],
)
def test_numbers_that_do_not_fit_are_refused_and_all_others_taken(
    datatype: Datatype, data: list[Any], *, good: bool
) -> None:
    """Nothing wraps around, nothing becomes infinite."""
    document = {"inputs": [{"name": "x", "shape": [2], "datatype": datatype, "data": data}]}
    specs = [TensorSpec("x", datatype, (2,))]
    if good:
        assert codec.parse_document(document, specs).tensors["x"].tolist() == data
    else:
        with pytest.raises(CallerError):
            codec.parse_document(document, specs)


def test_raw_bytes_share_the_body_s_memory() -> None:
    """What is large is not copied, neither in nor (more than once) out."""
    head = request(size=2)
    body = head + b"\x01\x02"
    values = codec.parse_infer(body, [INT8], len(head)).tensors["x"]
    assert not values.flags.owndata
    assert values.__array_interface__["data"][0] == np.frombuffer(body, np.uint8).__array_interface__["data"][0] + len(
        head
    )


def test_a_raw_request_finds_its_one_open_dimension() -> None:
    """And says so where there are two."""
    spec = TensorSpec("x", "FP32", (-1, 2))
    body = to_raw(np.arange(6, dtype=np.float32), "FP32")
    assert codec.parse_infer(body, [spec], 0).tensors["x"].shape == (3, 2)
    with pytest.raises(CallerError, match="say in JSON"):
        codec.parse_infer(body, [TensorSpec("x", "FP32", (-1, -1))], 0)
    with pytest.raises(CallerError, match="5 values"):
        codec.parse_infer(body[:20], [spec], 0)
    with pytest.raises(CallerError, match="one input"):
        codec.parse_infer(body, [spec, spec], 0)
