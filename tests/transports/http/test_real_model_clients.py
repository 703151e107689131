"""One picture, one real model, every tensor protocol over HTTP: they agree on what is in it."""

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from boxes import RunningBox, as_json, running_box
from bundles import make
from peers import require_library, require_shared

pytest.importorskip("PIL")

from PIL import Image

UNIFORM = 653  # "military uniform", after the background


@pytest.fixture(scope="module")
def picture() -> np.ndarray[Any, Any]:
    """A portrait in uniform, as the model takes it."""
    with Image.open(require_shared("data/images/grace_hopper.bmp")) as image:
        resized = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8)[np.newaxis]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBox]:
    """A daemon with MobileNet, which names its classes."""
    model = require_shared("models/vision/mobilenet_v1_1.0_224_quant.tflite").read_bytes()
    labels = "\n".join("military uniform" if i == UNIFORM else f"class {i}" for i in range(1001))
    bundle = make({"model.tflite": model, "labels.txt": labels.encode()}, name="mobilenet", task="classification")
    with running_box(tmp_path_factory.mktemp("mobilenet"), "engine.tune_seconds=0.05") as running:
        assert running.push(bundle)["state"] == "COMMITTED"
        yield running


def names(box: RunningBox) -> tuple[str, str]:
    """Of the input and the output."""
    metadata = box.get("/v2/models/mobilenet")
    return metadata["inputs"][0]["name"], metadata["outputs"][0]["name"]


def test_tritonclient_sends_the_pixels_and_gets_the_class(box: RunningBox, picture: np.ndarray[Any, Any]) -> None:
    """Raw bytes, packed on both ways, and the classification extension."""
    require_library("geventhttpclient", "tritonclient[http]")
    import tritonclient.http as triton  # noqa: PLC0415 - see above

    name, output = names(box)
    with triton.InferenceServerClient(urlsplit(box.url).netloc) as client:
        tensor = triton.InferInput(name, list(picture.shape), "UINT8")
        tensor.set_data_from_numpy(picture)
        wanted = [triton.InferRequestedOutput(output, class_count=1)]
        for packing in (None, "gzip"):
            answer = client.infer("mobilenet", [tensor], outputs=wanted, request_compression_algorithm=packing)
            value, index, label = answer.as_numpy(output).reshape(-1)[0].decode().split(":")
            assert (int(index), label) == (UNIFORM, "military uniform")
            assert int(value) > 200


def test_tensorflow_serving_s_request_gets_the_same_scores(box: RunningBox, picture: np.ndarray[Any, Any]) -> None:
    """150,528 numbers in JSON, twice, as a batch of two."""
    name, output = names(box)
    batch = [picture[0].tolist()] * 2
    status, answer = box.post("/v1/models/mobilenet:predict", as_json({"instances": batch}))
    assert status == 200, answer
    assert [int(np.argmax(scores)) for scores in answer["predictions"]] == [UNIFORM] * 2
    entry = {"name": name, "shape": list(picture.shape), "datatype": "UINT8", "data": picture.reshape(-1).tolist()}
    _, other = box.post("/v2/models/mobilenet/infer", as_json({"inputs": [entry], "outputs": [{"name": output}]}))
    assert other["outputs"][0]["data"] == answer["predictions"][0]


def test_base64_is_for_texts_only(box: RunningBox, picture: np.ndarray[Any, Any]) -> None:
    """A numeric input cannot be sent so, and the caller is told."""
    encoded = {"b64": base64.b64encode(picture.tobytes()).decode()}
    status, answer = box.post("/v1/models/mobilenet:predict", as_json({"instances": [encoded]}))
    assert (status, "does not fit UINT8" in answer["error"]) == (400, True)
