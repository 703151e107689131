"""Delegates: a real library that a compiler made here, those that are not there, and LiteRT's own accelerators."""

import importlib.util
import io
from pathlib import Path
from typing import Any

import delegates as test_delegate
import numpy as np
import pytest
from bundles import digits_content
from peers import absent, require_shared

from edge_runtime.config import EngineConfig
from edge_runtime.errors import Code, ContentError, DeviceError
from edge_runtime.inference import delegates
from edge_runtime.inference import engine as engines
from edge_runtime.inference.engine import Delegate, Engine
from edge_runtime.inference.isolated import IsolatedEngine

ENGINE = engines.choose()
PICTURE = {"image": np.zeros((1, 8, 8, 1), dtype=np.int8)}
VULKAN = Path("/usr/lib/chromium/vk_swiftshader_icd.json")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The example's int8 model as a file."""
    path = tmp_path / "digits.tflite"
    path.write_bytes(digits_content()["model.tflite"])
    return path


@pytest.fixture(params=["in this process", "in a worker process"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """A delegate works the same in both."""
    return ENGINE if request.param == "in this process" else IsolatedEngine(ENGINE, EngineConfig())


def using(engine: Engine, **options: str) -> Engine:
    """The engine with the test's delegate."""
    return engine.with_delegate(Delegate(test_delegate.built(), options))


def test_a_delegate_that_takes_nothing_changes_nothing_and_says_so(engine: Engine, model: Path) -> None:
    """The golden vectors come out bit by bit; whoever looks is told that the CPU does it all."""
    session = using(engine).open(model, "builtin", 1)
    golden = np.load(io.BytesIO(digits_content()["golden.npz"]))
    for given, expected in zip(golden["input/image"], golden["output/scores"], strict=True):
        np.testing.assert_array_equal(session.run({"image": given})["scores"], expected)
    name, _, rest = session.runs_on.partition(" ")
    assert name == "libtestdelegate.so"
    assert rest.startswith("(0 of ")
    assert rest.endswith("it runs on the cpu)")


@pytest.mark.parametrize("kernels", ["fast", "builtin"])
def test_what_a_delegate_took_is_counted(model: Path, kernels: Any) -> None:
    """Some nodes, or all of them; what XNNPACK takes of the rest is not the delegate's."""
    nodes = len(ENGINE.open(model, "builtin", 1).operators)  # type: ignore[attr-defined]
    assert ENGINE.open(model, kernels, 1).runs_on == "cpu"
    for asked, taken in ((1, 1), (3, 3), (1000, nodes)):
        session = using(ENGINE, take=str(asked)).open(model, kernels, 1)
        assert session.runs_on == f"libtestdelegate.so ({taken} of {nodes} nodes)"


def test_the_share_of_several_parts_is_counted_once() -> None:
    """Two parts that a node of the CPU separates; between their outermost tensors everything is theirs."""

    def op(index: int, name: str, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
        return {"index": index, "op_name": name, "inputs": inputs, "outputs": outputs}

    own = [op(i, "CONV_2D", [i, 100 + i], [i + 1]) for i in range(6)]
    parts = [op(6, "DELEGATE", [0, 100, 101], [2]), op(7, "DELEGATE", [3, 103, 104, 105], [6, 5])]
    assert delegates.share(own) == (0, 6)
    assert delegates.share(own + parts) == (5, 6)
    assert delegates.share([]) == (0, 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("libedgetpu-absent.so.1", r"libedgetpu-absent\.so\.1 cannot be loaded: .*No such file.* install its library"),
        ("/etc/passwd", "cannot be loaded: .*invalid ELF header"),
        ("libc.so.6", r"libc\.so\.6 is no TFLite delegate: it has no tflite_plugin_create_delegate"),
    ],
)
def test_what_is_no_delegate_is_refused_with_a_reason(engine: Engine, model: Path, name: str, message: str) -> None:
    """Before the engine touches it: a half-made delegate is freed by calling what it does not have."""
    with pytest.raises(DeviceError, match=message):
        engine.with_delegate(Delegate(name)).open(model, "builtin", 1)


def test_a_delegate_that_finds_no_hardware_says_what_it_says(engine: Engine, model: Path) -> None:
    """Its own words, in one line."""
    with pytest.raises(DeviceError, match=r"libtestdelegate\.so refuses to start: no stick found; is it plugged in\?"):
        using(engine, fail="no stick found;\n is it plugged in?").open(model, "builtin", 1)


def test_a_delegate_that_crashes_in_a_worker_costs_one_answer_each_time(model: Path) -> None:
    """Real native code that crashes in the middle of an inference."""
    isolated = IsolatedEngine(ENGINE, EngineConfig(isolated_max_crashes=3))
    session = using(isolated, take="1000", crash="invoke").open(model, "builtin", 1)
    for _ in range(3):
        with pytest.raises(ContentError, match="crashed with SIGSEGV while it ran") as told:
            session.run(PICTURE)
        assert told.value.code is Code.INTERNAL
    with pytest.raises(ContentError, match="keeps crashing"):
        session.run(PICTURE)


def test_a_delegate_that_crashes_at_load_takes_its_worker_only(model: Path) -> None:
    """And the load fails with the signal's name."""
    with pytest.raises(ContentError, match="crashed with SIGSEGV while it was loaded"):
        using(IsolatedEngine(ENGINE, EngineConfig()), crash="create").open(model, "builtin", 1)


@pytest.mark.parametrize("accelerator", ["gpu", "npu"])
def test_an_accelerator_that_is_not_there_is_told(
    model: Path, accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiteRT says that it has none; the older engine never has one."""
    monkeypatch.setenv("VK_ICD_FILENAMES", "/dev/null")
    with pytest.raises(DeviceError, match=f"{accelerator}"):
        IsolatedEngine(ENGINE, EngineConfig()).with_delegate(Delegate(accelerator)).open(model, "builtin", 1)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """LiteRT's GPU accelerator on a Vulkan that a CPU plays: real in all but speed."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        pytest.skip("accelerators are LiteRT's")
    if not VULKAN.exists():
        absent("there is no SwiftShader (apt-get install chromium-common)")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(VULKAN.parent))
    monkeypatch.setenv("VK_ICD_FILENAMES", str(VULKAN))
    return IsolatedEngine(ENGINE, EngineConfig()).with_delegate(Delegate("gpu"))


def test_a_model_runs_on_the_gpu(gpu: Engine) -> None:
    """All of it, any batch, and the values are those of the CPU within what a GPU's arithmetic allows."""
    path = require_shared("models/micro/hello_world_float.tflite")
    session, reference = gpu.open(path, "builtin", 1), ENGINE.open(path, "builtin", 1)
    assert session.runs_on == "gpu"
    assert (session.inputs, session.outputs) == (reference.inputs, reference.outputs)
    (x,), (y,) = session.inputs, session.outputs
    for size in (1, 5, 1):
        values = {x.name: np.linspace(0, 6, size, dtype=np.float32).reshape(size, 1)}
        found = session.run(values)[y.name]
        np.testing.assert_allclose(found, reference.run(values)[y.name], atol=0.02)


def test_a_model_that_the_gpu_takes_in_part_says_so(gpu: Engine) -> None:
    """The rest is done by the CPU."""
    path = require_shared("models/vision/mobilenet_v1_0.25_224_float.tflite")
    session, reference = gpu.open(path, "builtin", 1), ENGINE.open(path, "builtin", 1)
    assert session.runs_on == "gpu (partly, the rest on the cpu)"
    (x,), (y,) = session.inputs, session.outputs
    values = {x.name: np.random.default_rng(0).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)}
    np.testing.assert_allclose(session.run(values)[y.name], reference.run(values)[y.name], atol=0.01)


def test_a_model_that_remembers_is_not_for_an_accelerator(gpu: Engine) -> None:
    """Nothing could make it forget what the caller before said."""
    with pytest.raises(ContentError, match="keeps state between calls"):
        gpu.open(require_shared("models/micro/mnist_lstm_float.tflite"), "builtin", 1)
