"""Answers of real models to real inputs, beside what the models' authors say of them."""

import asyncio
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from peers import require_library, require_shared
from PIL import Image, ImageOps

from edge_runtime.config import EngineConfig
from edge_runtime.contract.manifest import InputDeclaration, Manifest, OutputDeclaration
from edge_runtime.contract.outputs import BoxDeclaration, Task
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.deploy import probe_child
from edge_runtime.errors import ContentError
from edge_runtime.events import EventBus
from edge_runtime.inference import engine as engines
from edge_runtime.inference import preprocess
from edge_runtime.inference.call import Call
from edge_runtime.inference.description import Description
from edge_runtime.inference.loader import Loader
from edge_runtime.inference.postprocess import Question, read_answer
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.service import Answer, InferenceService, Sample

SSD = "vision/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite"
MOBILENET = "vision/mobilenet_v1_0.25_224_quant.tflite"


def ask(model: str, data: str, **declared: Any) -> dict[str, Any]:
    """The answer to a file, by the way that a pushed model goes: described and checked by the probe, then asked."""
    path = require_shared(f"models/{model}")
    content = require_shared(f"data/{data}").read_bytes()
    manifest = Manifest("m", "1.0.0", {}, **declared)
    session = engines.choose("auto").open(path, "builtin", 1)
    outputs, _ = probe_child._smoke(session)
    description = probe_child.describe(manifest, session, outputs, path, None)
    probe_child._check_declarations(description, manifest, outputs)
    tensors = {session.inputs[0].name: preprocess.to_tensor(content, "", session.inputs[0], description.input)}
    output = description.output or manifest.output
    return read_answer(session.run(tensors), description, output, Question(tensors))


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        ("cat.bmp", [("cat", 0.72)]),
        ("pets.jpg", [("dog", 0.82), ("dog", 0.74)]),
        ("grace_hopper.bmp", [("person", 0.71)]),
    ],
)
def test_objects_of_a_detector(picture: str, expected: list[tuple[str, float]]) -> None:
    """SSD MobileNet with TFLite_Detection_PostProcess, its labels from the metadata."""
    found = ask(SSD, f"images/{picture}", output=OutputDeclaration(threshold=0.7))
    assert [(o["label"], pytest.approx(o["score"], abs=0.03)) for o in found["objects"]] == expected
    for entry in found["objects"]:
        box = entry["box"]
        assert 0 <= box["ymin"] < box["ymax"] <= 1
        assert 0 <= box["xmin"] < box["xmax"] <= 1


def test_a_detector_may_be_asked_for_fewer_objects() -> None:
    """And suppression may be asked for on top of the model's own."""
    told = OutputDeclaration(boxes=BoxDeclaration(max_objects=1))
    assert len(ask(SSD, "images/pets.jpg", output=told)["objects"]) == 1
    told = OutputDeclaration(threshold=0.5, boxes=BoxDeclaration(nms="agnostic", iou_threshold=0.0))
    assert [o["label"] for o in ask(SSD, "images/grace_hopper.bmp", output=told)["objects"]] == ["person"]


def test_boxes_of_a_cropped_picture_are_those_of_the_whole() -> None:
    """A wide picture of which the model sees the middle: the person is where the caller sees her."""
    path = require_shared(f"models/{SSD}")
    with Image.open(require_shared("data/images/grace_hopper.bmp")) as picture:
        wide = ImageOps.expand(picture.convert("RGB"), (picture.width, 0, picture.width, 0))
    wide = wide.resize((900, 300))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    pictures = InputDeclaration("image", resize="crop", full_range=True)
    manifest = Manifest("m", "1.0.0", {}, input=pictures, output=OutputDeclaration(threshold=0.6))
    session = engines.choose("auto").open(path, "builtin", 1)
    description = probe_child.describe(manifest, session, probe_child._smoke(session)[0], path, None)
    registry = Registry()
    registry.swap(Loader(EngineConfig(instances=1)).load(manifest, replace(description, kernels="builtin"), path))

    async def ask_service() -> Answer:
        service = InferenceService(registry, EventBus(), EngineConfig())
        try:
            return await service.predict("m", Sample(buffer.getvalue(), "image/png"), call=Call("http", raw=True))
        finally:
            service.close()
            registry.close()

    told = asyncio.run(ask_service())
    box = next(entry["box"] for entry in told.result["objects"] if entry["label"] == "person")
    assert box["xmin"] == pytest.approx(1 / 3, abs=0.02)
    assert box["xmax"] == pytest.approx(2 / 3, abs=0.02)
    assert {entry["shape"][0] for entry in told.result["outputs"].values()} == {1}


@pytest.mark.parametrize(
    ("task", "output", "key"),
    [
        ("classification", {"top_k": 1}, "classes"),
        ("multilabel", {"threshold": 0.4}, "classes"),
        ("embedding", {"normalize": True}, "vector"),
        ("raw", {}, "outputs"),
    ],
)
def test_one_model_under_several_tasks(task: Task, output: dict[str, Any], key: str) -> None:
    """A classifier's scores are labels that apply, an embedding, or tensors, if so declared."""
    found = ask(MOBILENET, "images/cat.bmp", task=task, output=OutputDeclaration(**output))
    assert found["task"] == task
    if key == "classes":
        assert [(c["label"], pytest.approx(c["score"], abs=0.03)) for c in found[key]] == [("Egyptian cat", 0.449)]
    elif key == "vector":
        assert np.linalg.norm(found[key]) == pytest.approx(1, abs=1e-4)
    else:
        assert all("values" not in told for told in found[key].values())


