"""LitServe as its documentation shows it: one worker with an interpreter of its own."""

import sys

import litserve as ls
import numpy as np
from ai_edge_litert.interpreter import Interpreter


class Model(ls.LitAPI):
    """The four steps that LitServe asks for."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Open the model in the worker."""
        self.interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
        self.interpreter.allocate_tensors()
        self.source = self.interpreter.get_input_details()[0]
        self.result = self.interpreter.get_output_details()[0]

    def decode_request(self, request: dict) -> np.ndarray:
        """From JSON to a tensor."""
        return np.array(request["data"], np.int8).reshape(self.source["shape"])

    def predict(self, tensor: np.ndarray) -> np.ndarray:
        """Run the model."""
        self.interpreter.set_tensor(self.source["index"], tensor)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.result["index"])

    def encode_response(self, output: np.ndarray) -> dict:
        """From a tensor to JSON."""
        return {"data": output.ravel().tolist()}


if __name__ == "__main__":
    server = ls.LitServer(Model(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
