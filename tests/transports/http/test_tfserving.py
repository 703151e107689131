"""What clients of TensorFlow Serving send and expect, in the shape of its documentation's examples."""

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from boxes import RunningBox, as_json, running_box
from bundles import digits, make
from echo_models import echo_model
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edge_runtime.contract.tensors import NUMPY_NAMES, Datatype, TensorSpec
from edge_runtime.errors import CallerError
from edge_runtime.inference.service import Inference
from edge_runtime.transports import tensorflow_serving
from edge_runtime.transports.codec import decode_json, encode_json


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBox]:
    """A daemon with models that answer what they are given: a number, two inputs, a text; and the digits."""
    with running_box(tmp_path_factory.mktemp("tfserving")) as running:
        models = {
            "scalar": echo_model({"x": "FP32"}, (1,)),
            "pair": echo_model({"tag": "BYTES", "signal": "FP32"}, (1, 3)),
            "picture": echo_model({"image_bytes": "BYTES"}, (1,)),
        }
        for name, model in models.items():
            view = running.push(make({"model.tflite": model}, name=name, version="2.1.0", task="raw"))
            assert view["state"] == "COMMITTED", view
        assert running.push(digits())["state"] == "COMMITTED"
        yield running


def predict(box: RunningBox, model: str, document: object) -> tuple[int, Any]:
    """Ask."""
    return box.post(f"/v1/models/{model}:predict", as_json(document))


