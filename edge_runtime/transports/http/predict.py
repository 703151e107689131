"""`POST /models/{m}/predict`: for people, who send what they have and want to read the answer."""

from urllib.parse import parse_qs

from edge_runtime.errors import CallerError
from edge_runtime.inference.call import Call
from edge_runtime.inference.service import InferenceService, Sample
from edge_runtime.inference.workers import ON_LOOP_BYTES
from edge_runtime.transports.http import call_headers
from edge_runtime.transports.http.bodies import Bodies, BodyShare
from edge_runtime.transports.http.exchange import Exchange

SOURCE = "http"
_YES, _NO = ("1", "true"), ("0", "false")
_MAX_FIELDS = 16


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
        call = Call(
            SOURCE,
            call_headers.deadline(exchange),
            traceparent=call_headers.traceparent(exchange),
            raw=wants_tensors(exchange.scope["query_string"]),
        )
        body = await self._bodies.read(exchange, share)
        sample = Sample(body, exchange.header(b"content-type"))
        answer = await exchange.while_connected(self._service.predict(model, sample, call=call))
        document = {
            "model": answer.model,
            "version": answer.version,
            "result": answer.result,
            "latency_ms": answer.latency_ms,
        }
        size = ON_LOOP_BYTES + 1 if call.raw else 0
        await self._bodies.answer_document(exchange, size, lambda: document)


def wants_tensors(query: bytes) -> bool:
    """Whether `?raw=1` (or `true`) asks for the output tensors beside the answer.

    Raises:
        CallerError: it has another value: who misspells it should not wait for tensors that never come.
    """
    if not query:
        return False
    try:
        asked = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS).get("raw", ["0"])
    except ValueError as error:
        raise CallerError(f"the query has more than {_MAX_FIELDS} fields") from error
    if asked[-1] not in _YES + _NO:
        raise CallerError(f"raw must be 1 or 0, but is {asked[-1][:20]!r}")
    return asked[-1] in _YES
