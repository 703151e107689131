"""The engine that is installed here. The same tests run under LiteRT and under tflite-runtime (make test)."""

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from bundles import digits_content
from peers import require_shared

from edge_runtime.config import EngineConfig
from edge_runtime.contract.manifest import InputDeclaration
from edge_runtime.contract.quantization import dequantize
from edge_runtime.errors import ContentError, DeviceError
from edge_runtime.inference import engine as engines
from edge_runtime.inference.engine import Engine, Kernels, Session
from edge_runtime.inference.isolated import IsolatedEngine
from edge_runtime.inference.preprocess import to_tensor

ENGINE = engines.choose()
BOTH: tuple[Kernels, ...] = ("fast", "builtin")


@pytest.fixture(params=["in this process", "in a worker process"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Where a model runs makes no difference to whoever asks it."""
    return ENGINE if request.param == "in this process" else IsolatedEngine(ENGINE, EngineConfig())


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """The example's int8 model as a file."""
    path = tmp_path / "digits.tflite"
    path.write_bytes(digits_content()["model.tflite"])
    return path


def test_the_installed_engine_is_named_with_its_version() -> None:
    """`auto` takes the best engine that is here."""
    assert ENGINE.name == engines.available()[0]
    assert ENGINE.version[0].isdigit()


def test_an_engine_that_is_not_installed_is_refused_with_the_command_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody must guess the package's name."""
    monkeypatch.setattr(engines, "available", lambda: ())
    for name in ("auto", "litert"):
        with pytest.raises(DeviceError, match="pip install"):
            engines.choose(name)


@pytest.mark.parametrize("kernels", BOTH)
def test_specs_carry_names_types_shapes_and_quantization(engine: Engine, digits: Path, kernels: Kernels) -> None:
    """The signature's names, not the tensors'."""
    session = engine.open(digits, kernels, 1)
    (image,), (scores,) = session.inputs, session.outputs
    assert (image.name, image.datatype, image.shape[1:]) == ("image", "INT8", (8, 8, 1))
    assert (scores.name, scores.datatype, scores.shape[1:]) == ("scores", "INT8", (10,))
    assert image.quantized
    assert (scores.scale, scores.zero_point) == (1 / 256, -128)


def test_builtin_kernels_reproduce_the_golden_vectors_bit_by_bit(engine: Engine, digits: Path) -> None:
    """Golden vectors are taken with LiteRT's built-in kernels: either engine must give the same bytes."""
    session = engine.open(digits, "builtin", 1)
    golden = np.load(io.BytesIO(digits_content()["golden.npz"]))
    for given, expected in zip(golden["input/image"], golden["output/scores"], strict=True):
        np.testing.assert_array_equal(session.run({"image": given})["scores"], expected)


def test_fast_kernels_agree_with_the_golden_vectors_in_the_best_class(engine: Engine, digits: Path) -> None:
    """XNNPACK rounds otherwise; the answer must be the same."""
    session = engine.open(digits, "fast", 1)
    golden = np.load(io.BytesIO(digits_content()["golden.npz"]))
    for given, expected in zip(golden["input/image"], golden["output/scores"], strict=True):
        assert session.run({"image": given})["scores"].argmax() == expected.argmax()


def test_outputs_belong_to_the_caller(engine: Engine, digits: Path) -> None:
    """A later call must not change an earlier answer."""
    session = engine.open(digits, "fast", 1)
    golden = np.load(io.BytesIO(digits_content()["golden.npz"]))["input/image"]
    first = session.run({"image": golden[0]})["scores"]
    kept = first.copy()
    session.run({"image": golden[-1]})
    np.testing.assert_array_equal(first, kept)


def test_sessions_run_at_the_same_time_in_threads(engine: Engine, digits: Path) -> None:
    """Two sessions of one file in two threads give what one gives."""
    golden = np.load(io.BytesIO(digits_content()["golden.npz"]))["input/image"]

    def answers(session: Session) -> list[bytes]:
        return [session.run({"image": picture})["scores"].tobytes() for picture in golden] * 20

    expected, found = answers(engine.open(digits, "builtin", 1)), dict[int, list[bytes]]()
    sessions = [engine.open(digits, "builtin", 1) for _ in range(2)]
    threads = [threading.Thread(target=lambda i=i: found.update({i: answers(sessions[i])})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: expected, 1: expected}


def test_a_recurrent_model_remembers_nothing_of_the_request_before(engine: Engine) -> None:
    """What one caller asked must not change another's answer."""
    session = engine.open(require_shared("models/micro/mnist_lstm_float.tflite"), "fast", 1)
    (image,), (digit,) = session.inputs, session.outputs
    pictures = [require_shared(f"data/mnist/sample{i}.png").read_bytes() for i in (9, 7, 9)]
    declared = InputDeclaration("image", std=(255.0,))
    tensors = [to_tensor(picture, "", image, declared) for picture in pictures]
    first, _, again = (session.run({image.name: tensor})[digit.name] for tensor in tensors)
    np.testing.assert_array_equal(first, again)
    assert first.argmax() == 9


def test_an_open_batch_dimension_takes_any_batch(engine: Engine) -> None:
    """Larger, smaller and larger again: each answer as if asked one by one."""
    session = engine.open(require_shared("models/micro/hello_world_float.tflite"), "fast", 1)
    (x,), (y,) = session.inputs, session.outputs
    assert x.shape == (-1, 1)
    for size in (1, 7, 2, 30):
        values = np.linspace(0, 6, size, dtype=np.float32).reshape(size, 1)
        np.testing.assert_allclose(session.run({x.name: values})[y.name], np.sin(values), atol=0.25)


@pytest.mark.parametrize("content", [b"", b"TFL3", bytes(8), b"\x1c\0\0\0TFL3", bytes(1000)])
def test_what_is_no_model_is_refused_with_a_reason(engine: Engine, tmp_path: Path, content: bytes) -> None:
    """Never a crash, never another exception."""
    path = tmp_path / "broken.tflite"
    path.write_bytes(content)
    with pytest.raises(ContentError, match="refuses the model"):
        engine.open(path, "fast", 1)


@pytest.mark.parametrize(
    ("model", "picture", "index", "score"),
    [
        ("mobilenet_v1_1.0_224_quant", "grace_hopper.bmp", 653, 0.902),
        ("mobilenet_v1_1.0_224_quant", "cat.bmp", 286, 0.824),
        ("mobilenet_v1_1.0_224_quant", "parrot.jpg", 89, 0.996),
        ("mobilenet_v1_0.25_224_quant", "cat.bmp", 286, 0.449),
        ("mobilenet_v1_0.25_224_float", "cat.bmp", 286, 0.486),
        ("mobilenet_v1_0.25_224_float", "parrot.jpg", 89, 0.940),
    ],
)
def test_known_models_give_their_known_scores(
    engine: Engine, model: str, picture: str, index: int, score: float
) -> None:
    """Pre-processing and built-in kernels together give the published answer, on either engine."""
    session = engine.open(require_shared(f"models/vision/{model}.tflite"), "builtin", 1)
    declared = InputDeclaration("image", full_range=True)
    if model.endswith("float"):
        declared = InputDeclaration("image", mean=(127.5,), std=(127.5,))
    data = require_shared(f"data/images/{picture}").read_bytes()
    (spec,), (output,) = session.inputs, session.outputs
    scores = dequantize(session.run({spec.name: to_tensor(data, "", spec, declared)})[output.name], output)[0]
    assert scores.argmax() == index
    assert scores[index] == pytest.approx(score, abs=0.006)
