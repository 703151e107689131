"""Protocols from their compiled form. See README.md for why there is no generated code."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol: its description, and its message classes by name."""

    file: FileDescriptor
    messages: Mapping[str, type[Message]]


def load(name: str) -> Protocol:
    """The protocol in `NAME.binpb`, in a pool of its own: another library's copy of it may be in the default one."""
    data = resources.files(__package__).joinpath(f"{name}.binpb").read_bytes()
    (described,) = descriptor_pb2.FileDescriptorSet.FromString(data).file
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(described.SerializeToString())
    file = pool.FindFileByName(described.name)
    classes = {name: message_factory.GetMessageClass(found) for name, found in file.message_types_by_name.items()}
    return Protocol(file, classes)
