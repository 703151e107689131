"""What users of KServe's client write; run by a Python that has kserve: `kserve_peer.py URL`. Prints what it got."""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


async def main(url: str) -> dict[str, object]:
    """Ask everything that the client can ask of protocol v2, and the predictions of v1."""
    picture = np.arange(-32, 32, dtype=np.int8).reshape(1, 8, 8, 1)
    got: dict[str, object] = {}
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    got["live"] = await client.is_server_live(url)
    got["ready"] = await client.is_server_ready(url)
    got["model ready"] = await client.is_model_ready(url, "digits")
    got["other ready"] = await client.is_model_ready(url, "nope")
    for name, binary in (("JSON", False), ("binary", True)):
        tensor = InferInput("image", [1, 8, 8, 1], "INT8")
        tensor.set_data_from_numpy(picture, binary_data=binary)
        wanted = [RequestedOutput("scores", {"binary_data": binary})]
        answer = await client.infer(
            url, InferRequest("digits", [tensor], request_id="7", request_outputs=wanted), "digits"
        )
        got[name] = answer.outputs[0].as_numpy().tolist()
        got[f"{name} id"] = answer.id
    tensor = InferInput("x", [1, 2], "FP16")
    tensor.set_data_from_numpy(np.array([[-1.5, 65504]], np.float16), binary_data=True)
    request = InferRequest("half", [tensor], parameters={"binary_data_output": True})
    got["half"] = (await client.infer(url, request, "half")).outputs[0].as_numpy().tolist()
    tensor = InferInput("x", [1, 2], "BYTES")
    tensor.set_data_from_numpy(np.array([["Größe", "b"]], object), binary_data=True)
    answer = await client.infer(url, InferRequest("text", [tensor]), "text")
    got["text"] = np.ravel(answer.outputs[0].data).tolist()
    await client.close()
    client = InferenceRESTClient(RESTConfig(protocol="v1"))
    got["v1 ready"] = await client.is_model_ready(url, "digits")
    got["v1"] = (await client.infer(url, {"instances": picture.tolist()}, "digits"))["predictions"]
    await client.close()
    return got


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1]))))  # noqa: T201 - it is what it is for
