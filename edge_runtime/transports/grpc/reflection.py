"""gRPC's server reflection, v1 and v1alpha: what this server can be asked, for clients that bring no .proto file."""

from collections.abc import Iterable

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from edge_runtime.transports.grpc import reflection_messages as wire
from edge_runtime.transports.grpc.reception import Methods
from edge_runtime.transports.grpc.rpc import STATUS, Context
from edge_runtime.transports.grpc.stream_rpc import Messages

_V1, _V1ALPHA = "grpc.reflection.v1", "grpc.reflection.v1alpha"
_METHOD = "ServerReflection/ServerReflectionInfo"


class Reflection:
    """Answers from the descriptions of the protocols that are served; none of them imports another."""

    def __init__(self, files: Iterable[FileDescriptor]) -> None:
        described = [_copy(file) for file in (*files, wire.DESCRIPTOR)]
        described.append(_alpha(described[-1]))
        self._files = {file.name: file for file in described}
        self._symbols = {symbol: file for file in described for symbol in _symbols(file)}
        self._services = [f"{file.package}.{service.name}" for file in described for service in file.service]

    def methods(self) -> Methods:
        """What a server needs to call it. The versions differ in their name only."""
        return Methods(streaming={f"/{package}.{_METHOD}": self._answer_all for package in (_V1, _V1ALPHA)})

    async def _answer_all(self, incoming: Messages, _: Context) -> None:
        async for data in incoming:
            request = wire.ServerReflectionRequest.FromString(data)
            answer = wire.ServerReflectionResponse(valid_host=request.host, original_request=request)
            self._answer(request, answer)
            await incoming.send(answer.SerializeToString())

    def _answer(self, request: wire.ServerReflectionRequest, answer: wire.ServerReflectionResponse) -> None:
        match request.WhichOneof("message_request"):
            case "list_services":
                for name in sorted(self._services):
                    answer.list_services_response.service.add(name=name)
                return
            case "file_by_filename":
                found, what = self._files.get(request.file_by_filename), request.file_by_filename
            case "file_containing_symbol":
                found, what = self._symbols.get(request.file_containing_symbol), request.file_containing_symbol
            case "all_extension_numbers_of_type":  # proto3 has none
                found, what = None, request.all_extension_numbers_of_type
            case _:
                found, what = None, "an extension"
        if found is None:
            answer.error_response.error_code = STATUS["NOT_FOUND"]
            answer.error_response.error_message = f"{what[:100]} is not known here"
        else:
            answer.file_descriptor_response.file_descriptor_proto.append(found.SerializeToString())


def _copy(file: FileDescriptor) -> FileDescriptorProto:
    described = FileDescriptorProto()
    file.CopyToProto(described)
    return described


def _alpha(file: FileDescriptorProto) -> FileDescriptorProto:
    """The older version's description: the same under another package."""
    alpha = FileDescriptorProto.FromString(file.SerializeToString())
    alpha.name, alpha.package = "reflection_v1alpha.proto", _V1ALPHA

    def renamed(name: str) -> str:
        return name.replace(f".{_V1}.", f".{_V1ALPHA}.")

    for service in alpha.service:
        for method in service.method:
            method.input_type, method.output_type = renamed(method.input_type), renamed(method.output_type)
    for message in alpha.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = renamed(field.type_name)
    return alpha


def _symbols(file: FileDescriptorProto) -> Iterable[str]:
    """The full names of what a file defines: services and their methods, messages and what is in them, enums."""
    for service in file.service:
        yield f"{file.package}.{service.name}"
        yield from (f"{file.package}.{service.name}.{method.name}" for method in service.method)
    names = [(f"{file.package}.{message.name}", message) for message in file.message_type]
    while names:
        name, message = names.pop()
        yield name
        yield from (f"{name}.{field.name}" for field in message.field)
        yield from (f"{name}.{enum.name}" for enum in message.enum_type)
        names += [(f"{name}.{nested.name}", nested) for nested in message.nested_type]
    yield from (f"{file.package}.{enum.name}" for enum in file.enum_type)
