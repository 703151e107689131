"""A client repeats itself: but for the tensor's bytes, one request is like the last, and so is its answer.

Protobuf means the same wherever the bytes are the same. So a request whose head (all but the bytes of its one raw
tensor) was read before is not read again, and of its answer only the bytes of the one output are new. That is what
small models are asked; everything else is read as always.
"""

from dataclasses import dataclass

from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference.description import Description
from edge_runtime.inference.service import Inference
from edge_runtime.transports.codec import InferRequest
from edge_runtime.transports.grpc import tensors
from edge_runtime.transports.grpc.messages import ModelInferRequest, ModelInferResponse
from edge_runtime.transports.raw import from_raw, to_raw

_MAX_KNOWN = 64
_MAX_HEAD_BYTES = 1024
_KEY_BYTES = 16  # the model's name is among the first; no head is much shorter
# What stands before the length of raw contents: field 7 of a request, field 6 of an answer, as bytes.
_RAW_INPUT, _RAW_OUTPUT = b"\x3a", b"\x32"


@dataclass(frozen=True, slots=True)
class Repeat:
    """What was read of a request, and how its answer begins. It holds as long as `about` is what is served.

    Attributes:
        head: the request up to the tensor's bytes, their length included.
        shape: of the input.
        answer_head: the answer up to the output's bytes, their length included.
        answer_shape: of the output, for which that holds.
    """

    head: bytes
    model: str
    version: str | None
    about: Description
    spec: TensorSpec
    shape: tuple[int, ...]
    request: InferRequest
    answer_head: bytes
    answer_shape: tuple[int, ...]

    def read(self, data: bytes) -> InferRequest:
        """The request that these bytes are, which begin with `head`."""
        # A slice is a copy: in the middle of others the bytes may not be aligned.
        values = from_raw(data[len(self.head) :], self.spec).reshape(self.shape)
        return InferRequest({self.spec.name: values}, "", self.request.outputs, {}, self.request.parameters)

    def formatted(self, inference: Inference) -> bytes | None:
        """The answer; None where it has another shape than it had before."""
        (spec,) = inference.specs
        values = inference.outputs[spec.name]
        return self.answer_head + to_raw(values, spec.datatype) if values.shape == self.answer_shape else None


class Repeats:
    """The requests that were seen; a bounded number."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], Repeat] = {}

    def find(self, data: bytes) -> Repeat | None:
        """What is known of a request that repeats an earlier one."""
        known = self._known.get((len(data), data[:_KEY_BYTES]))
        return known if known is not None and data.startswith(known.head) else None

    def learn(
        self, data: bytes, request: ModelInferRequest, about: Description, answer: ModelInferResponse, formatted: bytes
    ) -> None:
        """Remember a request and its answer, where each has one raw tensor with a fixed number of bytes, and no id."""
        if request.id or len(request.raw_input_contents) != 1 or len(answer.raw_output_contents) != 1:
            return
        parsed = tensors.parse_infer(request, about.inputs)
        ((name, values),) = parsed.tensors.items()
        spec = next(spec for spec in about.inputs if spec.name == name)
        head = _head(data, _RAW_INPUT, request.raw_input_contents[0])
        answer_head = _head(formatted, _RAW_OUTPUT, answer.raw_output_contents[0])
        fixed = "BYTES" not in (spec.datatype, answer.outputs[0].datatype)
        if not (head and answer_head and fixed and len(about.outputs) == 1):
            return
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        version, shape = request.model_version or None, tuple(answer.outputs[0].shape)
        known = Repeat(head, request.model_name, version, about, spec, values.shape, parsed, answer_head, shape)
        self._known[len(data), data[:_KEY_BYTES]] = known


def _head(data: bytes, tag: bytes, last: bytes) -> bytes:
    """The bytes before `last`, the contents of the field with which the message must end; empty where it does not."""
    head = data[: len(data) - len(last)]
    ends = last and data.endswith(last) and head.endswith(tag + _length(len(last)))
    return head if ends and len(head) <= _MAX_HEAD_BYTES else b""


def _length(size: int) -> bytes:
    """A length as protobuf writes it: 7 bits a byte, the lowest first ("Base 128 Varints")."""
    out = bytearray()
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes((*out, size))
