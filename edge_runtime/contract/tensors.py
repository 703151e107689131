"""Tensor specs in the words of the Open Inference Protocol v2."""

from dataclasses import dataclass, field
from typing import Literal

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]

# Open Inference Protocol v2, "Tensor Data Types", against numpy's names. BYTES are variable-length strings.
NUMPY_NAMES: dict[Datatype, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
DATATYPES: dict[str, Datatype] = {numpy_name: datatype for datatype, numpy_name in NUMPY_NAMES.items()}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: the signature's name where the model has one, else the tensor's.
        datatype: Open Inference Protocol name of the element type.
        shape: dimensions, -1 where the model leaves one open.
        scale: quantization scale; 0.0 for a tensor that is not quantized. real = scale * (stored - zero_point).
        zero_point: the stored value that means real 0.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    scale: float = 0.0
    zero_point: int = field(default=0)

    @property
    def quantized(self) -> bool:
        """Whether stored integers stand for real numbers."""
        return self.scale != 0.0
