"""Inference over HTTP: the Open Inference Protocol v2 in JSON, and `predict` for people."""

from collections.abc import Sequence
from urllib.parse import unquote

from edge_runtime import __version__
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.service import InferenceService, Sample
from edge_runtime.transports import codec
from edge_runtime.transports.http.exchange import Receive, Scope, Send, header, read_body, send_bytes, send_json

SERVER_NAME = "edge-runtime"


class DataPlane:
    """Answers `/v2...` and `/models/{m}/predict`. Kept free of any framework: it is the path that must be fast."""

    def __init__(self, service: InferenceService, registry: Registry, max_body_bytes: int) -> None:
        self._service = service
        self._registry = registry
        self._max_body_bytes = max_body_bytes
        self.ready = False

    def handles(self, path: str) -> bool:
        """Whether the path is one of ours."""
        return path == "/v2" or path.startswith("/v2/") or (path.startswith("/models/") and path.endswith("/predict"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises EdgeError."""
        method = scope["method"]
        match [unquote(part) for part in scope["path"].strip("/").split("/")]:
            case ["models", model, "predict"] if method == "POST":
                await self._predict(scope, receive, send, model)
            case ["v2", "models", model, *rest]:
                version, action = _version_and_action(rest)
                await self._model(scope, receive, send, (model, version, action))
            case ["v2"] if method == "GET":
                await send_json(send, {"name": SERVER_NAME, "version": __version__, "extensions": []})
            case ["v2", "health", "live"] if method == "GET":
                await send_json(send, {"live": True})
            case ["v2", "health", "ready"] if method == "GET":
                await send_json(send, {"ready": self.ready}, 200 if self.ready else 503)
            case _:
                raise CallerError(f"there is no {method} {scope['path']}", Code.NOT_FOUND)

    async def _model(self, scope: Scope, receive: Receive, send: Send, target: tuple[str, str | None, str]) -> None:
        model, version, action = target
        match scope["method"], action:
            case "POST", "infer":
                await self._infer(scope, receive, send, model, version)
            case "GET", "ready":
                self._registry.find(model, version)
                await send_json(send, {"name": model, "ready": self.ready}, 200 if self.ready else 503)
            case "GET", "":
                await send_json(send, self._metadata(model, version))
            case _:
                raise CallerError(f"there is no {scope['method']} {scope['path']}", Code.NOT_FOUND)

    async def _infer(self, scope: Scope, receive: Receive, send: Send, model: str, version: str | None) -> None:
        body = await read_body(scope, receive, self._max_body_bytes)
        description = self._registry.find(model, version).description
        request = await self._service.workers.run(
            len(body), lambda: codec.parse_infer(codec.decode_json(body), description.inputs)
        )
        inference = await self._service.infer(model, request.tensors, version=version)
        size = sum(output.nbytes for output in inference.outputs.values())
        answer = await self._service.workers.run(
            size, lambda: codec.encode_json(codec.format_infer(inference, request))
        )
        await send_bytes(send, answer, 200)

    async def _predict(self, scope: Scope, receive: Receive, send: Send, model: str) -> None:
        body = await read_body(scope, receive, self._max_body_bytes)
        answer = await self._service.predict(model, Sample(body, header(scope, b"content-type")))
        await send_json(
            send,
            {
                "model": answer.model,
                "version": answer.version,
                "result": answer.result,
                "latency_ms": answer.latency_ms,
            },
        )

    def _metadata(self, model: str, version: str | None) -> dict[str, object]:
        served = self._registry.find(model, version)
        warm = self._registry.warm(model)
        versions = [v.version for v in (self._registry.find(model), warm) if v is not None]
        return {
            "name": served.name,
            "versions": versions,
            "platform": f"tflite_{served.description.engine}",
            "inputs": [codec.tensor_metadata(spec) for spec in served.description.inputs],
            "outputs": [codec.tensor_metadata(spec) for spec in served.description.outputs],
        }


def _version_and_action(rest: Sequence[str]) -> tuple[str | None, str]:
    """What follows the model's name: [], [action], ["versions", v] or ["versions", v, action]."""
    match rest:
        case []:
            return None, ""
        case ["versions", version]:
            return version, ""
        case ["versions", version, action]:
            return version, action
        case [action]:
            return None, action
        case _:
            return None, "/".join(rest)
