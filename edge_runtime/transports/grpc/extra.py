"""gRPC is an extra: a box without it serves everything else."""

import importlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge_runtime.config import GrpcConfig
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.service import InferenceService
from edge_runtime.transports.repository import ModelRepository

if TYPE_CHECKING:
    from edge_runtime.transports.grpc.server import GrpcServer

log = logging.getLogger(__name__)


def installed() -> bool:
    """Whether the extra's libraries are here; from then on they are loaded."""
    try:
        importlib.import_module("hpack")
        importlib.import_module("google.protobuf.message_factory")
    except ImportError:
        return False
    return True


def open_server(
    config: GrpcConfig,
    host: str,
    service: InferenceService,
    registry: Registry,
    ready: Callable[[], bool],
    repository: ModelRepository | None = None,
) -> "GrpcServer | None":
    """A listener on `config.port`, or None where gRPC is off or not installed.

    Raises:
        DeviceError: the port cannot be had; the message names grpc.port.
    """
    if not config.enabled:
        return None
    if not installed():
        log.info("no gRPC on this box: pip install 'edge-runtime[grpc]' adds it, grpc.enabled=false ends this line")
        return None
    from edge_runtime.transports.grpc.server import GrpcServer  # noqa: PLC0415 - needs the extra

    return GrpcServer(config, host, service, registry, ready, repository)
