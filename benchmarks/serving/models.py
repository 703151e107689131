"""The models that every contestant serves, made here: random weights, quantized to int8, no TensorFlow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray

from converters.engine import native_silence
from converters.quantize import quantize
from converters.samples import Samples

_SCHEMA = flatbuffer_utils.schema_fb
_RELU, _RELU6 = _SCHEMA.ActivationFunctionType.RELU, _SCHEMA.ActivationFunctionType.RELU6
_NONE = _SCHEMA.ActivationFunctionType.NONE
_OPERATOR, _OPTIONS = _SCHEMA.BuiltinOperator, _SCHEMA.BuiltinOptions
_SAME = _SCHEMA.Padding.SAME

# Table 2 of Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018):
# expansion, channels, repeats, stride of the first.
_BOTTLENECKS = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


class _Graph:
    """A float .tflite as it grows, one operator after the other; every call returns its output tensor's number."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._model = _SCHEMA.ModelT()
        self._subgraph = _SCHEMA.SubGraphT()
        self._subgraph.tensors, self._subgraph.operators = [], []
        self._model.operatorCodes, self._model.buffers = [], [_SCHEMA.BufferT()]

    def tensor(self, name: str, shape: Sequence[int], values: NDArray[Any] | None = None) -> int:
        """A tensor, constant where it has values."""
        tensor = _SCHEMA.TensorT()
        tensor.name, tensor.shape = name.encode(), np.array(shape, np.int32)
        if values is not None:
            tensor.type = _SCHEMA.TensorType.INT32 if values.dtype == np.int32 else _SCHEMA.TensorType.FLOAT32
            buffer = _SCHEMA.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            self._model.buffers.append(buffer)
            tensor.buffer = len(self._model.buffers) - 1
        self._subgraph.tensors.append(tensor)
        return len(self._subgraph.tensors) - 1

    def _shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(int(n) for n in self._subgraph.tensors[tensor].shape)

    def _weights(self, shape: Sequence[int], fan_in: int) -> int:
        # He et al. (2015): keeps the size of activations from layer to layer.
        values = self._random.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
        return self.tensor(f"w{len(self._subgraph.tensors)}", shape, values)

    def _bias(self, channels: int) -> int:
        return self.tensor(f"b{len(self._subgraph.tensors)}", (channels,), np.zeros(channels, np.float32))

    def _add_operator(self, kind: int, inputs: Sequence[int], shape: Sequence[int], options: tuple[int, Any]) -> int:
        code = _SCHEMA.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode = kind, kind
        self._model.operatorCodes.append(code)
        operator = _SCHEMA.OperatorT()
        operator.opcodeIndex = len(self._model.operatorCodes) - 1
        operator.builtinOptionsType, operator.builtinOptions = options
        result = self.tensor(f"t{len(self._subgraph.tensors)}", shape)
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([result], np.int32)
        self._subgraph.operators.append(operator)
        return result

    def dense(self, source: int, units: int, activation: int = _NONE) -> int:
        """A fully connected layer."""
        width = self._shape(source)[-1]
        options = _SCHEMA.FullyConnectedOptionsT()
        options.fusedActivationFunction = activation
        inputs = [source, self._weights((units, width), width), self._bias(units)]
        return self._add_operator(
            _OPERATOR.FULLY_CONNECTED, inputs, (1, units), (_OPTIONS.FullyConnectedOptions, options)
        )

    def convolution(self, source: int, channels: int, kernel: int, stride: int, activation: int) -> int:
        """A convolution with same padding."""
        _, height, width, depth = self._shape(source)
        options = _SCHEMA.Conv2DOptionsT()
        options.padding, options.fusedActivationFunction = _SAME, activation
        options.strideH = options.strideW = stride
        weights = self._weights((channels, kernel, kernel, depth), kernel * kernel * depth)
        shape = (1, -(-height // stride), -(-width // stride), channels)
        inputs = [source, weights, self._bias(channels)]
        return self._add_operator(_OPERATOR.CONV_2D, inputs, shape, (_OPTIONS.Conv2DOptions, options))

    def depthwise(self, source: int, stride: int) -> int:
        """A 3 x 3 convolution of each channel by itself."""
        _, height, width, depth = self._shape(source)
        options = _SCHEMA.DepthwiseConv2DOptionsT()
        options.padding, options.fusedActivationFunction, options.depthMultiplier = _SAME, _RELU6, 1
        options.strideH = options.strideW = stride
        inputs = [source, self._weights((1, 3, 3, depth), 9), self._bias(depth)]
        shape = (1, -(-height // stride), -(-width // stride), depth)
        return self._add_operator(
            _OPERATOR.DEPTHWISE_CONV_2D, inputs, shape, (_OPTIONS.DepthwiseConv2DOptions, options)
        )

    def add(self, left: int, right: int) -> int:
        """The sum of two tensors of one shape."""
        options = (_OPTIONS.AddOptions, _SCHEMA.AddOptionsT())
        return self._add_operator(_OPERATOR.ADD, [left, right], self._shape(left), options)

    def mean(self, source: int) -> int:
        """The mean of each channel over the picture."""
        axes = self.tensor("axes", (2,), np.array([1, 2], np.int32))
        options = (_OPTIONS.ReducerOptions, _SCHEMA.ReducerOptionsT())
        return self._add_operator(_OPERATOR.MEAN, [source, axes], (1, self._shape(source)[-1]), options)

    def finish(self, source: int, result: int) -> bytes:
        """The .tflite, with a signature that calls the input `x` and the output `y`."""
        self._subgraph.inputs, self._subgraph.outputs = np.array([source], np.int32), np.array([result], np.int32)
        signature = _SCHEMA.SignatureDefT()
        signature.signatureKey = b"serving_default"
        signature.inputs, signature.outputs = [_named("x", source)], [_named("y", result)]
        self._model.version, self._model.subgraphs = 3, [self._subgraph]
        self._model.signatureDefs = [signature]
        return bytes(flatbuffer_utils.convert_object_to_bytearray(self._model))


def _named(name: str, tensor: int) -> Any:
    entry = _SCHEMA.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), tensor
    return entry


def mlp(widths: Sequence[int], seed: int = 1) -> bytes:
    """An int8 perceptron with these layers: `widths[0]` inputs, `widths[-1]` outputs."""
    graph = _Graph(seed)
    source = layer = graph.tensor("x", (1, widths[0]))
    for width in widths[1:-1]:
        layer = graph.dense(layer, width, _RELU)
    return _int8(graph.finish(source, graph.dense(layer, widths[-1])), (widths[0],), rows=64)


def mobilenet_v2(seed: int = 1) -> bytes:
    """MobileNetV2 1.0 at 224 x 224 with 1,001 classes in int8: 3.5 million weights, 300 million multiplications."""
    graph = _Graph(seed)
    source = graph.tensor("x", (1, 224, 224, 3))
    layer, depth = graph.convolution(source, 32, 3, 2, _RELU6), 32
    for expansion, channels, repeats, first_stride in _BOTTLENECKS:
        for number in range(repeats):
            stride = first_stride if number == 0 else 1
            before = layer
            if expansion > 1:
                layer = graph.convolution(layer, depth * expansion, 1, 1, _RELU6)
            layer = graph.convolution(graph.depthwise(layer, stride), channels, 1, 1, _NONE)
            if stride == 1 and channels == depth:
                layer = graph.add(before, layer)
            depth = channels
    layer = graph.mean(graph.convolution(layer, 1280, 1, 1, _RELU6))
    return _int8(graph.finish(source, graph.dense(layer, 1001)), (224, 224, 3), rows=4)


def _int8(content: bytes, shape: tuple[int, ...], rows: int) -> bytes:
    samples = np.random.default_rng(2).uniform(-1, 1, (rows, *shape)).astype(np.float32)
    with native_silence():
        return quantize(content, "int8", Samples({"x": samples}, None, ""))


_MAKERS = {
    # 64 inputs, 64 hidden, 10 outputs: the engine needs microseconds, so what is measured is the server.
    "tiny": lambda: mlp((64, 64, 10)),
    # The same question as for the tiny one, but slow enough that calls queue up.
    "slow": lambda: mlp((64, 4096, 4096, 10)),
    "mobilenet": mobilenet_v2,
}
NAMES = tuple(_MAKERS)


def model_file(name: str, folder: Path) -> Path:
    """The .tflite of that name in `folder`, made where it is absent."""
    path = folder / f"{name}.tflite"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_MAKERS[name]())
    return path
