"""Triton's model repository extension, asked by tritonclient and by hand."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import urllib3
from boxes import RunningBox, as_json, running_box
from bundles import digits
from gated_server import gated_server
from peers import require_library

from edge_runtime.deploy.repository import IndexEntry
from edge_runtime.errors import CallerError, Code


class Shelf:
    """A repository with two models, of which one is loaded."""

    def __init__(self) -> None:
        self.loaded = {"here": True, "there": False}

    def index(self) -> Sequence[IndexEntry]:
        """Both."""
        return [
            IndexEntry(name, "1.0.0", "READY" if loaded else "UNAVAILABLE", "" if loaded else "unloaded")
            for name, loaded in self.loaded.items()
        ]

    async def load(self, model: str) -> None:
        """Note it."""
        self._set(model, loaded=True)

    async def unload(self, model: str) -> None:
        """Note it."""
        self._set(model, loaded=False)

    def _set(self, model: str, *, loaded: bool) -> None:
        if model not in self.loaded:
            raise CallerError(f"no {model}", Code.NOT_FOUND)
        self.loaded[model] = loaded


def run(go: Callable[[int, Shelf], Any]) -> None:
    """Run `go` in a thread, beside a server with such a repository."""

    async def main() -> None:
        shelf = Shelf()
        async with gated_server(repository=shelf) as bench:
            await asyncio.to_thread(go, bench.port, shelf)

    asyncio.run(main())


def test_tritonclient_lists_loads_and_unloads() -> None:
    """What its users do to change what is in memory."""
    require_library("geventhttpclient", "tritonclient[http]")
    import tritonclient.http as triton  # noqa: PLC0415 - see above
    from tritonclient.utils import InferenceServerException  # noqa: PLC0415 - likewise

    def go(port: int, shelf: Shelf) -> None:
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert client.get_model_repository_index() == [
                {"name": "here", "version": "1.0.0", "state": "READY", "reason": ""},
                {"name": "there", "version": "1.0.0", "state": "UNAVAILABLE", "reason": "unloaded"},
            ]
            client.load_model("there")
            client.unload_model("here", unload_dependents=True)
            assert shelf.loaded == {"here": False, "there": True}
            with pytest.raises(InferenceServerException) as caught:
                client.load_model("nowhere")
            assert caught.value.status() == "404"
            with pytest.raises(InferenceServerException, match="bundle"):
                client.load_model("here", config="{}", files={"file:1/model.tflite": b"x"})
            assert not shelf.loaded["here"]

    run(go)


def test_the_index_may_be_of_what_is_ready() -> None:
    """And is asked with a body or without."""

    def go(port: int, _: Shelf) -> None:
        url = f"http://127.0.0.1:{port}/v2/repository"
        with urllib3.PoolManager() as http:
            assert [m["name"] for m in http.request("POST", f"{url}/index", body=b"").json()] == ["here", "there"]
            ready = http.request("POST", f"{url}/index", body=b'{"ready": true}')
            assert [m["name"] for m in ready.json()] == ["here"]
            for body in (b"[]", b'{"ready": 1}', b"{"):
                assert http.request("POST", f"{url}/index", body=body).status == 400
            assert http.request("POST", f"{url}/models/here/load", body=b'{"parameters": []}').status == 400
            assert http.request("GET", f"{url}/index").headers["allow"] == "POST"
            assert http.request("POST", f"{url}/nope").status == 404

    run(go)


def states(box: RunningBox) -> list[str]:
    """What the index, readiness, TensorFlow Serving's status, and a prediction say of the digits."""
    _, (entry,) = box.post("/v2/repository/index")
    ready = box.http.request("GET", f"{box.url}/v2/models/digits/ready", retries=False).status
    (version,) = box.get("/v1/models/digits")["model_version_status"]
    asked, _ = box.post("/models/digits/predict", as_json([0] * 64))
    return [entry["state"], str(ready), version["state"], str(asked)]


def test_an_unloaded_model_stays_unloaded_until_it_is_loaded(tmp_path: Path) -> None:
    """On a real box, over a restart."""
    with running_box(tmp_path) as box:
        assert box.push(digits())["state"] == "COMMITTED"
        assert states(box) == ["READY", "200", "AVAILABLE", "200"]
        assert box.post("/v2/repository/models/digits/unload") == (200, {})
        assert states(box) == ["UNAVAILABLE", "503", "END", "503"]
    with running_box(tmp_path) as box:
        assert states(box) == ["UNAVAILABLE", "503", "END", "503"]
        assert box.post("/v2/repository/models/digits/load") == (200, {})
        assert states(box) == ["READY", "200", "AVAILABLE", "200"]
        assert box.post("/v2/repository/models/nope/load")[0] == 404
