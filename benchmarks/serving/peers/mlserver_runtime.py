"""MLServer's custom runtime: LiteRT behind its NumPy codec."""

from ai_edge_litert.interpreter import Interpreter
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class LiteRT(MLModel):
    """One model file in one interpreter."""

    async def load(self) -> bool:
        """Open the model that the settings name."""
        self.interpreter = Interpreter(model_path=self.settings.parameters.uri, num_threads=1)
        self.interpreter.allocate_tensors()
        self.source = self.interpreter.get_input_details()[0]
        self.result = self.interpreter.get_output_details()[0]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the model."""
        self.interpreter.set_tensor(self.source["index"], NumpyCodec.decode_input(payload.inputs[0]))
        self.interpreter.invoke()
        output = NumpyCodec.encode_output("y", self.interpreter.get_tensor(self.result["index"]))
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])
