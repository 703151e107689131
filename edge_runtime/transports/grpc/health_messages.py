"""The message classes of health.proto, as in messages.py."""

from edge_runtime.transports.grpc.descriptors import load

_PROTOCOL = load("health")
DESCRIPTOR = _PROTOCOL.file
globals().update(_PROTOCOL.messages)
