"""A real daemon, asked over gRPC by tritonclient."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boxes import RunningBox, as_json, running_box
from bundles import digits
from peers import free_port, require_kserve, require_library

require_library("grpc.aio", "edge-runtime[grpc]")
require_library("tritonclient.grpc", "tritonclient[grpc]")

import tritonclient.grpc as triton  # noqa: E402 - see above
from tritonclient.utils import InferenceServerException  # noqa: E402

from edge_runtime.client import discovery  # noqa: E402

MAX_MESSAGE_BYTES = 100_000
PICTURE = np.random.default_rng(7).integers(-128, 128, (1, 8, 8, 1)).astype(np.int8)


@dataclass
class Peer:
    """A box and a client that speaks gRPC to it."""

    box: RunningBox
    client: Any
    port: int


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """A daemon with the digits model."""
    port = free_port()
    settings = ("grpc.enabled=true", f"grpc.port={port}", f"grpc.max_message_bytes={MAX_MESSAGE_BYTES}")
    with running_box(tmp_path_factory.mktemp("grpc"), *settings) as box:
        assert box.push(digits())["state"] == "COMMITTED"
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            yield Peer(box, client, port)


def picture(values: np.ndarray[Any, Any] = PICTURE, name: str = "image", datatype: str = "INT8") -> Any:
    """The model's input, as tritonclient sends it (raw)."""
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    return tensor


def status(client: Any, tensor: Any, model: str = "digits", **options: Any) -> str:
    """The status of a request that must fail."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [tensor], **options)
    return str(caught.value.status())


def peak_memory_bytes(box: RunningBox) -> int:
    """The most that the daemon ever held in memory."""
    lines = Path(f"/proc/{box.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_health_and_metadata_are_what_http_says(peer: Peer) -> None:
    """Live, ready, and the same description of the model."""
    assert peer.client.is_server_live()
    assert peer.client.is_server_ready()
    assert peer.client.is_model_ready("digits")
    assert peer.client.is_model_ready("digits", "1.0.0")
    assert not peer.client.is_model_ready("nope")
    about = peer.box.get("/v2")
    told = peer.client.get_server_metadata(as_json=True)
    assert (told["name"], told["version"]) == (about["name"], about["version"])
    assert "classification" in told["extensions"]
    over_grpc, over_http = peer.client.get_model_metadata("digits", as_json=True), peer.box.get("/v2/models/digits")
    for tensor in over_grpc["inputs"] + over_grpc["outputs"]:
        tensor["shape"] = [int(n) for n in tensor["shape"]]  # protobuf's JSON has 64-bit numbers as text
    assert over_grpc == over_http


def test_an_inference_is_what_http_answers(peer: Peer) -> None:
    """The same scores, the version that made them, and the id."""
    body = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "INT8", "data": PICTURE.reshape(-1).tolist()}
    _, over_http = peer.box.post("/v2/models/digits/infer", as_json({"inputs": [body]}))
    wanted = triton.InferRequestedOutput("scores")
    answer = peer.client.infer("digits", [picture()], outputs=[wanted], request_id="42", model_version="1.0.0")
    scores = answer.as_numpy("scores")
    assert (scores.dtype, scores.reshape(-1).tolist()) == (np.int8, over_http["outputs"][0]["data"])
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("42", "digits", "1.0.0")


def test_kserves_own_client(peer: Peer) -> None:
    """Everything it can ask, typed and raw, in its own environment; the scores are tritonclient's."""
    script = Path(__file__).with_name("ask_kserve.py")
    asked = subprocess.run(
        [require_kserve(), str(script), str(peer.port)], capture_output=True, text=True, timeout=50, check=False
    )
    assert asked.returncode == 0, asked.stderr
    found = json.loads(asked.stdout.splitlines()[-1])
    assert (found["live"], found["ready"], found["models"], found["unknown"]) == (
        True,
        True,
        [True, False],
        "NOT_FOUND",
    )
    scores = peer.client.infer("digits", [picture(np.zeros_like(PICTURE))]).as_numpy("scores")
    answer = ["7", "digits", "1.0.0", "scores", "INT8", [1, 10], scores.reshape(-1).tolist()]
    assert (found["typed"], found["raw"]) == (answer, answer)
    assert found["loaded"] == ["digits", True]
    assert found["inputs"] == [["image", "INT8", [1, 8, 8, 1]]]


