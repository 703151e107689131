"""A real daemon, asked over HTTP by tritonclient: JSON and raw bytes, packed and not, every datatype."""

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from boxes import RunningBox, running_box
from bundles import digits, make
from echo_models import echo_model
from peers import require_library

require_library("geventhttpclient", "tritonclient[http]")
require_library("aiohttp", "tritonclient[http]")

import tritonclient.http as triton  # noqa: E402 - see above
import tritonclient.http.aio as triton_aio  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

from edge_runtime.contract.tensors import NUMPY_NAMES, Datatype  # noqa: E402

PICTURE = np.random.default_rng(7).integers(-128, 128, (1, 8, 8, 1)).astype(np.int8)
LARGE = 40_000

VALUES: dict[Datatype, Any] = {
    **{name: np.array([[0, 1]], NUMPY_NAMES[name]) for name in NUMPY_NAMES if name != "BYTES"},
    "FP16": np.array([[-1.5, 65504]], np.float16),
    "INT64": np.array([[-(2**63), 2**63 - 1]]),
    "UINT64": np.array([[2**64 - 1, 0]], np.uint64),
    "FP32": np.array([[1e-45, -3.4e38]], np.float32),
    "BYTES": np.array([["Größe".encode(), b""]], object),
    "FP64": np.array([[1e300, -0.0]]),
}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBox]:
    """A daemon with the digits, a model with one input of each datatype, and two with one input."""
    with running_box(tmp_path_factory.mktemp("triton")) as running:
        assert running.push(digits())["state"] == "COMMITTED"
        models = {
            "every": echo_model({name: name for name in NUMPY_NAMES}, (1, 2)),
            "text": echo_model({"x": "BYTES"}, (1,)),
            "large": echo_model({"x": "FP32"}, (1, LARGE)),
        }
        for name, model in models.items():
            view = running.push(make({"model.tflite": model}, name=name, task="raw"))
            assert view["state"] == "COMMITTED", view
        yield running


@pytest.fixture
def client(box: RunningBox) -> Iterator[Any]:
    """A client of it."""
    with triton.InferenceServerClient(urlsplit(box.url).netloc) as connected:
        yield connected


def given(name: str, values: np.ndarray[Any, Any], datatype: str, *, binary: bool = True) -> Any:
    """An input as tritonclient sends it."""
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def picture(*, binary: bool = True) -> Any:
    """The input of the digits model."""
    return given("image", PICTURE, "INT8", binary=binary)


def test_health_metadata_and_extensions(client: Any) -> None:
    """What a client asks before it sends tensors."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1.0.0")
    assert not client.is_model_ready("nope")
    assert {"binary_tensor_data", "classification", "statistics"} <= set(client.get_server_metadata()["extensions"])
    assert client.get_model_metadata("digits", "1.0.0")["outputs"] == [
        {"name": "scores", "datatype": "INT8", "shape": [1, 10]}
    ]


@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_every_datatype_comes_back_as_it_was_sent(client: Any, *, binary: bool, packing: str | None) -> None:
    """Inputs and outputs as raw bytes, or as JSON; FP16 in JSON, too, though tritonclient does not offer to send it."""
    sent = [given(n, v, n, binary=binary or n == "FP16") for n, v in VALUES.items()]
    wanted = [triton.InferRequestedOutput(f"{name}_out", binary_data=binary) for name in VALUES]
    answer = client.infer(
        "every", sent, outputs=wanted, request_compression_algorithm=packing, response_compression_algorithm=packing
    )
    for name, values in VALUES.items():
        found = answer.as_numpy(f"{name}_out")
        assert (found.dtype, found.shape) == (values.dtype, values.shape), name
        if name == "BYTES" and not binary:  # JSON has text
            found = np.array([[text.encode() for text in found[0]]], object)
        assert found.tolist() == values.tolist(), name


def test_inputs_and_outputs_may_be_mixed(client: Any) -> None:
    """Some in the JSON, some behind it, in the order in which they are named."""
    names = list(VALUES)
    sent = [given(n, VALUES[n], n, binary=i % 2 == 0 or n == "FP16") for i, n in enumerate(names)]
    wanted = [triton.InferRequestedOutput(f"{n}_out", binary_data=i % 3 == 0) for i, n in enumerate(reversed(names))]
    answer = client.infer("every", sent, outputs=wanted, request_id="mixed")
    assert answer.get_response()["id"] == "mixed"
    for name, values in VALUES.items():
        if name != "BYTES":
            assert answer.as_numpy(f"{name}_out").tolist() == values.tolist()


def test_without_requested_outputs_all_are_binary(client: Any) -> None:
    """What tritonclient asks for by `binary_data_output`; the result is that of JSON."""
    answer = client.infer("digits", [picture()])
    assert "data" not in answer.get_output("scores")
    in_json = client.infer(
        "digits", [picture(binary=False)], outputs=[triton.InferRequestedOutput("scores", binary_data=False)]
    )
    assert "data" in in_json.get_output("scores")
    assert answer.as_numpy("scores").tolist() == in_json.as_numpy("scores").tolist()


@pytest.mark.parametrize("binary", [True, False])
def test_classes_instead_of_scores(client: Any, *, binary: bool) -> None:
    """The best three, named by the model's labels."""
    scores = client.infer("digits", [picture()]).as_numpy("scores")[0]
    wanted = triton.InferRequestedOutput("scores", binary_data=binary, class_count=3)
    classes = client.infer("digits", [picture()], outputs=[wanted]).as_numpy("scores")
    found = [item.decode() if isinstance(item, bytes) else item for item in classes[0]]
    order = np.argsort(-scores.astype(int), kind="stable")[:3]
    assert found == [f"{scores[i]}:{i}:{i}" for i in order]


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_a_large_answer_is_packed_for_who_asks(client: Any, box: RunningBox, packing: str) -> None:
    """Raw bytes, too; and whoever does not ask gets them as they are."""
    values = np.zeros((1, LARGE), np.float32)
    sent = [given("x", values, "FP32")]
    answer = client.infer("large", sent, request_compression_algorithm=packing, response_compression_algorithm=packing)
    assert answer.as_numpy("x_out").tolist() == values.tolist()
    body, json_bytes = triton.InferenceServerClient.generate_request_body(sent)
    headers = {"Inference-Header-Content-Length": str(json_bytes)}
    url = f"{box.url}/v2/models/large/infer"
    plain = box.http.request("POST", url, body=body, headers=headers)
    packed = box.http.request(
        "POST", url, body=body, headers=headers | {"Accept-Encoding": packing}, decode_content=False
    )
    assert packed.headers["Content-Encoding"] == packing
    assert packed.headers["Vary"] == plain.headers["Vary"] == "accept-encoding"
    assert "Content-Encoding" not in plain.headers
    assert len(packed.data) < len(plain.data) / 10
    assert plain.headers["Inference-Header-Content-Length"] == packed.headers["Inference-Header-Content-Length"]


