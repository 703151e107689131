"""The usual forms of an inference request, read and written with as little work as can be; see `direct`.

A form gives None for whatever is not quite usual, or wrong: the codec then reads it, and says what is wrong.
Source: Open Inference Protocol v2, "Inference"; Triton's "Binary Tensor Data Extension".
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.tensors import NUMPY_NAMES, TensorSpec
from edge_runtime.errors import EdgeError
from edge_runtime.inference.registry import ServedVersion
from edge_runtime.inference.service import Inference
from edge_runtime.transports.codec import InferRequest, encode_json, format_infer, parse_infer

msgspec: Any
try:
    import msgspec
except ImportError:  # 32-bit ARM has no wheel, nor one of httptools: every request takes the ordinary way there
    msgspec = None

Outputs = Mapping[str, NDArray[Any]]

_JSON_HEAD = b"content-type: application/json\r\ncontent-length: "
_MAX_LAYOUTS = 256
# Of the JSON before raw tensors; that of a usual request is some hundred.
_MAX_LAYOUT_BYTES = 4096
# The JSON number type of a datatype; float16, booleans and strings take the ordinary way.
_NUMBERS: dict[str, Any] = {"i": list[int], "u": list[int], "f": list[float]}
# A request with keys that are not known here is left to the ordinary way.
_STRICT = {"forbid_unknown_fields": True, "gc": False}
_DIGITS = 4  # in JSON, about so many for each byte
_NUMPY_1 = int(np.__version__.split(".", maxsplit=1)[0]) < 2


class Form(Protocol):
    """A way to read requests and to write their answers.

    `sample_bytes`: about how long the answer is for each sample.
    """

    sample_bytes: int

    def read(self, data: bytes, at: int) -> tuple[dict[str, NDArray[Any]], Any] | None:
        """The tensors by name of a body that begins in `data` at `at`, and what `write` must know of the request.

        None for what is not of this form. Raw tensors share the memory of `data`.
        """
        ...

    def write(self, outputs: Outputs, asked: Any) -> tuple[bytes, bytes]:
        """The answer's own headers up to the digits of its length, and its body."""
        ...


def form_of(served: ServedVersion, json_bytes: int | None) -> Form | None:
    """How requests for a version are read whose first `json_bytes` are JSON (None: all); None: the ordinary way."""
    description = served.description
    if msgspec is None or len(description.inputs) != 1:
        return None
    dtypes = [np.dtype(NUMPY_NAMES[spec.datatype]) for spec in (*description.inputs, *description.outputs)]
    if any(dtype.kind not in _NUMBERS or dtype == np.float16 for dtype in dtypes):
        return None
    if json_bytes is not None:
        return BinaryForm(served, json_bytes) if json_bytes <= _MAX_LAYOUT_BYTES else None
    # An integer that is out of range wraps around in numpy 1, and is an error in numpy 2.
    return None if _NUMPY_1 and dtypes[0].kind != "f" else JsonForm(served)


def _output_bytes(served: ServedVersion) -> int:
    """Of all outputs, for one sample."""
    specs = served.description.outputs
    return sum(math.prod(abs(n) for n in spec.shape) * np.dtype(NUMPY_NAMES[spec.datatype]).itemsize for spec in specs)


class JsonForm:
    """One input, its numbers in a flat list, nothing special asked for."""

    def __init__(self, served: ServedVersion) -> None:
        spec = served.description.inputs[0]
        self._dtype = np.dtype(NUMPY_NAMES[spec.datatype])
        fields = [("name", str), ("shape", list[int]), ("datatype", str), ("data", _NUMBERS[self._dtype.kind])]
        inputs: Any = tuple[msgspec.defstruct("Input", fields, **_STRICT)]  # type: ignore[misc]
        request = msgspec.defstruct("Request", [("inputs", inputs), ("id", str, "")], **_STRICT)
        self._decode = msgspec.json.Decoder(request).decode
        self._encode = msgspec.json.Encoder().encode
        self._name, self._datatype = spec.name, spec.datatype
        self._largest = float(np.finfo(self._dtype).max) if self._dtype.kind == "f" else 0.0
        names = {"model_name": served.name, "model_version": served.version}
        self._begin = encode_json(names)[:-1]
        self.sample_bytes = _DIGITS * _output_bytes(served)
        self._outputs = [(spec.name, *_output_pieces(spec, i)) for i, spec in enumerate(served.description.outputs)]

    def read(self, data: bytes, at: int) -> tuple[dict[str, NDArray[Any]], str] | None:
        """See `Form.read`; what is asked is the id."""
        try:
            request = self._decode(memoryview(data)[at:])
            entry = request.inputs[0]
            if entry.name != self._name or entry.datatype != self._datatype:
                return None
            if self._largest and (max(entry.data) > self._largest or min(entry.data) < -self._largest):
                return None
            array = np.array(entry.data, self._dtype).reshape(entry.shape)
        except (ValueError, OverflowError, RecursionError, TypeError):
            return None
        # To numpy, -1 in a shape means whatever fits; to the protocol it is wrong.
        return ({self._name: array}, request.id) if list(array.shape) == entry.shape else None

    def write(self, outputs: Outputs, identity: str) -> tuple[bytes, bytes]:
        """See `Form.write`."""
        encode, pieces = self._encode, [self._begin]
        if identity:
            pieces += (b',"id":', encode(identity))
        for name, begin, fixed in self._outputs:
            value = outputs[name]
            pieces += (begin, fixed.get(value.shape) or _shape(value.shape), encode(value.reshape(-1).tolist()), b"}")
        pieces.append(b"]}")
        return _JSON_HEAD, b"".join(pieces)


