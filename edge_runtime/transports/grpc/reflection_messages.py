"""The message classes of reflection.proto, as in messages.py."""

from edge_runtime.transports.grpc.descriptors import load

_PROTOCOL = load("reflection")
DESCRIPTOR = _PROTOCOL.file
globals().update(_PROTOCOL.messages)
