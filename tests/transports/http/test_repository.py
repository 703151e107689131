"""Triton's model repository extension, asked by tritonclient and by hand."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import urllib3
from gated_server import gated_server
from peers import require_library

from edge_runtime.errors import CallerError, Code
from edge_runtime.transports.repository import IndexEntry


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
