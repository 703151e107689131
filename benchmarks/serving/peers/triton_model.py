"""The model of Triton's Python backend: LiteRT with one thread."""

from pathlib import Path

import triton_python_backend_utils as pb_utils
from ai_edge_litert.interpreter import Interpreter


class TritonPythonModel:
    """What the backend calls."""

    def initialize(self, args: dict) -> None:
        """Open the model beside this file."""
        path = Path(args["model_repository"]) / args["model_version"] / "model.tflite"
        self.interpreter = Interpreter(model_path=str(path), num_threads=1)
        self.interpreter.allocate_tensors()
        self.source = self.interpreter.get_input_details()[0]["index"]
        self.result = self.interpreter.get_output_details()[0]["index"]

    def execute(self, requests: list) -> list:
        """Run the model once for each request."""
        responses = []
        for request in requests:
            self.interpreter.set_tensor(self.source, pb_utils.get_input_tensor_by_name(request, "x").as_numpy())
            self.interpreter.invoke()
            output = pb_utils.Tensor("y", self.interpreter.get_tensor(self.result))
            responses.append(pb_utils.InferenceResponse([output]))
        return responses
