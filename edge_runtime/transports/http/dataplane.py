"""Inference over HTTP: the Open Inference Protocol v2 in JSON, and `predict` for people."""

from collections.abc import Sequence

from edge_runtime import __version__
from edge_runtime.config import HttpConfig
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.call import Call
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.service import InferenceService, Sample
from edge_runtime.transports import codec
from edge_runtime.transports.http.exchange import (
    BodyBudget,
    BodyShare,
    Receive,
    Scope,
    Send,
    WrongMethodError,
    header,
    read_body,
    send_bytes,
    send_json,
)


class DataPlane:
    """Answers `/v2...` and `/models/{m}/predict`. Kept free of any framework: it is the path that must be fast."""

    def __init__(self, service: InferenceService, registry: Registry, config: HttpConfig) -> None:
        self._service = service
        self._registry = registry
        self._max_body_bytes = config.max_body_bytes
        self._bodies = BodyBudget(config.max_bodies_bytes)
        self.ready = False

    def handles(self, path: str) -> bool:
        """Whether the path is one of ours."""
        # Three parts: a model may be named "predict", too.
        return (
            path == "/v2"
            or path.startswith("/v2/")
            or (path.startswith("/models/") and path.endswith("/predict") and path.count("/") == 3)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises EdgeError."""
        match scope["path"].strip("/").split("/"):
            case ["models", model, "predict"]:
                _check_method(scope, "POST")
                with self._bodies.share() as share:
                    await self._predict(scope, receive, send, model, share)
            case ["v2", "models", model, *rest]:
                version, action = _version_and_action(rest)
                await self._model(scope, receive, send, (model, version, action))
            case ["v2"]:
                _check_method(scope, "GET")
                await send_json(send, {"name": codec.SERVER_NAME, "version": __version__, "extensions": []})
            case ["v2", "health", "live"]:
                _check_method(scope, "GET")
                await send_json(send, {"live": True})
            case ["v2", "health", "ready"]:
                _check_method(scope, "GET")
                await send_json(send, {"ready": self.ready}, 200 if self.ready else 503)
            case _:
                raise _no_such_path(scope)

    async def _model(self, scope: Scope, receive: Receive, send: Send, target: tuple[str, str | None, str]) -> None:
        model, version, action = target
        match action:
            case "infer":
                _check_method(scope, "POST")
                with self._bodies.share() as share:
                    await self._infer(scope, receive, send, (model, version), share)
            case "ready":
                _check_method(scope, "GET")
                self._registry.find(model, version)
                await send_json(send, {"name": model, "ready": self.ready}, 200 if self.ready else 503)
            case "":
                _check_method(scope, "GET")
                await send_json(send, codec.model_metadata(self._registry, model, version))
            case _:
                raise _no_such_path(scope)

    async def _infer(
        self, scope: Scope, receive: Receive, send: Send, target: tuple[str, str | None], share: BodyShare
    ) -> None:
        model, version = target
        body = await read_body(scope, receive, self._max_body_bytes, share)
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

    async def _predict(self, scope: Scope, receive: Receive, send: Send, model: str, share: BodyShare) -> None:
        body = await read_body(scope, receive, self._max_body_bytes, share)
        sample = Sample(body, header(scope, b"content-type"))
        answer = await self._service.predict(model, sample, call=Call(source="http"))
        await send_json(
            send,
            {
                "model": answer.model,
                "version": answer.version,
                "result": answer.result,
                "latency_ms": answer.latency_ms,
            },
        )


def _check_method(scope: Scope, method: str) -> None:
    """HEAD is GET without the body, which the server leaves out (RFC 9110 section 9.3.2)."""
    asked = scope["method"]
    if asked != method and not (asked == "HEAD" and method == "GET"):
        raise WrongMethodError(scope, ("GET", "HEAD") if method == "GET" else (method,))


def _no_such_path(scope: Scope) -> CallerError:
    return CallerError(f"there is no {scope['method']} {scope['path'][:100]}", Code.NOT_FOUND)


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
