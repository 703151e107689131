"""Everything that is not inference: models, uploads (tus 1.0), health, metrics."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route, Router

from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.names import check_model_name
from edge_runtime.deploy.deployer import Deployer
from edge_runtime.deploy.tune_runs import TuneRuns
from edge_runtime.deploy.uploads import Announced, Upload, Uploads
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.tuning import Objective
from edge_runtime.transports.codec import decode_json, encode_json
from edge_runtime.transports.http import exposition
from edge_runtime.transports.http.exchange import WrongMethodError, whole_number
from edge_runtime.transports.http.metrics import Metrics

TUS_VERSION = "1.0.0"
_TUS = {"Tus-Resumable": TUS_VERSION, "Tus-Version": TUS_VERSION, "Tus-Extension": "creation,termination"}
_MAX_WAIT_SECONDS = 30.0
_MAX_COMMAND_BYTES = 64 * 1024

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Views:
    """Plain data that the app composes for these endpoints."""

    models: Callable[[], list[dict[str, Any]]]
    health: Callable[[], Awaitable[Mapping[str, Any]]]
    index: Callable[[], Mapping[str, Any]]


class _Endpoint(Route):
    """A route that is silent about other methods: starlette would answer 405 in plain text, naming one route's only."""

    def matches(self, scope: MutableMapping[str, Any]) -> tuple[Match, MutableMapping[str, Any]]:
        """Whether the path and the method are ours."""
        match, child = super().matches(scope)
        return (match, child) if match is Match.FULL else (Match.NONE, {})

    def methods_at(self, scope: MutableMapping[str, Any]) -> set[str]:
        """The methods that are taken at this path."""
        match, _ = super().matches(scope)
        return set() if match is Match.NONE else set(self.methods or ())


