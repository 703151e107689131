"""Inference over HTTP: which of the protocols a path belongs to. Kept free of any framework: it must be fast."""

from edge_runtime.config import HttpConfig
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.service import InferenceService
from edge_runtime.transports.http.bodies import Bodies
from edge_runtime.transports.http.exchange import Exchange, Receive, Scope, Send
from edge_runtime.transports.http.oip import OpenInference
from edge_runtime.transports.http.predict import Predict
from edge_runtime.transports.http.repository import Repository
from edge_runtime.transports.http.tensor_calls import TensorCalls
from edge_runtime.transports.http.tfserving import TensorFlowServing
from edge_runtime.transports.repository import ModelRepository, ServedModels


class DataPlane:
    """Answers `/v2...`, `/v1...` and `/models/{m}/predict`."""

    def __init__(
        self,
        service: InferenceService,
        registry: Registry,
        config: HttpConfig,
        repository: ModelRepository | None = None,
    ) -> None:
        self.bodies = bodies = Bodies(config, service.workers)
        calls = TensorCalls(service, registry)
        self._oip = OpenInference(calls, registry, bodies, Repository(repository or ServedModels(registry), bodies))
        self._tensorflow = TensorFlowServing(calls, registry, bodies)
        self._predict = Predict(service, bodies)

    @property
    def ready(self) -> bool:
        """Whether the box says that it is ready."""
        return self._oip.ready

    @ready.setter
    def ready(self, ready: bool) -> None:
        self._oip.ready = ready

    def handles(self, path: str) -> bool:
        """Whether the path is one of ours."""
        # Three parts: a model may be named "predict", too.
        return (
            path == "/v2"
            or path.startswith(("/v2/", "/v1/"))
            or (path.startswith("/models/") and path.endswith("/predict") and path.count("/") == 3)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises EdgeError."""
        exchange = Exchange(scope, receive, send)
        match scope["path"].strip("/").split("/"):
            case ["v2", *parts]:
                await self._oip.answer(exchange, parts)
            case ["v1", *parts]:
                await self._tensorflow.answer(exchange, parts)
            case ["models", model, "predict"]:
                await self._predict.answer(exchange, model)
            case _:
                raise exchange.no_such_path()
