"""What a box knows of a model once it has looked into it: specs, task, input, kernels. Kept in the state as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from edge_runtime.contract import strict
from edge_runtime.contract.inputs import InputDeclaration, picture_shape
from edge_runtime.contract.manifest import OutputDeclaration, Task
from edge_runtime.contract.states import State
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference.engine import Kernels

# A picture this small is a table of numbers rather than a picture (and 1x49x10x1 is speech).
_MIN_PICTURE_SIDE = 16
_ALWAYS_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Description:
    """What the probe found.

    Attributes:
        input: None where neither manifest nor metadata say how raw input becomes the tensor.
        labels: class names in the order of the output; empty where there are none.
        latency_ms: median of a few runs in the probe, in milliseconds, one thread.
        sample_bytes: of all tensors of the model together, for one sample: no batch needs more than that for each.
        state: what it keeps between two runs.
        control_flow: it has loops or branches, so that its running time depends on what it is given.
        output: how the answer is read, by manifest and metadata together; None: the manifest's is all there is.
        delegate: with which delegate it was proven; empty: with none.
        runs_on: what that means, for people, and why where it is not what was configured.
        memory_bytes: what one loaded session added to the probe's resident memory.
    """

    engine: str
    engine_version: str
    kernels: Kernels
    task: Task
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    input: InputDeclaration | None = None
    labels: tuple[str, ...] = field(default=())
    latency_ms: float = 0.0
    memory_bytes: int = 0
    sample_bytes: int = 0
    control_flow: bool = False
    state: State = "variables"
    delegate: str = ""
    runs_on: str = "cpu"
    output: OutputDeclaration | None = None

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(strict.encode(self))

    @staticmethod
    def from_json(text: str) -> "Description":
        """From JSON text; raises ContractError or ValueError if it is not a description."""
        return strict.decode(Description, json.loads(text))

    def max_samples(self, batch_bytes: int) -> int:
        """How many samples one request may have where the model leaves that open; a few are never too many."""
        return max(_ALWAYS_SAMPLES, batch_bytes // max(1, self.sample_bytes))


def undeclared_input(spec: TensorSpec) -> InputDeclaration | None:
    """How to feed a model that says nothing: an 8-bit input of picture shape takes pixels over its whole range.

    Three channels of 8 bits are pixels for arrays, too. A float input could want 0..1, -1..1 or 0..255: None.
    """
    picture = picture_shape(spec.shape, "NHWC")
    looks_like_picture = picture is not None and min(picture.height, picture.width) >= _MIN_PICTURE_SIDE
    if picture is None or not looks_like_picture or spec.datatype not in ("UINT8", "INT8"):
        return None
    return InputDeclaration(kind="image" if picture.channels == 3 else "tensor", full_range=True)


def with_full_range(declaration: InputDeclaration, spec: TensorSpec) -> InputDeclaration:
    """The declaration of TFLite Metadata for an 8-bit input: its mean and std describe the float model it came from."""
    if declaration.kind == "image" and spec.datatype in ("UINT8", "INT8"):
        return replace(declaration, mean=(0.0,), std=(1.0,), full_range=True)
    return declaration


def is_detection(outputs: Sequence[TensorSpec]) -> bool:
    """Whether the outputs are those of TFLite_Detection_PostProcess: boxes, classes, scores, count."""
    if len(outputs) != 4:
        return False
    boxes, *rest = outputs
    flat = [[n for n in spec.shape if n != 1] for spec in rest]
    return boxes.shape[-1:] == (4,) and (flat[0] == flat[1]) and flat[2] == []