def test_a_model_s_status(box: RunningBox) -> None:
    """By its name, its version, and the whole number that TF Serving's clients use."""
    status = box.get("/v1/models/scalar")
    (version,) = status["model_version_status"]
    assert version == {
        "version": "2.1.0",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    assert box.get("/v1/models/scalar/versions/2.1.0") == box.get("/v1/models/scalar/versions/2") == status
    for path in ("nope", "scalar/versions/1", "scalar/versions/2.1", "scalar/labels/stable"):
        assert box.http.request("GET", f"{box.url}/v1/models/{path}", retries=False).status == 404


def test_a_model_s_metadata(box: RunningBox) -> None:
    """The signature definition, as protobuf's JSON has it."""
    metadata = box.get("/v1/models/digits/versions/1/metadata")
    assert metadata["model_spec"] == {"name": "digits", "signature_name": "", "version": "1.0.0"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["image"]["dtype"] == "DT_INT8"
    assert [dim["size"] for dim in signature["inputs"]["image"]["tensor_shape"]["dim"]] == ["1", "8", "8", "1"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert box.get("/v1/models/digits/metadata") == metadata


def test_rows_of_a_model_with_one_input(box: RunningBox) -> None:
    """The first example of the documentation: {"instances": [1.0, 2.0, 5.0]}; the name may be given, too."""
    assert predict(box, "scalar", {"instances": [1.0, 2.0, 5.0]}) == (200, {"predictions": [1.0, 2.0, 5.0]})
    named = {"signature_name": "serving_default", "instances": [{"x": 1.0}, {"x": 2.5}]}
    assert predict(box, "scalar", named) == (200, {"predictions": [1.0, 2.5]})
    assert predict(box, "scalar/versions/2", {"instances": [4]}) == (200, {"predictions": [4.0]})


def test_columns_of_a_model_with_one_input(box: RunningBox) -> None:
    """Named or not."""
    for inputs in ([1.5, 2.0], {"x": [1.5, 2.0]}):
        assert predict(box, "scalar", {"inputs": inputs}) == (200, {"outputs": [1.5, 2.0]})


def test_several_inputs_in_rows_and_columns(box: RunningBox) -> None:
    """Lists of objects, or an object of lists; outputs are named likewise."""
    rows = [
        {"tag": ["foo", "a", "b"], "signal": [1, 2, 3]},
        {"tag": ["bar", "c", {"b64": "AP8="}], "signal": [4, 5, 6]},
    ]
    status, answer = predict(box, "pair", {"instances": rows})
    assert status == 200, answer
    assert answer == {"predictions": [{f"{k}_out": v for k, v in row.items()} for row in rows]}
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    status, answer = predict(box, "pair", {"inputs": columns})
    assert (status, answer) == (200, {"outputs": {f"{name}_out": value for name, value in columns.items()}})


def test_bytes_are_base64(box: RunningBox) -> None:
    """As pictures are sent."""
    encoded = base64.b64encode(b"\xff\xd8\xff").decode()
    document = {"instances": [{"b64": encoded}, {"b64": ""}]}
    assert predict(box, "picture", document) == (200, {"predictions": [{"b64": encoded}, ""]})
    document = {"instances": [{"image_bytes": {"b64": encoded}}]}
    assert predict(box, "picture", document) == (200, {"predictions": [{"b64": encoded}]})


def test_an_output_that_is_called_bytes_comes_in_base64() -> None:
    """Even where it is text: its name says what its readers expect."""
    texts = np.array([b"text"], object)
    for name, written in (("picture_bytes", {"b64": "dGV4dA=="}), ("picture", "text")):
        inference = Inference("m", "1", {name: texts}, (TensorSpec(name, "BYTES", (1,)),))
        request = tensorflow_serving.PredictRequest({"x": texts}, "rows")
        assert tensorflow_serving.format_predict(inference, request) == {"predictions": [written]}


def test_a_quantized_model_takes_and_gives_what_it_stores(box: RunningBox) -> None:
    """Integers, as its metadata say, and the same as over /v2."""
    values = np.random.default_rng(1).integers(-128, 128, (3, 8, 8, 1)).astype(np.int8)
    status, answer = predict(box, "digits", {"instances": values.tolist()})
    assert status == 200, answer
    entry = {"name": "image", "shape": list(values.shape), "datatype": "INT8", "data": values.tolist()}
    _, other = box.post("/v2/models/digits/infer", as_json({"inputs": [entry]}))
    assert np.ravel(answer["predictions"]).tolist() == other["outputs"][0]["data"]


@pytest.mark.parametrize(
    ("model", "document", "status", "message"),
    [
        ("scalar", {}, 400, "instances"),
        ("scalar", {"instances": [1], "inputs": [1]}, 400, "instances"),
        ("scalar", {"instances": []}, 400, "one entry for each"),
        ("scalar", {"instances": [[1]]}, 400, "must have the shape"),
        ("scalar", {"instances": ["a"]}, 400, "does not fit FP32"),
        ("scalar", {"instances": [{"y": 1}]}, 400, "inputs x"),
        ("scalar", {"instances": [1], "signature_name": "other"}, 400, "signature"),
        ("pair", {"instances": [1]}, 400, "must name them"),
        ("pair", {"inputs": {"tag": ["a"]}}, 400, "must be"),
        ("pair", {"inputs": {"tag": ["a"], "signal": [[1, 2, 3]]}}, 400, "shape"),
        ("picture", {"instances": [{"b64": "?"}]}, 400, "cannot be read"),
        ("picture", {"instances": [{"b64": 1}]}, 400, "b64"),
        ("picture", {"instances": [["a"]]}, 400, "b64"),
        ("nope", {"instances": [1]}, 404, "not on this box"),
    ],
)
def test_wrong_requests_are_told_why(box: RunningBox, model: str, document: object, status: int, message: str) -> None:
    """400 and 404, with the reason."""
    found, answer = predict(box, model, document)
    assert (found, message in answer["error"]) == (status, True), answer


def test_other_verbs_and_methods(box: RunningBox) -> None:
    """Classify and regress need a signature that no model here has."""
    assert box.post("/v1/models/scalar:classify", b"{}")[0] == 400
    assert box.post("/v1/models/scalar:nope", b"{}")[0] == 404
    answer = box.http.request("GET", f"{box.url}/v1/models/scalar:predict", retries=False)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    answer = box.http.request("POST", f"{box.url}/v1/models/scalar/metadata", retries=False)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@st.composite
def column(draw: st.DrawFn) -> tuple[Datatype, np.ndarray[Any, Any]]:
    """A datatype and three samples of it."""
    datatype: Datatype = draw(st.sampled_from(list(NUMPY_NAMES)))
    shape = (3, *draw(npst.array_shapes(min_dims=0, max_dims=3, max_side=3)))
    if datatype == "BYTES":
        return datatype, draw(npst.arrays(object, shape, elements=st.binary(max_size=5), fill=st.nothing()))
    finite = npst.from_dtype(np.dtype(NUMPY_NAMES[datatype]), allow_nan=False, allow_infinity=False)
    return datatype, draw(npst.arrays(NUMPY_NAMES[datatype], shape, elements=finite))


@given(st.lists(column(), min_size=1, max_size=3), st.sampled_from(["rows", "columns"]))
def test_what_is_written_is_read_again(columns: list[tuple[Datatype, np.ndarray[Any, Any]]], form: Any) -> None:
    """Predictions become instances, outputs become inputs, in every datatype and shape."""
    specs = tuple(TensorSpec(f"x{n}", datatype, array.shape) for n, (datatype, array) in enumerate(columns))
    tensors = {spec.name: array for spec, (_, array) in zip(specs, columns, strict=True)}
    request = tensorflow_serving.PredictRequest(tensors, form)
    answer = tensorflow_serving.format_predict(Inference("m", "1", tensors, specs), request)
    written = {"instances": answer["predictions"]} if form == "rows" else {"inputs": answer["outputs"]}
    again = tensorflow_serving.parse_predict(decode_json(encode_json(written)), specs)
    assert again.form == form
    for name, array in tensors.items():
        assert (again.tensors[name].dtype, again.tensors[name].shape) == (array.dtype, array.shape)
        assert again.tensors[name].tolist() == array.tolist()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y", "b64", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(JSON, st.sampled_from(["instances", "inputs"]), st.sampled_from(["FP32", "INT8", "BYTES"]))
def test_whatever_comes_is_read_or_refused(value: object, form: str, datatype: Datatype) -> None:
    """Never another error."""
    for specs in ([TensorSpec("x", datatype, (1, 2))], [TensorSpec("x", datatype, ()), TensorSpec("y", "INT64", (1,))]):
        try:
            tensorflow_serving.parse_predict({form: value}, specs)
        except CallerError:
            continue