class Management:
    """The endpoints of the control plane; `router` is the ASGI app. EdgeErrors are the caller's to answer."""

    def __init__(
        self, deployer: Deployer, uploads: Uploads, tune_runs: TuneRuns, metrics: Metrics, views: Views
    ) -> None:
        self._deployer = deployer
        self._tune_runs = tune_runs
        self._uploads = uploads
        self._metrics = metrics
        self._views = views
        self._endpoints = [
            _Endpoint("/", self._index),
            _Endpoint("/healthz", self._healthz),
            _Endpoint("/metrics", self._render_metrics),
            _Endpoint("/openapi.json", self._openapi),
            _Endpoint("/models", self._models),
            _Endpoint("/models/{model}", self._remove, methods=["DELETE"]),
            _Endpoint("/models/{model}/rollback", self._rollback, methods=["POST"]),
            _Endpoint("/models/{model}/activate", self._activate, methods=["POST"]),
            _Endpoint("/models/{model}/tune", self._tune, methods=["POST"]),
            _Endpoint("/models/{model}/tune", self._view_tune_run),
            _Endpoint("/uploads", self._create, methods=["POST"]),
            _Endpoint("/uploads", self._options, methods=["OPTIONS"]),
            _Endpoint("/uploads/{id}", self._offset, methods=["HEAD"]),
            _Endpoint("/uploads/{id}", self._view_upload, methods=["GET"]),
            _Endpoint("/uploads/{id}", self._append, methods=["PATCH"]),
            _Endpoint("/uploads/{id}", self._terminate, methods=["DELETE"]),
        ]
        self.router = Router(self._endpoints, default=self._unrouted)

    async def _unrouted(self, scope: MutableMapping[str, Any], _receive: object, _send: object) -> None:
        allowed = set().union(*(route.methods_at(scope) for route in self._endpoints))
        if allowed:
            raise WrongMethodError(scope, allowed)
        raise CallerError(f"there is no {scope['method']} {scope['path'][:100]}", Code.NOT_FOUND)

    async def _index(self, _: Request) -> Response:
        return _json(self._views.index())

    async def _healthz(self, _: Request) -> Response:
        health = await self._views.health()
        return _json(health, 503 if health["status"] == "failed" else 200)

    async def _render_metrics(self, request: Request) -> Response:
        openmetrics = exposition.wants_openmetrics(request.headers.get("accept", ""))
        body = await self._metrics.render(openmetrics=openmetrics)
        content_type = exposition.OPENMETRICS_TYPE if openmetrics else exposition.PROMETHEUS_TYPE
        return Response(body, headers={"content-type": content_type, "vary": "accept"})

    async def _openapi(self, _: Request) -> Response:
        from edge_runtime.transports.http import openapi  # noqa: PLC0415 - most boxes are never asked for it

        return _json(openapi.document())

    async def _models(self, _: Request) -> Response:
        return _json({"models": self._views.models()})

    async def _remove(self, request: Request) -> Response:
        model = _model(request)
        await self._deployer.remove(model)
        return _json({"removed": model})

    async def _rollback(self, request: Request) -> Response:
        model = _model(request)
        version, previous = await self._deployer.rollback(model)
        return _json({"model": model, "version": version, "previous": previous})

    async def _tune(self, request: Request) -> Response:
        """Begin to measure; 202, for it takes seconds. GET at the same path says how far it is."""
        body = await _command(request)
        document = decode_json(body) if body else {}
        if document not in ({}, {"objective": "latency"}, {"objective": "throughput"}):
            raise CallerError('the body must be empty, or {"objective": "latency"}, or {"objective": "throughput"}')
        objective: Objective | None = document.get("objective")
        return _json(self._tune_runs.start(_model(request), objective).view(), 202)

    async def _view_tune_run(self, request: Request) -> Response:
        """How far it is; `wait`: seconds for something to change."""
        run = self._tune_runs.find(_model(request))
        await run.wait(_seconds(request.query_params.get("wait", "0")))
        return _json(run.view())

    async def _activate(self, request: Request) -> Response:
        document = decode_json(await _command(request))
        version = document.get("version") if isinstance(document, dict) else None
        if not isinstance(version, str):
            raise CallerError('the body must be {"version": "..."}')
        model = _model(request)
        version, previous = await self._deployer.activate(model, version)
        return _json({"model": model, "version": version, "previous": previous})

    # tus 1.0, https://tus.io/protocols/resumable-upload: core protocol, creation and termination extensions.

    async def _options(self, _: Request) -> Response:
        return Response(status_code=204, headers=_TUS | {"Tus-Max-Size": str(self._uploads.max_bytes)})

    async def _create(self, request: Request) -> Response:
        _check_tus(request)
        length = whole_number(request.headers.get("upload-length", ""))
        if length is None:
            raise CallerError("Upload-Length must say how many bytes will come")
        metadata = _upload_metadata(request.headers.get("upload-metadata", ""))
        force = metadata.get("force") == "1"
        upload = self._uploads.create(Announced(length, metadata.get("filename", "")[:255], force))
        return Response(status_code=201, headers=_TUS | {"Location": f"/uploads/{upload.id}"})

    async def _offset(self, request: Request) -> Response:
        _check_tus(request)
        upload = self._upload(request)
        headers = {
            "Upload-Offset": str(upload.offset),
            "Upload-Length": str(upload.announced.length),
            "Cache-Control": "no-store",
        }
        return Response(status_code=200, headers=_TUS | headers)

    async def _append(self, request: Request) -> Response:
        _check_tus(request)
        if request.headers.get("content-type") != "application/offset+octet-stream":
            raise CallerError("PATCH needs Content-Type: application/offset+octet-stream", Code.UNSUPPORTED_MEDIA)
        offset = whole_number(request.headers.get("upload-offset", ""))
        if offset is None:
            raise CallerError("Upload-Offset must say where these bytes belong")
        upload = self._upload(request)
        try:
            await self._uploads.append(upload, offset, request.stream())
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it; what came is kept for resuming
        return Response(status_code=204, headers=_TUS | {"Upload-Offset": str(upload.offset)})

    async def _terminate(self, request: Request) -> Response:
        _check_tus(request)
        self._uploads.cancel(self._upload(request))
        return Response(status_code=204, headers=_TUS)

    async def _view_upload(self, request: Request) -> Response:
        upload = self._upload(request)
        wait = _seconds(request.query_params.get("wait", "0"))
        if wait:
            await upload.wait(request.query_params.get("state", upload.progress.state), wait)
        return _json(upload.view())

    def _upload(self, request: Request) -> Upload:
        return self._uploads.get(request.path_params["id"])


async def _command(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_COMMAND_BYTES:
            raise CallerError(f"the body is larger than {_MAX_COMMAND_BYTES} bytes", Code.TOO_LARGE)
    return bytes(body)


def _json(document: Any, status: int = 200) -> Response:
    return Response(encode_json(document), status, media_type="application/json")


def _model(request: Request) -> str:
    try:
        return check_model_name(request.path_params["model"])
    except ContractError as error:
        raise CallerError(str(error), Code.NOT_FOUND) from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError as error:
        raise CallerError(f"wait must be a number of seconds, but is {text[:20]!r}") from error
    return min(seconds, _MAX_WAIT_SECONDS) if seconds > 0 else 0.0


def _check_tus(request: Request) -> None:
    version = request.headers.get("tus-resumable")
    if version != TUS_VERSION:
        raise CallerError(f"this is tus {TUS_VERSION}: send the header Tus-Resumable: {TUS_VERSION}")


def _upload_metadata(header: str) -> dict[str, str]:
    """Upload-Metadata: comma-separated "key base64(value)" pairs (tus 1.0, Creation)."""
    metadata = {}
    for pair in filter(None, (part.strip() for part in header.split(","))):
        key, _, value = pair.partition(" ")
        try:
            metadata[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise CallerError(
                f"Upload-Metadata has a value for {key[:40]!r} that is not base64 of UTF-8 text"
            ) from error
    return metadata