def _output_pieces(spec: TensorSpec, index: int) -> tuple[bytes, dict[tuple[int, ...], bytes]]:
    known = encode_json({"name": spec.name, "datatype": spec.datatype})[:-1]
    begin = (b"," if index else b',"outputs":[') + known + b',"shape":'
    return begin, {spec.shape: _shape(spec.shape)}


def _shape(shape: tuple[int, ...]) -> bytes:
    return encode_json(list(shape)) + b',"data":'


class _Layout(NamedTuple):
    """What the JSON of a binary request means; the same JSON means the same again."""

    request: InferRequest
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    answers: dict[tuple[tuple[int, ...], ...], tuple[bytes, bytes]]  # by output shapes: own headers, JSON


class BinaryForm:
    """One input as raw bytes behind the JSON, and every output that is wanted likewise."""

    def __init__(self, served: ServedVersion, json_bytes: int) -> None:
        self._served = served
        self._json_bytes = json_bytes
        self._spec = served.description.inputs[0]
        self._dtype = np.dtype(NUMPY_NAMES[self._spec.datatype]).newbyteorder("<")
        self._layouts: dict[bytes, _Layout] = {}
        self.sample_bytes = _output_bytes(served)

    def read(self, data: bytes, at: int) -> tuple[dict[str, NDArray[Any]], _Layout] | None:
        """See `Form.read`."""
        raw_at = at + self._json_bytes
        layout = self._layouts.get(data[at:raw_at]) or self._learn(data[at:])
        if layout is None:
            return None
        try:
            array = np.frombuffer(data, self._dtype, -1, raw_at).reshape(layout.shape)
        except ValueError:
            return None
        return {self._spec.name: array}, layout

    def _learn(self, body: bytes) -> _Layout | None:
        try:
            request = parse_infer(body, (self._spec,), self._json_bytes)
        except EdgeError:
            return None
        names = tuple(spec.name for spec in self._served.description.outputs)
        outputs = request.outputs or names
        all_binary = all(request.binary.get(name, request.binary_by_default) for name in outputs)
        value = request.tensors.get(self._spec.name)
        from_json = value is None or value.nbytes != len(body) - self._json_bytes
        special = request.classes or not {"binary_data_output"}.issuperset(request.parameters)
        if from_json or special or not all_binary or not set(names).issuperset(outputs):
            return None
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        # Without its tensors, which would keep the whole body.
        layout = _Layout(replace(request, tensors={}), value.shape if value is not None else (), outputs, {})
        self._layouts[body[: self._json_bytes]] = layout
        return layout

    def write(self, outputs: Outputs, layout: _Layout) -> tuple[bytes, bytes]:
        """See `Form.write`."""
        values = [outputs[name] for name in layout.outputs]
        known = layout.answers.get(tuple([value.shape for value in values]))
        if known is None:
            known = self._answer_head(outputs, layout)
        return known[0], b"".join([known[1], *[value.tobytes() for value in values]])

    def _answer_head(self, outputs: Outputs, layout: _Layout) -> tuple[bytes, bytes]:
        served = self._served
        inference = Inference(served.name, served.version, outputs, served.description.outputs)
        answer = format_infer(inference, layout.request)
        size = answer.json_bytes or 0
        lines = f"content-type: application/octet-stream\r\ninference-header-content-length: {size}\r\ncontent-length: "
        head = lines.encode(), answer.body[:size]
        if len(layout.answers) < _MAX_LAYOUTS:
            layout.answers[tuple(outputs[name].shape for name in layout.outputs)] = head
        return head
