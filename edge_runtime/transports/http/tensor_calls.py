"""A tensor request on its way to the data plane: dropped when its caller hangs up while it waits."""

from edge_runtime.inference.call import Call
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.runner import Tensors
from edge_runtime.inference.service import Inference, InferenceService
from edge_runtime.transports.http.exchange import Exchange

Target = tuple[str, str | None]  # model and version; None is the active one


class TensorCalls:
    """What every tensor protocol over HTTP calls."""

    def __init__(self, service: InferenceService, registry: Registry) -> None:
        self._service = service
        self._registry = registry
        self.workers = service.workers

    async def run(self, exchange: Exchange, target: Target, tensors: Tensors, call: Call) -> Inference:
        """See `InferenceService.infer`; also raises Disconnected."""
        runner = self._registry.find(*target).runner
        work = self._service.infer(target[0], tensors, version=target[1], call=call)
        # Only what would wait can be dropped: it is not worth a second task otherwise.
        return await (exchange.while_connected(work) if runner.busy >= runner.size else work)
