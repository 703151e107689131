"""A session over the TFLite Interpreter API, which LiteRT and tflite-runtime share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.states import State
from edge_runtime.contract.tensors import DATATYPES, NUMPY_NAMES, Datatype, TensorSpec
from edge_runtime.errors import ContentError, DeviceError
from edge_runtime.inference import delegates
from edge_runtime.inference.engine import ACCELERATORS, Delegate, Kernels, StatefulSession

MakeInterpreter = Callable[[Path], Any]
_MAX_REASON = 240
_ENGINE_ERRORS = (RuntimeError, ValueError, TypeError, MemoryError, OverflowError, UnicodeDecodeError)


@dataclass(frozen=True)
class InterpreterEngine:
    """An engine made of an Interpreter class. Implements `engine.Engine`.

    `resolvers` gives, for each kind of kernels, the op resolver that brings them; `accelerate` makes a session on one
    of the engine's own accelerators, where it has any.
    """

    name: str
    version: str
    interpreter: Callable[..., Any]
    resolvers: Mapping[Kernels, Any]
    load_delegate: Callable[..., Any]
    accelerate: "Callable[[Path, str, InterpreterSession], StatefulSession] | None" = None
    delegate: Delegate = field(default_factory=Delegate)

    def with_delegate(self, delegate: Delegate) -> "InterpreterEngine":
        """See `engine.Engine.with_delegate`."""
        return replace(self, delegate=delegate)

    def open(self, model: Path, kernels: Kernels, threads: int, state: State = "variables") -> StatefulSession:
        """See `engine.Engine.open`."""
        if not self.delegate.name:
            return self._open(model, kernels, threads, state)
        if self.delegate.name in ACCELERATORS:
            return self._accelerated(model)
        return self._open(model, kernels, threads, state, delegates.load(self.load_delegate, self.delegate))

    def _open(
        self, model: Path, kernels: Kernels, threads: int, state: State, loaded: Any = None
    ) -> "InterpreterSession":
        def make(path: Path) -> Any:
            return self.interpreter(
                model_path=str(path),
                num_threads=threads,
                experimental_op_resolver_type=self.resolvers[kernels],
                experimental_delegates=[loaded] if loaded else None,
            )

        return InterpreterSession(model, make, state, self.delegate if loaded else None)

    def _accelerated(self, model: Path) -> StatefulSession:
        if self.accelerate is None:
            raise DeviceError(f"{self.name} has no {self.delegate.name} of its own; name a delegate's library instead")
        return self.accelerate(model, self.delegate.name, self._open(model, "builtin", 1, "variables"))


class InterpreterSession:
    """One interpreter with its tensors allocated. Implements `engine.StatefulSession`."""

    def __init__(
        self, model: Path, make: MakeInterpreter, state: State = "variables", delegate: Delegate | None = None
    ) -> None:
        self._state = state
        self._renew: Callable[[], Any] = lambda: make(model)
        self._used = False
        try:
            self._interpreter = make(model)
            self.runs_on = delegates.told(delegate, self._interpreter) if delegate else "cpu"
            self._interpreter.allocate_tensors()
            inputs = self._interpreter.get_input_details()
            outputs = self._interpreter.get_output_details()
            signature = _signature_names(self._interpreter)
        except _ENGINE_ERRORS as error:
            raise ContentError(f"the engine refuses the model: {_first_line(error)}") from error
        if not inputs or not outputs:
            raise ContentError(
                f"the model has {len(inputs)} inputs and {len(outputs)} outputs; it needs one of each at least"
            )
        self.sample_bytes = sum(map(_tensor_bytes, self._interpreter.get_tensor_details()))
        self.inputs = _specs(inputs, signature, "input")
        self.outputs = _specs(outputs, signature, "output")
        self._input_index = {spec.name: int(d["index"]) for spec, d in zip(self.inputs, inputs, strict=True)}
        self._output_index = {spec.name: int(d["index"]) for spec, d in zip(self.outputs, outputs, strict=True)}
        self._shapes = {
            spec.name: tuple(int(n) for n in d["shape"]) for spec, d in zip(self.inputs, inputs, strict=True)
        }
        self._opened_shapes = dict(self._shapes)

    @property
    def operators(self) -> tuple[str, ...]:
        """What its nodes are called, as far as the engine tells."""
        try:
            return tuple(str(op["op_name"]) for op in self._interpreter._get_ops_details())  # noqa: SLF001 - see `delegates.told`
        except _ENGINE_ERRORS:
            return ()

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `engine.Session.run`. Inputs whose open dimensions changed are resized first."""
        try:
            # A model that keeps state must not answer one caller with what it remembers of another.
            if self._state != "none":
                self._forget()
            for name, value in tensors.items():
                if value.shape != self._shapes[name]:
                    self._resize(tensors)
                    break
            interpreter = self._interpreter
            for name, value in tensors.items():
                interpreter.set_tensor(self._input_index[name], value)
            interpreter.invoke()
            return {name: interpreter.get_tensor(index) for name, index in self._output_index.items()}
        except _ENGINE_ERRORS as error:
            raise ContentError(f"the model failed to run: {_first_line(error)}") from error

    def step(self, tensors: Mapping[str, NDArray[Any]], *, fresh: bool) -> dict[str, NDArray[Any]]:
        """See `engine.StatefulSession.step`."""
        if fresh:
            return self.run(tensors)
        kept, self._state = self._state, "none"  # for this one run there is nothing to forget
        try:
            return self.run(tensors)
        finally:
            self._state = kept

    def _forget(self) -> None:
        """Begin anew. Resource variables outlive reset_all_variables() and allocate_tensors(), but no interpreter."""
        if self._state == "variables":
            self._interpreter.reset_all_variables()
        elif self._used:
            self._interpreter = self._renew()
            self._interpreter.allocate_tensors()
            self._shapes = dict(self._opened_shapes)
        self._used = True

    def _resize(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        changed = {name: value.shape for name, value in tensors.items() if value.shape != self._shapes[name]}
        for name, shape in changed.items():
            # An unfinished resize must not look finished to the next call.
            self._shapes[name] = ()
            self._interpreter.resize_tensor_input(self._input_index[name], shape)
        self._interpreter.allocate_tensors()
        self._shapes.update(changed)


def _signature_names(interpreter: Any) -> dict[int, str]:
    """Tensor index -> the name in the signature, where the model has exactly one; else nothing."""
    if len(interpreter.get_signature_list()) != 1:
        return {}
    runner = interpreter.get_signature_runner()
    details = list(runner.get_input_details().items()) + list(runner.get_output_details().items())
    return {int(detail["index"]): name for name, detail in details}


def _specs(details: Sequence[Mapping[str, Any]], signature: Mapping[int, str], kind: str) -> tuple[TensorSpec, ...]:
    named = [signature.get(int(d["index"])) or str(d["name"]) or f"{kind}_{i}" for i, d in enumerate(details)]
    if len(set(named)) < len(named):
        named = [f"{kind}_{i}" for i in range(len(named))]
    return tuple(_spec(name, detail) for name, detail in zip(named, details, strict=True))


def _spec(name: str, detail: Mapping[str, Any]) -> TensorSpec:
    scale, zero_point = detail["quantization"]
    shape = detail["shape_signature"] if len(detail["shape_signature"]) == len(detail["shape"]) else detail["shape"]
    return TensorSpec(
        name, _datatype(name, detail["dtype"]), tuple(int(n) for n in shape), float(scale), int(zero_point)
    )


def _datatype(name: str, dtype: Any) -> Datatype:
    numpy_name = np.dtype(dtype).name if dtype not in (np.bytes_, np.str_) else NUMPY_NAMES["BYTES"]
    if numpy_name not in DATATYPES:
        raise ContentError(f"tensor {name!r} has the type {numpy_name}, which no protocol here can carry")
    return DATATYPES[numpy_name]


def _tensor_bytes(detail: Mapping[str, Any]) -> int:
    size = int(np.prod(np.abs(np.asarray(detail["shape"], dtype=np.int64)), dtype=np.int64))
    return size * (np.dtype(detail["dtype"]).itemsize or 1)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else f"{type(error).__name__} without a message (out of memory?)"
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON].rsplit(" ", 1)[0] + " ..."