@pytest.mark.parametrize(("picture", "share"), [("grace_hopper.bmp", 0.895), ("cat.bmp", 0.047)])
def test_a_person_or_none(picture: str, share: float) -> None:
    """Visual wake words as a multilabel answer: the person's score alone."""
    pixels = InputDeclaration("image", std=(255.0,))
    told = OutputDeclaration(threshold=0.0)
    found = ask("mlperf_tiny/vww_96_float.tflite", f"images/{picture}", task="multilabel", input=pixels, output=told)
    scores = {entry["index"]: entry["score"] for entry in found["classes"]}
    assert scores[1] == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(("gesture", "index", "score"), [("ring", 1, 0.801), ("slope", 2, 0.954)])
def test_a_gesture(gesture: str, index: int, score: float) -> None:
    """Magic wand: acceleration in, a gesture out."""
    found = ask("sensor/magic_wand_float.tflite", f"sensor/sensor_magic_wand_{gesture}.npy")
    assert (found["index"], pytest.approx(found["score"], abs=0.01)) == (index, score)


@pytest.mark.parametrize("digit", [0, 4, 8])
def test_a_digit(digit: int) -> None:
    """MNIST LSTM: a small grey picture in, a digit out."""
    pixels = InputDeclaration("image", std=(255.0,))
    assert ask("micro/mnist_lstm_float.tflite", f"mnist/sample{digit}.png", input=pixels)["index"] == digit


def test_a_sine_in_its_own_unit() -> None:
    """hello_world: regression, scaled and named by the declaration."""
    path = require_shared("models/micro/hello_world_float.tflite")
    session = engines.choose("auto").open(path, "builtin", 1)
    told = OutputDeclaration(unit="%", scale=(100.0,), names=("sine",))
    manifest = Manifest("m", "1.0.0", {}, task="regression", output=told)
    description = probe_child.describe(manifest, session, probe_child._smoke(session)[0], path, None)
    for angle in (0.0, 1.0, 4.0):
        outputs = session.run({session.inputs[0].name: np.float32([[angle]])})
        found = read_answer(outputs, description, told)
        assert found["values"]["sine"] == pytest.approx(100 * np.sin(angle), abs=4)


@pytest.mark.parametrize(
    ("task", "output", "message"),
    [
        ("detection", OutputDeclaration(), "holds no boxes"),
        ("segmentation", OutputDeclaration(), "is no mask"),
        ("keypoints", OutputDeclaration(), "set output.points.layout"),
        ("anomaly", OutputDeclaration(threshold=1.0), "as many values as the input"),
        ("classification", OutputDeclaration(tensor="nope"), "no output 'nope'"),
    ],
)
def test_the_probe_refuses_what_does_not_fit(task: Task, output: OutputDeclaration, message: str) -> None:
    """A classifier is none of these: the box says so before it commits, and names the key that would help."""
    with pytest.raises(ContentError, match=message):
        ask(MOBILENET, "images/cat.bmp", task=task, output=output)


@pytest.mark.parametrize("picture", ["grace_hopper.bmp", "cat.bmp"])
def test_a_face_among_thousands_of_boxes(picture: str) -> None:
    """UltraFace in ONNX Runtime: 4,420 boxes with scores of background and face, of which one is left, or none."""
    require_library("onnxruntime", "onnxruntime")
    import onnxruntime  # noqa: PLC0415 - see the line before

    model = require_shared("models/convert/ultraface_rfb320.onnx")
    content = require_shared(f"data/images/{picture}").read_bytes()
    seen = TensorSpec("input", "FP32", (1, 240, 320, 3))
    pixels = preprocess.to_tensor(content, "", seen, InputDeclaration("image", mean=(127.0,), std=(128.0,)))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {session.get_inputs()[0].name: pixels.transpose(0, 3, 1, 2)})
    specs = tuple(TensorSpec(name, "FP32", value.shape) for name, value in zip(names, values, strict=True))
    description = Description("e", "1", "fast", "detection", (seen,), specs, labels=("background", "face"))
    told = OutputDeclaration(threshold=0.7, boxes=BoxDeclaration(format="xyxy", background=0, iou_threshold=0.3))
    found = read_answer(dict(zip(names, values, strict=True)), description, told)
    if picture == "cat.bmp":
        assert found["objects"] == []
        return
    (face,) = found["objects"]
    assert (face["label"], face["score"]) == ("face", pytest.approx(1.0, abs=0.001))
    box = face["box"]
    assert [box[key] for key in ("xmin", "ymin", "xmax", "ymax")] == pytest.approx(
        [0.339, 0.202, 0.700, 0.555], abs=0.01
    )
