"""`POST /models/{m}/predict`: for people, who send what they have and want to read the answer."""

from collections.abc import Mapping
from urllib.parse import parse_qs

from edge_runtime.errors import CallerError
from edge_runtime.inference.call import Call, SequenceStep
from edge_runtime.inference.service import InferenceService, Sample
from edge_runtime.inference.workers import ON_LOOP_BYTES
from edge_runtime.transports.http import call_headers
from edge_runtime.transports.http.bodies import Bodies, BodyShare
from edge_runtime.transports.http.exchange import Exchange
from edge_runtime.transports.parameters import sequence_of

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
        asked = asked_for(exchange.scope["query_string"])
        call = Call(
            SOURCE,
            call_headers.deadline(exchange),
            traceparent=call_headers.traceparent(exchange),
            sequence=_step(asked),
            raw=flag(asked, "raw"),
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


def asked_for(query: bytes) -> dict[str, str]:
    """What the query string asks for, by name; of a name that comes twice the last counts.

    Raises:
        CallerError: it has more fields than anybody needs.
    """
    if not query:
        return {}
    try:
        found = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise CallerError(f"the query has more than {_MAX_FIELDS} fields") from error
    return {name: values[-1] for name, values in found.items()}


def flag(asked: Mapping[str, str], name: str) -> bool:
    """Whether `?name=1` (or `true`) is there.

    Raises:
        CallerError: it has another value: who misspells it should not wait for what never comes.
    """
    value = asked.get(name, "0")
    if value not in _YES + _NO:
        raise CallerError(f"{name} must be 1 or 0, but is {value[:20]!r}")
    return value in _YES


def _step(asked: Mapping[str, str]) -> SequenceStep | None:
    """`?sequence_id=ID&sequence_start=1&sequence_end=1`: the parameters of tensor requests, under the same names."""
    flags = {name: flag(asked, name) for name in ("sequence_start", "sequence_end")}
    return sequence_of({"sequence_id": asked.get("sequence_id", "")} | flags)
