"""The Open Inference Protocol v2 over HTTP, with Triton's extensions."""

from collections.abc import Sequence

from edge_runtime import __version__
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.registry import Registry
from edge_runtime.transports import codec, model_views
from edge_runtime.transports.http import call_headers
from edge_runtime.transports.http.bodies import Bodies, BodyShare
from edge_runtime.transports.http.exchange import Exchange, whole_number
from edge_runtime.transports.http.repository import Repository
from edge_runtime.transports.http.tensor_calls import Target, TensorCalls
from edge_runtime.transports.parameters import call_of

_NOT_OFFERED = {
    "systemsharedmemory": "shared memory is not offered here: send and take the tensors in the body",
    "cudasharedmemory": "shared memory is not offered here: send and take the tensors in the body",
    "trace": "there are no trace settings here: send a traceparent header with each request",
    "logging": "there are no log settings here",
}


class OpenInference:
    """Answers what is below `/v2`."""

    def __init__(self, calls: TensorCalls, registry: Registry, bodies: Bodies, repository: Repository) -> None:
        self._calls = calls
        self._repository = repository
        self._registry = registry
        self._bodies = bodies
        self.ready = False

    async def answer(self, exchange: Exchange, parts: Sequence[str]) -> None:
        """Answer one request; `parts` are those of the path behind "v2"."""
        match parts:
            case ["models", "stats"]:
                exchange.check_method("GET")
                await exchange.answer(model_views.statistics(self._registry, None, None))
            case ["repository", *rest]:
                await self._repository.answer(exchange, rest)
            case ["models", model, *rest]:
                version, action = _version_and_action(rest)
                await self._model(exchange, (model, version), action)
            case []:
                exchange.check_method("GET")
                about = {"name": codec.SERVER_NAME, "version": __version__, "extensions": codec.EXTENSIONS}
                await exchange.answer(about)
            case ["health", "live"]:
                exchange.check_method("GET")
                await exchange.answer({"live": True})
            case ["health", "ready"]:
                exchange.check_method("GET")
                await exchange.answer({"ready": self.ready}, 200 if self.ready else 503)
            case [name, *_] if name in _NOT_OFFERED:
                raise CallerError(_NOT_OFFERED[name], Code.NOT_FOUND)
            case _:
                raise exchange.no_such_path()

    async def _model(self, exchange: Exchange, target: Target, action: str) -> None:
        match action:
            case "infer":
                exchange.check_method("POST")
                with self._bodies.share() as share:
                    await self._infer(exchange, target, share)
                return
            case "":
                exchange.check_method("GET")
                document = codec.model_metadata(self._registry, *target)
            case "ready":
                exchange.check_method("GET")
                ready = self.ready and not self._registry.find(*target).unavailable
                await exchange.answer({"name": target[0], "ready": ready}, 200 if ready else 503)
                return
            case "config":
                exchange.check_method("GET")
                document = model_views.config(self._registry.find(*target))
            case "stats":
                exchange.check_method("GET")
                document = model_views.statistics(self._registry, *target)
            case "trace/setting":
                raise CallerError(_NOT_OFFERED["trace"], Code.NOT_FOUND)
            case _:
                raise exchange.no_such_path()
        await exchange.answer(document)

    async def _infer(self, exchange: Exchange, target: Target, share: BodyShare) -> None:
        trace, served = call_headers.traceparent(exchange), self._registry.find(*target)
        with served.stats.refusals():
            deadline, json_bytes = call_headers.deadline(exchange), _json_bytes(exchange)
            body = await self._bodies.read(exchange, share)
            about, size = self._registry.find(*target).description, len(body)
            request = await self._calls.workers.run(size, lambda: codec.parse_infer(body, about.inputs, json_bytes))
            codec.check_outputs(request, about.outputs)
            call = call_of(request.parameters, deadline=deadline, identity=request.id, traceparent=trace)
        inference = await self._calls.run(exchange, target, request.tensors, call)
        size = sum(output.nbytes for output in inference.outputs.values())
        await self._bodies.answer(exchange, size, lambda: codec.format_infer(inference, request))


def _json_bytes(exchange: Exchange) -> int | None:
    text = exchange.header(b"inference-header-content-length")
    number = whole_number(text) if text else None
    if text and number is None:
        raise CallerError(f"Inference-Header-Content-Length must be a number of bytes, but is {text[:20]!r}")
    return number


def _version_and_action(rest: Sequence[str]) -> tuple[str | None, str]:
    """What follows the model's name: [], [action], ["versions", v] or ["versions", v, action]."""
    match rest:
        case ["versions", version, *action]:
            return version, "/".join(action)
        case _:
            return None, "/".join(rest)
