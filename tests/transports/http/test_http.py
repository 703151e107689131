"""The HTTP surface of a real daemon."""

import base64
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from boxes import RunningBox, as_json, running_box
from bundles import digits, digits_content, make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = TUS | {"Content-Type": "application/offset+octet-stream"}
ZEROS = [[0] * 8] * 8


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBox]:
    """A daemon with the digits model."""
    with running_box(tmp_path_factory.mktemp("http"), "http.max_body_bytes=200000", "deploy.max_uploads=3") as running:
        assert running.push(digits())["state"] == "COMMITTED"
        yield running


def infer_body(**changes: object) -> dict[str, object]:
    """A tensor request for the digits model, changed."""
    entry = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "INT8", "data": [-128] * 64} | changes
    return {"id": "42", "inputs": [entry]}


def test_open_inference_protocol_health_and_metadata(box: RunningBox) -> None:
    """What a client asks before it sends tensors."""
    assert box.get("/v2")["name"] == "edge-runtime"
    assert box.get("/v2/health/live") == {"live": True}
    assert box.get("/v2/health/ready") == {"ready": True}
    assert box.get("/v2/models/digits/ready") == {"name": "digits", "ready": True}
    metadata = box.get("/v2/models/digits")
    assert metadata["inputs"][0]["name"] == "image"
    assert metadata["inputs"][0]["datatype"] == "INT8"
    assert metadata["versions"] == ["1.0.0"]
    assert box.get("/v2/models/digits/versions/1.0.0") == metadata


def test_infer_answers_in_the_protocol(box: RunningBox) -> None:
    """Flat or nested data, the id comes back, outputs by request."""
    status, flat = box.post("/v2/models/digits/infer", as_json(infer_body()))
    assert status == 200
    assert (flat["id"], flat["model_name"], flat["model_version"]) == ("42", "digits", "1.0.0")
    (output,) = flat["outputs"]
    assert (output["name"], output["datatype"], output["shape"], len(output["data"])) == ("scores", "INT8", [1, 10], 10)
    nested = infer_body(data=np.full((1, 8, 8, 1), -128).tolist())
    assert box.post("/v2/models/digits/versions/1.0.0/infer", as_json(nested))[1]["outputs"] == flat["outputs"]
    assert box.post("/v2/models/digits/infer", as_json(infer_body() | {"outputs": [{"name": "scores"}]}))[0] == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "inputs"),
        (b'{"inputs": []}', "inputs must be"),
        (as_json(infer_body(name="other")), "no input 'other'"),
        (as_json(infer_body(datatype="FP32")), "must have the datatype INT8"),
        (as_json(infer_body(shape=[1, 8, 8, 2])), "64 values"),
        (as_json(infer_body(shape=[64])), "must have the shape"),
        (as_json(infer_body(shape=[0, 8, 8, 1], data=[])), "must have the shape"),
        (as_json(infer_body(shape=[-1, 8, 8, 1])), "whole numbers"),
        (as_json(infer_body(shape="x")), "whole numbers"),
        (as_json(infer_body(shape=[0, 10**19, 1, 1], data=[])), "whole numbers"),
        (as_json(infer_body(shape=[0] + [2**31 - 1] * 3, data=[])), "cannot have the shape|must have the shape"),
        (as_json(infer_body(shape=[1] * 100)), "must have the shape"),
        (as_json(infer_body(data=[300] * 64)), "within -128 to 127"),
        (as_json(infer_body(data=[0.5] * 64)), "does not fit INT8"),
        (as_json(infer_body(data=["a"] * 64)), "does not fit INT8"),
        (as_json(infer_body(data=[[1], [2, 3]])), "ragged|does not fit"),
        (as_json({"inputs": [{"name": "image"}]}), "needs name, shape"),
        (as_json(infer_body() | {"outputs": [{"name": "nope"}]}), "no output 'nope'"),
        (as_json(infer_body() | {"id": 7}), "id must be a string"),
    ],
)
def test_wrong_tensor_requests_get_400_and_the_reason(box: RunningBox, body: bytes, message: str) -> None:
    """Never 500."""
    status, answer = box.post("/v2/models/digits/infer", body)
    assert status == 400, answer
    assert any(part in answer["error"] for part in message.split("|")), answer