def test_wrong_requests_have_the_right_status(peer: Peer) -> None:
    """Dtype, shape, name, model, version."""
    assert status(peer.client, picture(PICTURE.astype(np.float32), datatype="FP32")) == "StatusCode.INVALID_ARGUMENT"
    assert status(peer.client, picture(PICTURE[:, :4])) == "StatusCode.INVALID_ARGUMENT"
    assert status(peer.client, picture(name="nope")) == "StatusCode.INVALID_ARGUMENT"
    assert status(peer.client, picture(), "nope") == "StatusCode.NOT_FOUND"
    assert status(peer.client, picture(), model_version="9.9.9") == "StatusCode.NOT_FOUND"


def test_an_oversized_message_is_refused_and_the_box_goes_on(peer: Peer) -> None:
    """RESOURCE_EXHAUSTED; the next request is answered."""
    huge = picture(np.zeros((1, MAX_MESSAGE_BYTES), np.int8))
    assert status(peer.client, huge) == "StatusCode.RESOURCE_EXHAUSTED"
    assert peer.client.infer("digits", [picture()]).as_numpy("scores").shape == (1, 10)


def test_a_small_message_that_unpacks_to_a_huge_one_costs_no_memory(peer: Peer) -> None:
    """The bound holds for what comes out of gzip, before it is all unpacked ."""
    before = peak_memory_bytes(peer.box)
    bomb = picture(np.zeros((1, 80_000_000), np.int8))
    assert status(peer.client, bomb, compression_algorithm="gzip") == "StatusCode.RESOURCE_EXHAUSTED"
    assert peak_memory_bytes(peer.box) - before < 20_000_000
    packed = peer.client.infer("digits", [picture()], compression_algorithm="gzip")
    assert packed.as_numpy("scores").shape == (1, 10)


def test_asynchronous_and_many(peer: Peer) -> None:
    """Fifty requests at once over one connection."""
    answers: list[Any] = []
    done = threading.Semaphore(0)

    def answered(result: Any, error: Any) -> None:
        answers.append(error or result.as_numpy("scores").shape)
        done.release()

    for _ in range(50):
        peer.client.async_infer("digits", [picture()], answered)
    assert all(done.acquire(timeout=20) for _ in range(50))
    assert set(answers) == {(1, 10)}


def test_a_swap_under_load_loses_no_request(tmp_path: Path) -> None:
    """Two versions are pushed while two clients ask all the time; every request has an answer."""
    port, stop = free_port(), threading.Event()
    versions: list[str] = []
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
                while not stop.is_set():
                    versions.append(client.infer("digits", [picture()]).get_response().model_version)
        except InferenceServerException as error:
            failures.append(error)

    with running_box(tmp_path, "grpc.enabled=true", f"grpc.port={port}") as box:
        box.push(digits("1.0.0"))
        clients = [threading.Thread(target=ask) for _ in range(2)]
        for thread in clients:
            thread.start()
        try:
            for version in ("2.0.0", "3.0.0"):
                assert box.push(digits(version))["state"] == "COMMITTED"
                deadline = time.monotonic() + 10
                while version not in versions and not failures:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
        finally:
            stop.set()
            for thread in clients:
                thread.join(20)
    assert not failures
    assert sorted(set(versions)) == ["1.0.0", "2.0.0", "3.0.0"]


def test_a_second_box_on_the_same_port_is_told(peer: Peer, tmp_path: Path) -> None:
    """Exit 1, with the key to change in one line."""
    settings = [f"device.state_dir={tmp_path}", "http.port=0", "http.host=127.0.0.1", f"grpc.port={peer.port}"]
    options = [word for setting in (*settings, "discovery.mdns=false") for word in ("--set", setting)]
    command = [sys.executable, "-m", "edge_runtime.cli.daemon", "serve", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith(f"edge-runtime: gRPC cannot listen on 127.0.0.1:{peer.port}")
    assert "set grpc.port" in last
    assert "Traceback" not in ended.stderr


def test_sigterm_ends_a_box_with_an_open_channel(tmp_path: Path) -> None:
    """A client that stays connected holds nothing; and the port is told on the network."""
    port = free_port()
    settings = ("grpc.enabled=true", f"grpc.port={port}", 'discovery.interfaces=["127.0.0.1"]')
    with running_box(tmp_path, *settings, name="grpcbox", mdns=True) as box:
        assert discovery.resolve("grpcbox", 10, ["127.0.0.1"]).grpc_port == port
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert client.is_server_ready()
            assert box.terminate() < 5
        assert box.process.returncode == 0
        assert "Traceback" not in box.log


def test_a_box_without_the_extra_serves_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line in its log says how to add it."""
    (tmp_path / "hpack.py").write_text("raise ImportError('no hpack here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with running_box(tmp_path / "state", "grpc.enabled=true") as box:
        assert box.get("/v2/health/ready") == {"ready": True}
        assert box.log.count("edge-runtime[grpc]") == 1