def test_raw_bytes_alone_are_the_only_input(box: RunningBox) -> None:
    """Triton's raw binary request: no JSON at all; the answer is binary. A text is one element."""
    headers = {"Inference-Header-Content-Length": "0"}
    answer = box.http.request("POST", f"{box.url}/v2/models/digits/infer", body=PICTURE.tobytes(), headers=headers)
    length = int(answer.headers["Inference-Header-Content-Length"])
    result = triton.InferenceServerClient.parse_response_body(answer.data, header_length=length)
    assert result.as_numpy("scores").shape == (1, 10)
    answer = box.http.request("POST", f"{box.url}/v2/models/text/infer", body=b"one text", headers=headers)
    length = int(answer.headers["Inference-Header-Content-Length"])
    result = triton.InferenceServerClient.parse_response_body(answer.data, header_length=length)
    assert result.as_numpy("x_out").tolist() == [b"one text"]
    short = box.http.request("POST", f"{box.url}/v2/models/digits/infer", body=b"x", headers=headers)
    assert (short.status, "64" in short.json()["error"]) == (400, True)


def test_configuration_and_statistics(client: Any) -> None:
    """What its tools ask for."""
    config = client.get_model_config("digits")
    assert config["input"] == [{"name": "image", "data_type": "TYPE_INT8", "dims": [1, 8, 8, 1]}]
    assert client.get_model_config("every", "1.0.0")["input"][-1]["data_type"] == "TYPE_STRING"
    before = client.get_inference_statistics("digits")["model_stats"][0]["inference_stats"]["success"]
    client.infer("digits", [picture()])
    after = client.get_inference_statistics("digits", "1.0.0")["model_stats"][0]["inference_stats"]["success"]
    assert after["count"] == before["count"] + 1
    assert after["ns"] > before["ns"]
    everything = client.get_inference_statistics()["model_stats"]
    assert [stats["name"] for stats in everything] == ["digits", "every", "large", "text"]


def test_what_is_not_offered_is_said_so(client: Any) -> None:
    """Shared memory, trace and log settings."""
    for ask in (client.get_trace_settings, client.get_log_settings, client.get_system_shared_memory_status):
        with pytest.raises(InferenceServerException) as caught:
            ask()
        assert caught.value.status() == "404"
    tensor = picture()
    tensor.set_shared_memory("region", 64)
    with pytest.raises(InferenceServerException, match="shared memory is not offered"):
        client.infer("digits", [tensor])


def test_parameters_reach_the_call(client: Any) -> None:
    """`timeout` is in microseconds, and checked."""
    assert client.infer("digits", [picture()], timeout=10_000_000).as_numpy("scores").shape == (1, 10)
    with pytest.raises(InferenceServerException, match="timeout must be a whole number"):
        client.infer("digits", [picture()], timeout=-1)


def test_it_works_from_asyncio(box: RunningBox) -> None:
    """tritonclient.http.aio, many requests at once."""

    async def ask() -> list[list[int]]:
        async with triton_aio.InferenceServerClient(urlsplit(box.url).netloc) as client:
            assert await client.is_model_ready("digits")
            answers = await asyncio.gather(
                *[
                    client.infer(
                        "digits", [picture()], request_compression_algorithm=p, response_compression_algorithm=p
                    )
                    for p in (None, "gzip", "deflate") * 5
                ]
            )
            return [answer.as_numpy("scores").tolist() for answer in answers]

    scores = asyncio.run(ask())
    assert len(scores) == 15
    assert all(score == scores[0] for score in scores)
