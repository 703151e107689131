"""Triton's model repository extension over HTTP: what is installed, and having it in memory or not."""

from collections.abc import Sequence
from typing import Any

from edge_runtime.errors import CallerError
from edge_runtime.transports.codec import decode_json
from edge_runtime.transports.http.bodies import Bodies
from edge_runtime.transports.http.exchange import Exchange
from edge_runtime.transports.repository import ModelRepository, check_load


class Repository:
    """Answers what is below `/v2/repository`."""

    def __init__(self, repository: ModelRepository, bodies: Bodies) -> None:
        self._repository = repository
        self._bodies = bodies

    async def answer(self, exchange: Exchange, parts: Sequence[str]) -> None:
        """Answer one request; `parts` are those of the path behind "repository"."""
        match parts:
            case ["index"]:
                exchange.check_method("POST")
                await exchange.answer(self._index(await self._document(exchange)))
            case ["models", model, "load"]:
                exchange.check_method("POST")
                check_load(_parameters(await self._document(exchange)))
                await self._repository.load(model)
                await exchange.answer({})
            case ["models", model, "unload"]:
                exchange.check_method("POST")
                _parameters(await self._document(exchange))
                await self._repository.unload(model)
                await exchange.answer({})
            case _:
                raise exchange.no_such_path()

    async def _document(self, exchange: Exchange) -> dict[str, Any]:
        with self._bodies.share() as share:
            body = await self._bodies.read(exchange, share)
            document = decode_json(body) if body else {}
        if not isinstance(document, dict):
            raise CallerError("the body must be a JSON object, or empty")
        return document

    def _index(self, document: dict[str, Any]) -> list[dict[str, str]]:
        ready = document.get("ready", False)
        if not isinstance(ready, bool):
            raise CallerError(f"ready must be true or false, but is {ready!r:.100}")
        return [
            {"name": entry.name, "version": entry.version, "state": entry.state, "reason": entry.reason}
            for entry in self._repository.index()
            if entry.state == "READY" or not ready
        ]


def _parameters(document: dict[str, Any]) -> dict[str, Any]:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise CallerError(f"parameters must be an object, but are {parameters!r:.100}")
    return parameters
