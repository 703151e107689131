"""What the load asks, in each contestant's form, and what it must answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

COUNT = 8

# From a tensor to the headers and the body of a request.
Encoder = Callable[[NDArray[np.int8]], tuple[dict[str, str], bytes]]


@dataclass(frozen=True)
class Questions:
    """Inputs for one model with their right answers.

    Attributes:
        inputs: int8 (COUNT, *shape of the model's input).
        answers: int8 (COUNT, numbers in the model's output), from the bare engine.
    """

    model: str
    inputs: NDArray[np.int8]
    answers: NDArray[np.int8]


def ask_engine(model: str, path: Path) -> Questions:
    """Random inputs for the model, and what the bare engine answers."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    inputs = np.random.default_rng(3).integers(-128, 128, (COUNT, *source["shape"]), np.int8)
    answers = []
    for one in inputs:
        interpreter.set_tensor(source["index"], one)
        interpreter.invoke()
        answers.append(interpreter.get_tensor(result["index"]).ravel())
    return Questions(model, inputs, np.array(answers))


def oip_json(tensor: NDArray[np.int8], **parameters: Any) -> tuple[dict[str, str], bytes]:
    """Headers and body of an Open Inference Protocol request in JSON."""
    entry = {"name": "x", "shape": tensor.shape, "datatype": "INT8", "data": tensor.ravel().tolist()}
    document: dict[str, Any] = {"inputs": [entry]} | ({"parameters": parameters} if parameters else {})
    return {"Content-Type": "application/json"}, json.dumps(document, separators=(",", ":")).encode()


def oip_binary(tensor: NDArray[np.int8]) -> tuple[dict[str, str], bytes]:
    """Headers and body by Triton's binary tensor data extension, both ways."""
    entry = {
        "name": "x",
        "shape": tensor.shape,
        "datatype": "INT8",
        "parameters": {"binary_data_size": tensor.nbytes},
    }
    document = {"inputs": [entry], "parameters": {"binary_data_output": True}}
    head = json.dumps(document, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return headers, head + tensor.tobytes()


def plain_json(tensor: NDArray[np.int8]) -> tuple[dict[str, str], bytes]:
    """Headers and body as a tutorial's own application takes them."""
    return {"Content-Type": "application/json"}, json.dumps({"data": tensor.ravel().tolist()}).encode()


def shapes(path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the model's input and output."""
    interpreter = Interpreter(str(path), num_threads=1)
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    return tuple(map(int, source["shape"])), tuple(map(int, result["shape"]))
