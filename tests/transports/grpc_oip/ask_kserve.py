"""Asks a box over gRPC as KServe's users do. Runs in an environment of its own, which has kserve: ask_kserve.py PORT.

Prints one JSON document of what came back.
"""

import asyncio
import json
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as wire
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

SHAPE = [1, 8, 8, 1]


def request(*, raw: bool) -> InferRequest:
    """A picture of zeros for the digits model; KServe's client sends numpy arrays raw where it is told to."""
    tensor = InferInput("image", SHAPE, "INT8")
    tensor.set_data_from_numpy(np.zeros(SHAPE, np.int8), binary_data=raw)
    return InferRequest("digits", [tensor], request_id="7", parameters={"priority": 1})


async def refusal(client: InferenceGRPCClient) -> str:
    """The status of a request for a model that is not there."""
    asked = request(raw=True)
    asked.model_name = "nope"
    try:
        await client.infer(asked)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "answered"


async def main(port: str) -> None:
    """Ask everything that the client can."""
    found: dict[str, object] = {}
    async with InferenceGRPCClient(f"127.0.0.1:{port}") as client:
        found["live"] = await client.is_server_live()
        found["ready"] = await client.is_server_ready()
        found["models"] = [await client.is_model_ready(name) for name in ("digits", "nope")]
        for raw in (False, True):
            answer = await client.infer(request(raw=raw))
            (output,) = answer.outputs
            found["raw" if raw else "typed"] = [
                answer.id, answer.model_name, answer.model_version, output.name, output.datatype, list(output.shape),
                output.as_numpy().reshape(-1).tolist(),
            ]  # fmt: skip
        found["unknown"] = await refusal(client)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        loaded = await stub.RepositoryModelLoad(wire.RepositoryModelLoadRequest(model_name="digits"))
        found["loaded"] = [loaded.model_name, loaded.isLoaded]
        metadata = await stub.ModelMetadata(wire.ModelMetadataRequest(name="digits"))
        found["inputs"] = [[tensor.name, tensor.datatype, list(tensor.shape)] for tensor in metadata.inputs]
    print(json.dumps(found))  # noqa: T201 - its answer


asyncio.run(main(sys.argv[1]))
