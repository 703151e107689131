"""The protocol's names and numbers, against another implementation of it."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peers import ROOT, require_library

require_library("grpc.aio", "edge-runtime[grpc]")

import grpc  # noqa: E402 - needs the extra, as all below

from edge_runtime.errors import Code  # noqa: E402
from edge_runtime.transports.grpc import messages  # noqa: E402
from edge_runtime.transports.status import GRPC_STATUS  # noqa: E402

REFLECTION = "grpc_reflection.v1alpha.reflection_pb2"
ROOM = ROOT / "edge_runtime" / "transports" / "grpc"


def fields(message: Any) -> dict[str, tuple[Any, ...]]:
    """Number, type and cardinality of every field, by its full name, of a message and those inside it."""
    found = {
        field.full_name: (field.number, field.type, field.is_repeated, field.message_type and field.message_type.name)
        for field in message.fields
    }
    for nested in message.nested_types:
        found |= fields(nested)
    return found


# KServe's, where Triton's answers have no field (its own field numbers are in tests/transports/grpc_oip/ask_kserve.py).
KSERVES = {
    "inference.RepositoryModelLoadResponse.model_name",
    "inference.RepositoryModelLoadResponse.isLoaded",
    "inference.RepositoryModelUnloadResponse.model_name",
    "inference.RepositoryModelUnloadResponse.isUnloaded",
}


def test_messages_are_those_that_tritonclient_knows() -> None:
    """Both are loaded in this process; every field and every enum of ours has the same name, number and type there."""
    require_library("tritonclient.grpc", "tritonclient[grpc]")
    from tritonclient.grpc import model_config_pb2, service_pb2  # noqa: PLC0415 - see above

    known = dict(model_config_pb2.DESCRIPTOR.message_types_by_name) | dict(service_pb2.DESCRIPTOR.message_types_by_name)
    for name, message in messages.DESCRIPTOR.message_types_by_name.items():
        ours, theirs = fields(message), fields(known[name])
        assert {key: value for key, value in ours.items() if key not in KSERVES} == {
            key: theirs.get(key) for key in ours if key not in KSERVES
        }
    for name, enum in messages.DESCRIPTOR.enum_types_by_name.items():
        other = model_config_pb2.DESCRIPTOR.enum_types_by_name[name]
        assert [(value.name, value.number) for value in enum.values] == [
            (value.name, other.values_by_name[value.name].number) for value in enum.values
        ]


@pytest.mark.parametrize(("ours", "module"), [("health", "grpc_health.v1.health_pb2"), ("reflection", REFLECTION)])
def test_standard_services_are_those_of_grpcs_own_packages(ours: str, module: str) -> None:
    """Health and reflection: the same messages, fields and calls."""
    require_library(module.partition(".")[0], f"grpcio-{ours}")
    mine = importlib.import_module(f"edge_runtime.transports.grpc.{ours}_messages").DESCRIPTOR
    theirs = importlib.import_module(module).DESCRIPTOR
    assert mine.message_types_by_name.keys() == theirs.message_types_by_name.keys()
    for name, message in mine.message_types_by_name.items():
        assert _unversioned(fields(message)) == _unversioned(fields(theirs.message_types_by_name[name]))
    for name, service in mine.services_by_name.items():
        assert service.methods_by_name.keys() == theirs.services_by_name[name].methods_by_name.keys()


def _unversioned(found: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return {name.replace(".v1alpha.", ".v1."): value for name, value in found.items()}


def test_calls_are_those_that_tritonclient_knows() -> None:
    """Same service, same methods, same messages."""
    require_library("tritonclient.grpc", "tritonclient[grpc]")
    from tritonclient.grpc import service_pb2  # noqa: PLC0415 - see above

    (service,) = messages.DESCRIPTOR.services_by_name.values()
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == theirs.full_name
    for method in service.methods:
        other = theirs.methods_by_name[method.name]
        assert (method.input_type.full_name, method.output_type.full_name) == (
            other.input_type.full_name,
            other.output_type.full_name,
        )


def test_the_compiled_protocols_are_those_of_the_texts(tmp_path: Path) -> None:
    """`make proto` was run after the last change."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed; it is needed only for `make proto`")
    for name in ("open_inference", "health", "reflection"):
        options = [f"--descriptor_set_out={tmp_path / 'made.binpb'}", f"{name}.proto"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOM), *options], check=True)
        assert (tmp_path / "made.binpb").read_bytes() == (ROOM / f"{name}.binpb").read_bytes()


@pytest.mark.parametrize("code", list(Code))
def test_every_error_has_a_status(code: Code) -> None:
    """The table is complete, and its names are gRPC's."""
    assert grpc.StatusCode[GRPC_STATUS[code]] not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)


def test_protobuf_in_pure_python_is_enough() -> None:
    """On 32-bit ARM protobuf has no compiled part."""
    tests = [str(Path(__file__).parent / f"test_grpc_{name}.py") for name in ("server", "tensors")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", "answered or refused"]
    environment = os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