def test_predict_takes_arrays_and_answers_in_words(box: RunningBox) -> None:
    """A bare array will do."""
    for body in (as_json(ZEROS), as_json({"input": ZEROS}), as_json([0] * 64)):
        status, answer = box.post("/models/digits/predict", body, "application/json")
        assert status == 200
        assert set(answer) == {"model", "version", "result", "latency_ms"}
        assert answer["result"]["label"] in [str(i) for i in range(10)]


def test_predict_has_tensors_only_if_asked(box: RunningBox) -> None:
    """`?raw=1` adds the real values of the outputs to the answer; a misspelt wish is told."""
    body = as_json(ZEROS)
    plain = box.post("/models/digits/predict?raw=0", body, "application/json")[1]["result"]
    assert "outputs" not in plain
    asked = box.post("/models/digits/predict?raw=1", body, "application/json")[1]["result"]
    (scores,) = asked.pop("outputs").values()
    assert (scores["shape"], max(scores["values"])) == ([1, 10], plain["score"])
    assert asked == plain
    status, answer = box.post("/models/digits/predict?raw=yes", body, "application/json")
    assert (status, answer["error"]) == (400, "raw must be 1 or 0, but is 'yes'")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/v2/models/nope", 404),
        ("POST", "/v2/models/nope/infer", 404),
        ("POST", "/models/nope/predict", 404),
        ("DELETE", "/models/nope", 404),
        ("DELETE", "/models/..%2f..%2fetc", 404),
        ("POST", "/models/digits/rollback", 409),
        ("POST", "/models/digits/activate", 400),
        ("GET", "/v2/models/digits/versions/9", 404),
        ("GET", "/uploads/0", 404),
        ("GET", "/uploads/../state.db", 404),
        ("POST", "/uploads", 400),
    ],
)
def test_every_refusal_is_json_with_the_right_status(box: RunningBox, method: str, path: str, status: int) -> None:
    """`{"error": ...}`, always."""
    answer = box.http.request(method, box.url + path, body=b"", retries=False)
    assert answer.status == status, answer.data
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v2", "GET, HEAD"),
        ("POST", "/v2/health/ready", "GET, HEAD"),
        ("GET", "/v2/models/digits/infer", "POST"),
        ("DELETE", "/v2/models/digits", "GET, HEAD"),
        ("GET", "/models/digits/predict", "POST"),
        ("PUT", "/models", "GET, HEAD"),
        ("GET", "/models/digits", "DELETE"),
        ("PUT", "/uploads", "OPTIONS, POST"),
        ("PUT", "/uploads/0", "DELETE, GET, HEAD, PATCH"),
        ("POST", "/metrics", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(box: RunningBox, method: str, path: str, allow: str) -> None:
    """405, all methods of the path in Allow (RFC 9110 section 15.5.6), and the reason in JSON."""
    answer = box.http.request(method, box.url + path, body=b"", retries=False)
    assert (answer.status, answer.headers.get("allow")) == (405, allow)
    assert allow in answer.json()["error"]


def test_head_is_get_without_the_body(box: RunningBox) -> None:
    """What probes and load balancers ask."""
    for path in ("/v2/health/ready", "/healthz", "/v2"):
        answer = box.http.request("HEAD", box.url + path, retries=False)
        assert (answer.status, answer.data) == (200, b"")


def test_a_model_may_have_any_name_and_be_removed(box: RunningBox) -> None:
    """Also those of our own paths."""
    for name in ("predict", "models", "rollback"):
        assert box.push(make(digits_content(), name=name))["state"] == "COMMITTED"
        assert box.post(f"/models/{name}/predict", as_json([0] * 64))[0] == 200
        answer = box.http.request("DELETE", f"{box.url}/models/{name}", retries=False)
        assert (answer.status, answer.json()) == (200, {"removed": name})


def test_a_body_over_the_limit_is_refused_by_its_header_and_by_counting(box: RunningBox) -> None:
    """Chunked transfer must not go around it."""
    large = b"[" + b"0," * 150_000 + b"0]"
    assert box.post("/models/digits/predict", large)[0] == 413
    chunks = iter([large[i : i + 50_000] for i in range(0, len(large), 50_000)])
    answer = box.http.request("POST", box.url + "/models/digits/predict", body=chunks, chunked=True, retries=False)
    assert answer.status == 413


def test_metrics_count_requests_and_errors(box: RunningBox) -> None:
    """In Prometheus's text format."""
    box.post("/models/digits/predict", as_json(ZEROS))
    box.post("/models/digits/predict", b"nonsense")
    text = box.http.request("GET", box.url + "/metrics").data.decode()
    where = 'model="digits",version="1.0.0"'
    assert f"edge_inference_requests_total{{{where}}}" in text
    assert f'edge_inference_errors_total{{{where},code="invalid_input"}}' in text
    assert f'edge_inference_request_duration_seconds_bucket{{{where},le="+Inf"}}' in text


def test_healthz_tells_who_and_how(box: RunningBox) -> None:
    """One look for a person or a script."""
    health = box.get("/healthz")
    assert (health["status"], health["device"], health["problems"]) == ("ok", "testbox", {})
    assert health["require_signature"] is False


def test_models_lists_versions_and_specs(box: RunningBox) -> None:
    """What `edgectl models` shows."""
    (model,) = box.get("/models")["models"]
    assert (model["name"], model["version"], model["state"], model["task"]) == (
        "digits",
        "1.0.0",
        "COMMITTED",
        "classification",
    )
    assert model["versions"][0]["active"] is True


# tus 1.0


def create(box: RunningBox, length: object, **headers: str) -> tuple[int, str]:
    """Begin an upload; returns the status and its path."""
    answer = box.http.request(
        "POST", box.url + "/uploads", headers=TUS | {"Upload-Length": str(length)} | headers, retries=False
    )
    return answer.status, str(answer.headers.get("Location", ""))


def patch(box: RunningBox, path: str, offset: int, data: bytes) -> int:
    """Send bytes; returns the status."""
    headers = CHUNK | {"Upload-Offset": str(offset)}
    return box.http.request("PATCH", box.url + path, body=data, headers=headers, retries=False).status


def offset(box: RunningBox, path: str) -> int:
    """How much is there."""
    return int(box.http.request("HEAD", box.url + path, headers=TUS, retries=False).headers["Upload-Offset"])


def test_an_upload_arrives_in_pieces(box: RunningBox) -> None:
    """Offsets are checked, and the last byte starts the deployment."""
    data = digits("1.0.1")
    status, path = create(box, len(data))
    assert status == 201
    assert patch(box, path, 0, data[:1000]) == 204
    assert patch(box, path, 0, data[:1000]) == 409
    assert patch(box, path, 2000, data[:10]) == 409
    assert offset(box, path) == 1000
    assert patch(box, path, 1000, data[1000:]) == 204
    state = "RECEIVED"
    while state not in ("COMMITTED", "REFUSED"):
        view = box.get(f"{path}?wait=10&state={state}")
        state = view["state"]
    assert (view["model"], view["version"], state) == ("digits", "1.0.1", "COMMITTED")
    assert box.post("/models/digits/rollback") == (200, {"model": "digits", "version": "1.0.0", "previous": "1.0.1"})


def test_a_dropped_link_keeps_what_arrived(box: RunningBox) -> None:
    """The sender asks for the offset and goes on there."""
    data = digits("1.0.2")
    _, path = create(box, len(data))
    host = urlsplit(box.url)
    with socket.create_connection((host.hostname, host.port)) as link:
        head = f"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\nUpload-Offset: 0\r\n"
        head += "".join(f"{key}: {value}\r\n" for key, value in CHUNK.items())
        link.sendall(head.encode() + b"\r\n" + data[:5000])
        link.shutdown(socket.SHUT_WR)
        while link.recv(1000):  # the box closes its side when it has noticed
            pass
    assert offset(box, path) == 5000
    assert patch(box, path, 5000, data[5000:]) == 204


@pytest.mark.parametrize(
    ("length", "status"), [("x", 400), (0, 413), (-1, 400), (10**15, 413), ("\u00b2", 400), ("1" * 5000, 400)]
)
def test_unusable_lengths_are_refused(box: RunningBox, length: object, status: int) -> None:
    """Before the first byte."""
    assert create(box, length)[0] == status


def test_uploads_are_bounded_in_number_and_can_be_cancelled(box: RunningBox) -> None:
    """An open door for half uploads would fill the disk."""
    paths = []
    while (made := create(box, 1000))[0] == 201:
        paths.append(made[1])
    assert made[0] == 429
    assert 1 <= len(paths) <= 3
    for path in paths:
        assert box.http.request("DELETE", box.url + path, headers=TUS, retries=False).status == 204
        assert box.http.request("GET", box.url + path, retries=False).status == 404


def test_more_bytes_than_announced_are_refused(box: RunningBox) -> None:
    """The announced length is the limit."""
    _, path = create(box, 10)
    assert patch(box, path, 0, b"x" * 11) == 413


def test_a_tus_client_of_another_version_is_told_ours(box: RunningBox) -> None:
    """As the protocol wants it."""
    answer = box.http.request("OPTIONS", box.url + "/uploads", retries=False)
    assert (answer.status, answer.headers["Tus-Version"]) == (204, "1.0.0")
    assert box.http.request("POST", box.url + "/uploads", headers={"Upload-Length": "1"}, retries=False).status == 400


def test_a_half_upload_survives_a_restart_of_the_daemon(tmp_path: Path) -> None:
    """SIGKILL in the middle; the sender resumes."""
    data = digits()
    with running_box(tmp_path) as box:
        _, path = create(box, len(data), **{"Upload-Metadata": "filename " + base64.b64encode(b"x").decode()})
        assert patch(box, path, 0, data[:20_000]) == 204
        box.kill()
    with running_box(tmp_path) as box:
        assert offset(box, path) == 20_000
        assert patch(box, path, 20_000, data[20_000:]) == 204
        view = box.get(f"{path}?wait=20&state=RECEIVED")
        while view["state"] not in ("COMMITTED", "REFUSED"):
            view = box.get(f"{path}?wait=20&state={view['state']}")
        assert view["state"] == "COMMITTED"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["/v2/models/digits/infer", "/models/digits/predict", "/models/digits/activate", "/uploads"]),
    st.one_of(
        st.binary(max_size=300),
        st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda d: json.dumps(d).encode()),
    ),
)
def test_no_body_gets_an_internal_error(box: RunningBox, path: str, body: bytes) -> None:
    """Whatever is posted, the answer is JSON and not 500."""
    status, answer = box.post(path, body)
    assert status in (200, 400, 404, 409, 413, 415), answer


def test_many_callers_at_once_all_get_their_answer(box: RunningBox) -> None:
    """An interpreter is not thread-safe; the pool must hide it."""
    host, wrong = urlsplit(box.url), []

    def call(value: int) -> None:
        link = http.client.HTTPConnection(str(host.hostname), host.port, timeout=20)
        body = as_json(infer_body(data=[value] * 64))
        answers = set()
        for _ in range(50):
            link.request("POST", "/v2/models/digits/infer", body)
            answers.add(link.getresponse().read())
        if len(answers) != 1:
            wrong.append(value)
        link.close()

    threads = [threading.Thread(target=call, args=(value,)) for value in range(-8, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
