"""`POST /models/{m}/predict`: for people, who send what they have and want to read the answer."""

from edge_runtime.inference.call import Call
from edge_runtime.inference.service import InferenceService, Sample
from edge_runtime.transports.http import call_headers
from edge_runtime.transports.http.bodies import Bodies, BodyShare
from edge_runtime.transports.http.exchange import Exchange

SOURCE = "http"


class Predict:
    """Answers predictions."""

    def __init__(self, service: InferenceService, bodies: Bodies) -> None:
        self._service = service
        self._bodies = bodies

    async def answer(self, exchange: Exchange, model: str) -> None:
        """Answer one request for `model`."""
        exchange.check_method("POST")
        with self._bodies.share() as share:
            await self._predict(exchange, model, share)

    async def _predict(self, exchange: Exchange, model: str, share: BodyShare) -> None:
        call = Call(SOURCE, call_headers.deadline(exchange), traceparent=call_headers.traceparent(exchange))
        body = await self._bodies.read(exchange, share)
        sample = Sample(body, exchange.header(b"content-type"))
        answer = await exchange.while_connected(self._service.predict(model, sample, call=call))
        document = {
            "model": answer.model,
            "version": answer.version,
            "result": answer.result,
            "latency_ms": answer.latency_ms,
        }
        await self._bodies.answer_document(exchange, 0, lambda: document)
