"""The HTTP client against a real server that speaks the contract, and breaks it."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from box_server import STATES, FakeBox
from peers import free_port

from edge_runtime.client import box as client_box
from edge_runtime.client.box import BoxClient, Deployment
from edge_runtime.client.errors import ClientError, UnreachableError


def test_push_uploads_the_file_whole(box: FakeBox, client: BoxClient, tmp_path: Path) -> None:
    """A file of several chunks arrives byte for byte, and progress rises to its size."""
    content = os.urandom(2 * client_box.CHUNK_BYTES + 17)
    path = tmp_path / "m-1.0.0.edgemodel"
    path.write_bytes(content)
    seen: list[int] = []
    upload = client.push(path, progress=lambda sent, total: seen.append(sent))
    assert upload == "/uploads/1"
    assert box.digest == hashlib.sha256(content).hexdigest()
    assert (box.length, box.metadata) == (len(content), {"filename": path.name})
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, len(content))


def test_push_of_bytes_with_force(box: FakeBox, client: BoxClient) -> None:
    """Bytes can be pushed too, and `force` reaches the box."""
    client.push(b"content", filename="ä.edgemodel", force=True)
    assert bytes(box.received) == b"content"
    assert box.metadata == {"filename": "ä.edgemodel", "force": "1"}


@pytest.mark.parametrize("drops", [[0], [5], [client_box.CHUNK_BYTES - 1, 0, 3]])
def test_a_dropped_connection_is_resumed(box: FakeBox, client: BoxClient, drops: list[int]) -> None:
    """When the connection breaks inside a chunk, the upload goes on where the box got to."""
    content = os.urandom(client_box.CHUNK_BYTES + 1000)
    box.drops = drops
    client.push(content)
    assert box.digest == hashlib.sha256(content).hexdigest()


def test_a_lost_answer_does_not_double_bytes(box: FakeBox, client: BoxClient) -> None:
    """A chunk that was taken but not acknowledged is not sent again."""
    content = os.urandom(client_box.CHUNK_BYTES + 1000)
    box.lost_answers = 1
    client.push(content)
    assert box.digest == hashlib.sha256(content).hexdigest()


def test_a_box_that_takes_nothing_is_given_up(box: FakeBox, client: BoxClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resuming ends after a few attempts without progress."""
    waits: list[float] = []
    monkeypatch.setattr(client_box.time, "sleep", waits.append)
    box.drops = [0] * 100
    with pytest.raises(UnreachableError, match="broke"):
        client.push(b"content")
    assert len(waits) == client_box.MAX_ATTEMPTS - 1
    assert len(box.drops) == 100 - client_box.MAX_ATTEMPTS


def test_a_forgotten_upload_is_reported(box: FakeBox, client: BoxClient) -> None:
    """When the box forgot the upload while the connection was down, the error says so."""
    box.drops = [3]
    box.answers["HEAD /uploads/1"] = (404, b"")
    with pytest.raises(ClientError, match="no longer knows the upload"):
        client.push(b"content")


def test_an_upload_that_is_not_wanted(box: FakeBox, client: BoxClient) -> None:
    """A refusal before the first byte carries the box's words and the status."""
    box.answers["POST /uploads"] = (413, b'{"error": "too large: at most 5 bytes"}')
    with pytest.raises(ClientError, match="too large: at most 5 bytes") as caught:
        client.push(b"content")
    assert caught.value.status == 413


def test_an_empty_file_is_not_pushed(client: BoxClient) -> None:
    """There is no empty bundle."""
    with pytest.raises(ClientError, match="empty"):
        client.push(b"", filename="nothing")


def test_wait_deployment_tells_each_state(box: FakeBox, client: BoxClient) -> None:
    """Every state is told once and the last one is returned."""
    told: list[str] = []
    end = client.wait_deployment("/uploads/1", lambda deployment: told.append(deployment.state))
    assert tuple(told) == STATES
    assert end == Deployment("1", "COMMITTED", "m", "1.0.0")
    assert end.committed


