"""Traces are an extra, and off unless a collector is configured."""

import importlib.util
import logging
from typing import TYPE_CHECKING

from edge_runtime import __version__
from edge_runtime.config import DeviceConfig, TelemetryConfig

if TYPE_CHECKING:
    from edge_runtime.transports.otlp.tracer import SpanTracer

log = logging.getLogger(__name__)

_EXPORTER = "opentelemetry.exporter.otlp.proto.http"
MISSING = "traces need the extra: pip install 'edge-runtime[otel]', or set telemetry.otlp_endpoint to \"\""


def installed() -> bool:
    """Whether the extra's libraries are here; nothing of them is loaded."""
    try:
        return importlib.util.find_spec(_EXPORTER) is not None
    except ImportError:  # one of the packages around it is missing
        return False


def open_tracer(config: TelemetryConfig, device: DeviceConfig, device_id: str) -> "SpanTracer | None":
    """What records requests; None where traces are off, or cannot be had: a box serves without them, too."""
    if not config.otlp_endpoint:
        return None
    if not installed():
        log.error("%s", MISSING)
        return None
    from edge_runtime.transports.otlp.tracer import SpanTracer  # noqa: PLC0415 - only where traces are on

    return SpanTracer(config, resource(config, device, device_id))


def resource(config: TelemetryConfig, device: DeviceConfig, device_id: str) -> dict[str, str]:
    """Who records, in OpenTelemetry's words (semantic conventions: service, host, device)."""
    return {
        "service.name": config.service_name,
        "service.version": __version__,
        "service.instance.id": device_id,
        "host.name": device.name,
        "device.id": device_id,
        **{f"edge.label.{name}": value for name, value in device.labels.items()},
    }
