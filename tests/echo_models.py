"""Models that answer with what they are given, in any datatype."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from peers import require_library

from edge_runtime.contract.tensors import Datatype

# TFLite's schema, TensorType.
TENSOR_TYPES: dict[Datatype, int] = {
    "FP32": 0,
    "FP16": 1,
    "INT32": 2,
    "UINT8": 3,
    "INT64": 4,
    "BYTES": 5,
    "BOOL": 6,
    "INT16": 7,
    "INT8": 9,
    "FP64": 10,
    "UINT64": 12,
    "UINT32": 15,
    "UINT16": 16,
}
_RESHAPE = 22


def echo_model(inputs: Mapping[str, Datatype], shape: Sequence[int] = (2,)) -> bytes:
    """A `.tflite` with these inputs, all of this shape; the output NAME_out is the input NAME, reshaped to itself."""
    require_library("ai_edge_litert", "ai-edge-litert")
    from ai_edge_litert.tools import flatbuffer_utils  # noqa: PLC0415 - not beside tflite-runtime

    schema = flatbuffer_utils.schema_fb
    model, graph, code, constant = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT(), schema.BufferT()
    code.builtinCode = code.deprecatedBuiltinCode = _RESHAPE
    constant.data = np.frombuffer(np.array([max(1, n) for n in shape], np.int32).tobytes(), np.uint8)
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT(), constant]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
    for name, datatype in inputs.items():
        kind, at = TENSOR_TYPES[datatype], len(graph.tensors)
        graph.tensors += [_tensor(schema, name, kind, shape), _tensor(schema, f"{name}_out", kind, shape)]
        graph.tensors.append(_tensor(schema, f"{name}_shape", TENSOR_TYPES["INT32"], (len(shape),), buffer=1))
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = 0, [at, at + 2], [at + 1]
        graph.operators.append(operator)
        graph.inputs.append(at)
        graph.outputs.append(at + 1)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _tensor(schema: Any, name: str, kind: int, shape: Sequence[int], buffer: int = 0) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.buffer = name.encode(), kind, buffer
    tensor.shape = [max(1, n) for n in shape]
    return tensor
