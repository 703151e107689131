"""The protocol's message classes, from `open_inference.binpb`. messages.pyi has their types; see README.md.

Nested classes are not attributes at run time where protobuf is pure Python (32-bit ARM): quote them in annotations.
"""

from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_SET = descriptor_pb2.FileDescriptorSet.FromString(
    resources.files(__package__).joinpath("open_inference.binpb").read_bytes()
)
# Not the default pool: another library's copy of the same protocol may be in it.
_POOL = descriptor_pool.DescriptorPool()
for _file in _SET.file:
    _POOL.AddSerializedFile(_file.SerializeToString())

DESCRIPTOR = _POOL.FindFileByName("open_inference.proto")
globals().update(
    {name: message_factory.GetMessageClass(message) for name, message in DESCRIPTOR.message_types_by_name.items()}
)
