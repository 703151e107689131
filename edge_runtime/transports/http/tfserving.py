"""TensorFlow Serving's REST API (tensorflow.org/tfx/serving/api_rest), so that its clients need only a new address."""

from collections.abc import Sequence

from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.call import Call
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.transports import tensorflow_serving
from edge_runtime.transports.codec import decode_json
from edge_runtime.transports.http import call_headers
from edge_runtime.transports.http.bodies import Bodies, BodyShare
from edge_runtime.transports.http.exchange import Exchange
from edge_runtime.transports.http.tensor_calls import TensorCalls


class TensorFlowServing:
    """Answers what is below `/v1`."""

    def __init__(self, calls: TensorCalls, registry: Registry, bodies: Bodies) -> None:
        self._calls = calls
        self._registry = registry
        self._bodies = bodies

    async def answer(self, exchange: Exchange, parts: Sequence[str]) -> None:
        """Answer one request; `parts` are those of the path behind "v1"."""
        if len(parts) < 2 or parts[0] != "models":
            raise exchange.no_such_path()
        model, version, verb = _asked(parts[1], parts[2:])
        match verb:
            case "":
                exchange.check_method("GET")
                await exchange.answer(_status(self._find(model, version)))
            case "/metadata":
                exchange.check_method("GET")
                await exchange.answer(_metadata(self._find(model, version)))
            case ":predict":
                exchange.check_method("POST")
                with self._bodies.share() as share:
                    await self._predict(exchange, self._find(model, version), share)
            case ":classify" | ":regress":
                exchange.check_method("POST")
                raise CallerError(f"models here have no signature that can {verb[1:]} examples: use :predict")
            case _:
                raise exchange.no_such_path()

    def _find(self, model: str, version: str | None) -> ServedVersion:
        """The version of this name, or with this first number (versions are whole numbers in TF Serving)."""
        active = self._registry.find(model)
        if version is None:
            return active
        for served in (active, self._registry.warm(model)):
            if served is not None and version in (served.version, served.version.partition(".")[0]):
                return served
        raise CallerError(f"model {model!r} is not loaded in version {version!r:.50}", Code.NOT_FOUND)

    async def _predict(self, exchange: Exchange, served: ServedVersion, share: BodyShare) -> None:
        trace = call_headers.traceparent(exchange)
        with served.stats.refusals():
            call = Call(deadline=call_headers.deadline(exchange), traceparent=trace)
            body, inputs = await self._bodies.read(exchange, share), served.description.inputs
            request = await self._calls.workers.run(
                len(body), lambda: tensorflow_serving.parse_predict(decode_json(body), inputs)
            )
        target = (served.name, served.version)
        inference = await self._calls.run(exchange, target, request.tensors, call)
        size = sum(output.nbytes for output in inference.outputs.values())
        await self._bodies.answer_document(
            exchange, size, lambda: tensorflow_serving.format_predict(inference, request)
        )


def _status(served: ServedVersion) -> dict[str, object]:
    """GetModelStatusResponse; `name` and `ready` are what KServe's protocol v1 has at the same place."""
    status = {"error_code": "OK", "error_message": ""}
    there = not served.unavailable
    version = {"version": served.version, "state": "AVAILABLE" if there else "END", "status": status}
    return {"model_version_status": [version], "name": served.name, "ready": there}


def _metadata(served: ServedVersion) -> dict[str, object]:
    """GetModelMetadataResponse."""
    about = tensorflow_serving.signature(served.description.inputs, served.description.outputs)
    signatures = {"signature_def": {tensorflow_serving.SIGNATURE: about}}
    spec = {"name": served.name, "signature_name": "", "version": served.version}
    return {"model_spec": spec, "metadata": {"signature_def": signatures}}


def _asked(model: str, rest: Sequence[str]) -> tuple[str, str | None, str]:
    """Model, version and verb (":predict", "/metadata", "") of MODEL[/versions/VERSION][VERB]."""
    version = None
    if rest[:1] == ["versions"] and len(rest) > 1:
        (version, colon, verb), rest = rest[1].partition(":"), rest[2:]
    else:
        model, colon, verb = model.partition(":")
    return model, version, "".join([colon, verb, *(f"/{part}" for part in rest)])
