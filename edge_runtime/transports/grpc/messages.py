"""The inference protocol's message classes, from `open_inference.binpb`. messages.pyi has their types; see README.md.

Nested classes are not attributes at run time where protobuf is pure Python (32-bit ARM): quote them in annotations.
"""

from edge_runtime.transports.grpc.descriptors import load

_PROTOCOL = load("open_inference")
DESCRIPTOR = _PROTOCOL.file
globals().update(_PROTOCOL.messages)
