"""The interpreter on the host: LiteRT with the kernels asked for, one thread."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from converters.errors import ConvertError
from edge_runtime.contract.quantization import dequantize, quantize
from edge_runtime.contract.tensors import DATATYPES, TensorSpec

Kernels = Literal["builtin", "fast"]
Tensors = dict[str, NDArray[Any]]


@contextmanager
def native_silence() -> Iterator[None]:
    """Keep what native code logs (to file descriptor 2) out of the user's terminal."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as sink:  # noqa: PTH123 - os.devnull is no path to work with
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


class Model:
    """A .tflite ready to run, with one thread.

    `kernels`: "builtin" are the reference kernels that golden vectors are taken with, bit-equal on every engine;
    "fast" is what a box uses by default (XNNPACK). Raises ConvertError if the engine refuses the model.
    """

    def __init__(self, content: bytes, kernels: Kernels = "builtin") -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType  # noqa: PLC0415 - heavy
        except ImportError as error:
            raise ConvertError(f"LiteRT is missing here ({error}): pip install 'edge-runtime[convert]'") from error

        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if kernels == "builtin" else OpResolverType.AUTO
        self.size_bytes = len(content)
        try:
            with native_silence():
                self._interpreter = Interpreter(
                    model_content=content, num_threads=1, experimental_op_resolver_type=resolver
                )
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ConvertError(f"the engine refuses the model: {first_line(error)}") from error
        inputs, outputs = signature_names(self._interpreter)
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self.inputs = tuple(tensor_spec(detail, inputs) for detail in self._inputs)
        self.outputs = tuple(tensor_spec(detail, outputs) for detail in self._outputs)
        for specs in (self.inputs, self.outputs):
            if not specs:
                raise ConvertError(f"the model has {len(self.inputs)} inputs and {len(self.outputs)} outputs")
            names = [spec.name for spec in specs]
            if "" in names or len(set(names)) < len(names):
                raise ConvertError(f"the model's tensors need names of their own, but are called {names}")

    @property
    def reduced(self) -> bool:
        """Whether any tensor is stored with fewer bits than float32."""
        details = self._interpreter.get_tensor_details()
        return any(len(d["quantization_parameters"]["scales"]) or d["dtype"] is np.float16 for d in details)

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Concrete shape of one vector by input name: 1 where the model leaves the batch open."""
        return {spec.name: _shape(detail) for spec, detail in zip(self.inputs, self._inputs, strict=True)}

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Concrete shape by output name: what one run on zeros gives, for a model may leave shapes open until then."""
        zeros = self.store({name: np.zeros(shape) for name, shape in self.input_shapes.items()})
        return {name: values.shape for name, values in self.run(zeros).items()}

    def run(self, stored: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run on stored tensors by input name (dtype and shape of the model); gives stored tensors by output name."""
        for spec, detail in zip(self.inputs, self._inputs, strict=True):
            self._interpreter.set_tensor(detail["index"], stored[spec.name])
        self._interpreter.reset_all_variables()  # a recurrent model must not remember the sample before
        self.invoke()
        outputs = zip(self.outputs, self._outputs, strict=True)
        return {spec.name: np.asarray(self._interpreter.get_tensor(detail["index"])) for spec, detail in outputs}

    def invoke(self) -> None:
        """Run once more on the inputs as they are set."""
        try:
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise ConvertError(f"the model fails when it runs: {first_line(error)}") from error

    def store(self, real: Mapping[str, NDArray[Any]]) -> Tensors:
        """Real values by input name to what the model stores."""
        return {spec.name: quantize(real[spec.name], spec) for spec in self.inputs}

    def predict(self, real: Mapping[str, NDArray[Any]]) -> Tensors:
        """Real inputs of one sample by name to real float32 outputs by name."""
        stored = self.run(self.store(real))
        return {spec.name: dequantize(stored[spec.name], spec) for spec in self.outputs}


def signature_names(interpreter: Any) -> tuple[dict[int, str], dict[int, str]]:
    """Names of inputs and of outputs by tensor index: the signature's where there is exactly one, else none.

    The same rule holds on the box, so that golden vectors and requests use the same names.
    """
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        return {}, {}
    runner = interpreter.get_signature_runner()
    inputs = {detail["index"]: name for name, detail in runner.get_input_details().items()}
    outputs = {detail["index"]: name for name, detail in runner.get_output_details().items()}
    return inputs, outputs


def tensor_spec(detail: Mapping[str, Any], names: Mapping[int, str]) -> TensorSpec:
    """The spec of an interpreter's tensor detail; an axis that the model leaves open is -1."""
    dtype = np.dtype(detail["dtype"]).name
    if dtype not in DATATYPES:
        raise ConvertError(f"tensor {detail['name']!r} holds {dtype}, which a box cannot exchange")
    signature = detail["shape_signature"]
    shape = signature if len(signature) == len(detail["shape"]) else detail["shape"]
    scale, zero_point = detail["quantization"]
    name = names.get(detail["index"], detail["name"])
    return TensorSpec(name, DATATYPES[dtype], tuple(int(n) for n in shape), float(scale), int(zero_point))


def _shape(detail: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(n) for n in detail["shape"])


def first_line(error: BaseException) -> str:
    """The part of a third party's error that fits one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
