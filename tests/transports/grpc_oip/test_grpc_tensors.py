"""Tensors over gRPC: typed or raw, there and back; what is not as the protocol says is refused with a reason."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from peers import require_library

require_library("grpc.aio", "edge-runtime[grpc]")


from edge_runtime.contract.tensors import NUMPY_NAMES, Datatype, TensorSpec  # noqa: E402
from edge_runtime.errors import CallerError  # noqa: E402
from edge_runtime.inference.service import Inference  # noqa: E402
from edge_runtime.transports.codec import InferRequest  # noqa: E402
from edge_runtime.transports.grpc import tensors  # noqa: E402
from edge_runtime.transports.grpc.calls import decoded  # noqa: E402
from edge_runtime.transports.grpc.messages import InferTensorContents, ModelInferRequest  # noqa: E402
from edge_runtime.transports.raw import from_raw, to_raw  # noqa: E402

FP32 = TensorSpec("x", "FP32", (2,))
ANY_SHAPE = npst.array_shapes(max_dims=4, max_side=4)


@st.composite
def tensor(draw: st.DrawFn, *, typed: bool) -> tuple[Datatype, np.ndarray[Any, Any]]:
    """A datatype and an array of it; `typed`: one that has a contents field."""
    datatype = draw(st.sampled_from([d for d in NUMPY_NAMES if not typed or d in tensors.CONTENT_FIELDS]))
    shape = draw(ANY_SHAPE)
    if datatype != "BYTES":
        return datatype, draw(npst.arrays(NUMPY_NAMES[datatype], shape))
    return datatype, draw(npst.arrays(object, shape, elements=st.binary(max_size=9), fill=st.nothing()))


def request_for(array: np.ndarray[Any, Any], datatype: Datatype, *, raw: bool) -> ModelInferRequest:
    """A request with this array as the input `x`."""
    request = ModelInferRequest(model_name="m", id="7")
    entry = request.inputs.add(name="x", datatype=datatype, shape=array.shape)
    if raw:
        request.raw_input_contents.append(to_raw(array, datatype))
    else:
        entry.contents.CopyFrom(tensors.to_contents(array, datatype))
    return ModelInferRequest.FromString(request.SerializeToString())


def refusal(request: ModelInferRequest, *specs: TensorSpec) -> str:
    """Why it is refused."""
    with pytest.raises(CallerError) as caught:
        tensors.parse_infer(request, specs or (FP32,))
    return str(caught.value)


@given(tensor(typed=True))
def test_typed_contents_come_back_as_they_were(case: tuple[Datatype, np.ndarray[Any, Any]]) -> None:
    """Every datatype with a field: same dtype, shape and values (NaN included)."""
    datatype, array = case
    parsed = tensors.parse_infer(request_for(array, datatype, raw=False), [TensorSpec("x", datatype, array.shape)])
    assert parsed.id == "7"
    assert parsed.tensors["x"].dtype == array.dtype
    np.testing.assert_array_equal(parsed.tensors["x"], array)


@given(tensor(typed=False))
def test_raw_contents_come_back_as_they_were(case: tuple[Datatype, np.ndarray[Any, Any]]) -> None:
    """Every datatype: same dtype, shape and values."""
    datatype, array = case
    parsed = tensors.parse_infer(request_for(array, datatype, raw=True), [TensorSpec("x", datatype, array.shape)])
    assert parsed.tensors["x"].dtype == array.dtype
    np.testing.assert_array_equal(parsed.tensors["x"], array)


@given(tensor(typed=False), st.booleans())
def test_answers_are_in_the_form_of_the_request(case: tuple[Datatype, np.ndarray[Any, Any]], raw: bool) -> None:  # noqa: FBT001
    """Raw for raw, typed for typed, but raw where a datatype has no field."""
    datatype, array = case
    spec = TensorSpec("y", datatype, array.shape)
    inference = Inference("m", "1", {"y": array}, (spec,))
    answer = tensors.format_infer(inference, InferRequest({}, "7"), raw=raw)
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "1", "7")
    (output,) = answer.outputs
    assert (output.name, output.datatype, tuple(output.shape)) == ("y", datatype, array.shape)
    as_raw = raw or datatype == "FP16"
    assert (len(answer.raw_output_contents), output.HasField("contents")) == (as_raw, not as_raw)
    flat = from_raw(answer.raw_output_contents[0], spec) if as_raw else tensors.from_contents(output.contents, spec)
    np.testing.assert_array_equal(flat.reshape(array.shape), array)


@given(st.binary(max_size=64), st.sampled_from(list(NUMPY_NAMES)))
def test_any_raw_bytes_are_an_array_or_refused(data: bytes, datatype: Datatype) -> None:
    """Nothing but CallerError comes out, and what is accepted is what was sent."""
    try:
        array = from_raw(data, TensorSpec("x", datatype, (-1,)))
    except CallerError:
        return
    assert array.dtype == np.dtype(NUMPY_NAMES[datatype])
    if datatype != "BOOL":  # any byte but 0 is true
        assert to_raw(array, datatype) == data


@given(st.binary(max_size=200))
@example(b"\x0a\x01\x80")  # a name that is no UTF-8
def test_any_message_is_a_request_or_refused(data: bytes) -> None:
    """Whatever protobuf lets through, the parser raises nothing but CallerError."""
    try:
        request = decoded(b"\x2a\x0b\x0a\x01x\x12\x04FP32\x1a\x00" + data, ModelInferRequest)
        tensors.parse_infer(request, [FP32])
    except CallerError:
        return


@pytest.mark.parametrize("datatype", ["BYTES", "INT8", "FP32"])
def test_raw_bytes_that_end_too_early_are_refused(datatype: Datatype) -> None:
    """Within a length, within an element, within a number."""
    spec = TensorSpec("x", datatype, (-1,))
    for data in (b"\x01\x00\x00", b"\x02\x00\x00\x00a", b"\xff\xff\xff\xff"):
        if datatype == "BYTES":
            with pytest.raises(CallerError, match="end within"):
                from_raw(data, spec)
    if datatype == "FP32":
        with pytest.raises(CallerError, match="takes 4"):
            from_raw(b"\x00" * 5, spec)


def test_a_number_that_the_datatype_cannot_hold_is_refused() -> None:
    """The fields of small integers are wider than they are."""
    request = ModelInferRequest()
    entry = request.inputs.add(name="x", datatype="INT8", shape=[2])
    entry.contents.int_contents.extend([0, 128])
    assert "-128 to 127" in refusal(request, TensorSpec("x", "INT8", (2,)))


def test_contents_in_the_wrong_field_are_refused() -> None:
    """The message names both fields."""
    request = ModelInferRequest()
    request.inputs.add(name="x", datatype="FP32", shape=[2], contents=InferTensorContents(fp64_contents=[1, 2]))
    assert "use fp32_contents, not fp64_contents" in refusal(request)


def test_fp16_can_only_be_raw() -> None:
    """The protocol has no field for it."""
    request = ModelInferRequest()
    request.inputs.add(name="x", datatype="FP16", shape=[1], contents=InferTensorContents(fp32_contents=[1]))
    assert "raw_input_contents" in refusal(request, TensorSpec("x", "FP16", (1,)))


def test_raw_and_typed_contents_together_are_refused() -> None:
    """One of them would have to be ignored."""
    request = request_for(np.zeros(2, np.float32), "FP32", raw=False)
    request.raw_input_contents.append(bytes(8))
    assert "send one" in refusal(request)


def test_raw_contents_must_be_one_for_each_input() -> None:
    """Else nobody knows whose they are."""
    request = request_for(np.zeros(2, np.float32), "FP32", raw=True)
    request.raw_input_contents.append(bytes(8))
    assert "2 entries for 1 inputs" in refusal(request)


@pytest.mark.parametrize("shape", [[0, 2**62], [-1, -2], [2**62, 2**62], [3]])
def test_impossible_shapes_are_refused(shape: list[int]) -> None:
    """Empty, negative, huge, or not those of the values."""
    request = request_for(np.zeros(2, np.float32), "FP32", raw=True)
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend(shape)
    assert "shape" in refusal(request)


def test_more_dimensions_than_numpy_has_are_refused() -> None:
    """Though the number of values is right."""
    request = request_for(np.zeros([1] * 32, np.float32), "FP32", raw=True)
    assert tensors.parse_infer(request, [FP32]).tensors["x"].ndim == 32
    request.inputs[0].shape.extend([1] * 40)
    assert "up to 32 numbers" in refusal(request)


def test_an_unknown_or_repeated_input_or_output_is_named() -> None:
    """With what the model has instead."""
    request = request_for(np.zeros(2, np.float32), "FP32", raw=False)
    assert "no input 'x'; it has y" in refusal(request, TensorSpec("y", "FP32", (2,)))
    assert "must have the datatype INT8" in refusal(request, TensorSpec("x", "INT8", (2,)))
    request.inputs.append(request.inputs[0])
    assert "given twice" in refusal(request)
    inference = Inference("m", "1", {"x": np.zeros(2, np.float32)}, (FP32,))
    with pytest.raises(CallerError, match="no output 'z'; it has x"):
        tensors.format_infer(inference, InferRequest({}, "", ("z",)), raw=True)
