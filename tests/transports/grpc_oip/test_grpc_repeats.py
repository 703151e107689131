"""What is not read again means what it would if it were."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from peers import require_library

require_library("hpack", "edge-runtime[grpc]")

from edge_runtime.config import EngineConfig  # noqa: E402 - needs the extra, as all below
from edge_runtime.contract.manifest import Manifest  # noqa: E402
from edge_runtime.contract.tensors import TensorSpec  # noqa: E402
from edge_runtime.errors import EdgeError  # noqa: E402
from edge_runtime.events import EventBus  # noqa: E402
from edge_runtime.inference.admission import Admission  # noqa: E402
from edge_runtime.inference.description import Description  # noqa: E402
from edge_runtime.inference.pool import Pool  # noqa: E402
from edge_runtime.inference.registry import Registry, ServedVersion  # noqa: E402
from edge_runtime.inference.service import InferenceService  # noqa: E402
from edge_runtime.transports.grpc.calls import SERVICE, Calls  # noqa: E402
from edge_runtime.transports.grpc.messages import ModelInferRequest, ModelInferResponse  # noqa: E402
from edge_runtime.transports.grpc.rpc import Context  # noqa: E402
from edge_runtime.transports.repository import ServedModels  # noqa: E402

X = TensorSpec("x", "INT16", (-1, 2))


class Doubling:
    """A quick session: every value twice as large."""

    inputs = (X,)
    outputs = (TensorSpec("y", "INT16", (-1, 2)),)

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The input, added to itself."""
        return {"y": tensors["x"] + tensors["x"]}


class Box:
    """A data plane with one quick model, and its calls over gRPC."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.serve("1.0.0")
        service = InferenceService(self.registry, EventBus(), EngineConfig())
        calls = Calls(service, self.registry, ServedModels(self.registry), lambda: True)
        self._infer = calls.methods().unary[f"/{SERVICE}/ModelInfer"]
        self.repeats = calls._repeats

    def serve(self, version: str) -> None:
        """Make this the active version."""
        about = Description("litert", "0", "fast", "raw", Doubling.inputs, Doubling.outputs, labels=("a", "b"))
        pool = Pool([Doubling()], max_waiting=4, inline_bytes=10_000)
        manifest, admission = Manifest("double", version, {}), Admission(about, EngineConfig())
        self.registry.swap(ServedVersion(manifest, version, about, pool, admission))

    def ask(self, data: bytes) -> ModelInferResponse | str:
        """The answer, or what is wrong."""
        try:
            answer = self._infer(data, Context(None, {}))
        except EdgeError as error:
            return str(error)
        assert isinstance(answer, bytes)
        return ModelInferResponse.FromString(answer)


@st.composite
def request(draw: st.DrawFn) -> bytes:
    """Requests that differ in a few ways, some of which are wrong."""
    made = ModelInferRequest(model_name=draw(st.sampled_from(["double", "double", "other"])))
    made.model_version = draw(st.sampled_from(["", "", "1.0.0", "2"]))
    made.id = draw(st.sampled_from(["", "", "", "7"]))
    rows = draw(st.integers(1, 3))
    values = np.array(draw(st.lists(st.integers(-9, 9), min_size=2 * rows, max_size=2 * rows)), np.int16)
    entry = made.inputs.add(name="x", datatype="INT16", shape=[rows, 2])
    if draw(st.integers(0, 5)):
        made.raw_input_contents.append(values.tobytes())
    else:
        entry.contents.int_contents.extend(values.tolist())
    if not draw(st.integers(0, 3)):
        made.parameters["timeout"].int64_param = 5_000_000
    if not draw(st.integers(0, 3)):
        wanted = made.outputs.add(name=draw(st.sampled_from(["y", "z"])))
        if draw(st.booleans()):
            wanted.parameters["classification"].int64_param = 1
    data = made.SerializeToString()
    # Fields may come in any order, unknown ones, too: what is last is not always the tensor.
    return data + draw(st.sampled_from([b"", b"", b"\x7a\x04\x00\x00\x00\x00", b"\x1a\x00"]))


@given(st.lists(request(), min_size=2, max_size=8))
def test_answers_are_those_of_a_box_that_remembers_nothing(requests: list[bytes]) -> None:
    """Whatever came before."""
    box = Box()
    for data in requests:
        assert box.ask(data) == Box().ask(data)


def _plain(values: NDArray[np.int16]) -> bytes:
    made = ModelInferRequest(model_name="double", raw_input_contents=[values.tobytes()])
    made.inputs.add(name="x", datatype="INT16", shape=values.shape)
    return made.SerializeToString()


def test_a_request_like_the_last_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its values are its own."""
    box = Box()
    for factor in range(1, 4):
        values = np.int16([[factor, 2 * factor]])
        answer = box.ask(_plain(values))
        assert isinstance(answer, ModelInferResponse)
        assert np.frombuffer(answer.raw_output_contents[0], np.int16).tolist() == [2 * factor, 4 * factor]
        monkeypatch.setattr("edge_runtime.transports.grpc.calls.decoded", lambda *_: pytest.fail("read again"))


def test_another_version_is_another_model() -> None:
    """What was known of the former one is not used."""
    box, data = Box(), _plain(np.int16([[1, 2]]))
    for version in ("2.0.0", "3.0.0"):
        assert box.ask(data) == box.ask(data)
        box.serve(version)
        for _ in range(2):
            answer = box.ask(data)
            assert isinstance(answer, ModelInferResponse)
            assert answer.model_version == version


def test_what_is_remembered_is_bounded() -> None:
    """However many kinds of requests there are."""
    box = Box()
    for rows in range(1, 200):
        box.ask(_plain(np.zeros((rows, 2), np.int16)))
        assert len(box.repeats._known) <= 64