def test_wait_deployment_of_a_refused_bundle(box: FakeBox, client: BoxClient) -> None:
    """A refusal is an end, with its reason."""
    box.refusal = "no signature"
    end = client.wait_deployment("/uploads/1")
    assert (end.state, end.reason, end.committed) == ("REFUSED", "no signature", False)


def test_wait_deployment_ends_in_time(box: FakeBox, client: BoxClient) -> None:
    """A box that never ends is not waited for longer than was asked."""
    box.answers["GET /uploads/1"] = (200, b'{"id": "1", "state": "TRIAL"}')
    with pytest.raises(ClientError, match=r"still TRIAL after 0\.3 s"):
        client.wait_deployment("/uploads/1", timeout_seconds=0.3)


def test_models_status_and_commands(box: FakeBox, client: BoxClient) -> None:
    """Each method calls its endpoint and returns the document."""
    box.models = [{"name": "digits"}]
    box.answers |= {
        "GET /healthz": (503, b'{"status": "failed", "problems": {"disk": "full"}}'),
        "POST /models/a%20b/rollback": (200, b'{"model": "a b", "version": "1", "previous": "2"}'),
        "POST /models/m/activate": (200, b'{"version": "3"}'),
        "DELETE /models/m": (200, b'{"removed": "m"}'),
        "POST /models/m/predict": (200, b'{"result": {}}'),
        "POST /v2/models/m/versions/1.0/infer": (200, b'{"outputs": []}'),
    }
    assert client.models() == [{"name": "digits"}]
    assert client.status()["status"] == "failed"
    assert client.rollback("a b")["previous"] == "2"
    assert client.activate("m", "3") == {"version": "3"}
    assert client.remove("m") == {"removed": "m"}
    assert client.predict("m", b"\x89PNG", "image/png") == {"result": {}}
    assert client.infer("m", {"inputs": []}, version="1.0") == {"outputs": []}
    by_path = {path: (body, kind) for _, path, body, kind in box.requests}
    assert by_path["/models/m/predict"] == (b"\x89PNG", "image/png")
    assert json.loads(by_path["/models/m/activate"][0]) == {"version": "3"}


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, b'{"error": "model \'x\' is not here"}', "model 'x' is not here"),
        (500, b"<html>proxy</html>", "status 500.*is it an edge-runtime box.*proxy"),
        (200, b"not json", "is it an edge-runtime box"),
        (302, b"", "status 302"),
    ],
)
def test_errors_are_in_the_boxes_words(box: FakeBox, client: BoxClient, status: int, body: bytes, message: str) -> None:
    """The server's reason is the message; what is not a box's answer is told apart."""
    box.answers["POST /models/x/predict"] = (status, body)
    with pytest.raises(ClientError, match=message) as caught:
        client.predict("x", b"1")
    assert caught.value.status == status


def test_an_answer_without_models(box: FakeBox, client: BoxClient) -> None:
    """A web server that is no box is recognised."""
    box.answers["GET /models"] = (200, b"{}")
    with pytest.raises(ClientError, match="is it an edge-runtime box"):
        client.models()


def test_an_endless_answer_is_cut(box: FakeBox, client: BoxClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer larger than the bound is an error, not a full memory."""
    monkeypatch.setattr(client_box, "MAX_ANSWER_BYTES", 10)
    box.models = [{"name": "a long name"}]
    with pytest.raises(ClientError, match="more than 10 bytes"):
        client.models()


def test_nobody_listens() -> None:
    """A refused connection is one line with the address and what to check."""
    port = free_port()
    with BoxClient(f"http://127.0.0.1:{port}") as client, pytest.raises(UnreachableError) as caught:
        client.models()
    assert f"127.0.0.1:{port}: " in str(caught.value)
    assert "refused; check the address" in str(caught.value)
