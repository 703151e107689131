"""The payloads of the topics, as plain data, and their JSON."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from edge_runtime.events import Deployment, Result
from edge_runtime.transports import codec
from edge_runtime.transports.mqtt.gaps import Gap

ONLINE = b"online"
OFFLINE = b"offline"


def timestamp(seconds: float) -> str:
    """UNIX time in seconds as an RFC 3339 UTC string with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def result(device: str, event: Result) -> dict[str, Any]:
    """What goes to results/{model}; boot and seq are filled in by the outbox."""
    document = {
        "device": device,
        "model": event.model,
        "version": event.version,
        "boot": "",
        "seq": 0,
        "time": timestamp(event.time),
        "source": event.source,
        "result": event.result,
        "latency_ms": round(event.latency_ms, 3),
    }
    return document | {"traceparent": event.traceparent} if event.traceparent else document


def deployment(device: str, boot: str, event: Deployment, now: float) -> dict[str, Any]:
    """What goes to events when a deployment ended."""
    return {
        "device": device,
        "kind": event.kind,
        "boot": boot,
        "time": timestamp(now),
        "model": event.model,
        "version": event.version,
        "reason": event.reason,
        "details": dict(event.details),
    }


def gap(device: str, gone: Gap, now: float) -> dict[str, Any]:
    """What goes to events where results were dropped: which (boot, seq) a subscriber must not wait for."""
    return {
        "device": device,
        "kind": "gap",
        "boot": gone.boot,
        "time": timestamp(now),
        "first_seq": gone.first,
        "last_seq": gone.last,
        "dropped_results": gone.results,
        "dropped_events": gone.events,
    }


def request_failed(device: str, boot: str, model: str, error: Mapping[str, Any], now: float) -> dict[str, Any]:
    """What goes to events when a request failed that named no response topic."""
    return {
        "device": device,
        "kind": "request_failed",
        "boot": boot,
        "time": timestamp(now),
        "model": model,
        "reason": error.get("error", ""),
        "code": error.get("code", ""),
    }


def encode(document: Any) -> bytes:
    """JSON of plain data; what JSON cannot say (numpy's types, other objects) becomes a number, a list or a string."""
    try:
        return codec.encode_json(document)
    except (ValueError, TypeError):
        return codec.encode_json(_plain(document))


def _plain(value: Any, depth: int = 64) -> Any:
    if depth == 0:
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth - 1) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    # numpy's arrays and scalars, without importing numpy for it
    return _plain(value.tolist(), depth - 1) if hasattr(value, "tolist") else str(value)
