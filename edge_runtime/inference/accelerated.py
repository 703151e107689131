"""LiteRT's own accelerators: a session over its CompiledModel, which only they can use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.tensors import NUMPY_NAMES
from edge_runtime.errors import ContentError, DeviceError
from edge_runtime.inference.interpreter import InterpreterSession

_ERRORS = (RuntimeError, ValueError, TypeError, MemoryError, OverflowError)
# Operators that keep something between two calls; a CompiledModel has no way to make them forget it.
_STATEFUL = ("VAR_HANDLE", "SVDF", "SEQUENCE_LSTM", "SEQUENCE_RNN", "LSTM", "RNN")


class AcceleratedSession:
    """A model on the GPU or the NPU. Implements `engine.StatefulSession`.

    Specs come from an interpreter (`described`), for a CompiledModel knows neither quantization nor open dimensions.
    """

    def __init__(self, model: Path, accelerator: str, described: InterpreterSession) -> None:
        if any(name.endswith(_STATEFUL) for name in described.operators):
            raise ContentError(f"the model keeps state between calls, which the {accelerator} could not reset")
        self.inputs, self.outputs, self.sample_bytes = described.inputs, described.outputs, described.sample_bytes
        self._compiled, self.runs_on = _compile(model, accelerator)
        try:
            (self._key,) = self._compiled.get_signature_list()
            self._check_names()
            self._shapes = {spec.name: tuple(max(1, n) for n in spec.shape) for spec in self.inputs}
            self._make_buffers()
        except _ERRORS as error:
            raise ContentError(f"the {accelerator} refuses the model: {_line(error)}") from error

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `engine.Session.run`."""
        try:
            self._resize(tensors)
            for name, value in tensors.items():
                self._inputs[name].write(np.ascontiguousarray(value))
            self._compiled.run_by_name(self._key, self._inputs, self._outputs)
            return {spec.name: self._read(spec.name, NUMPY_NAMES[spec.datatype]) for spec in self.outputs}
        except (*_ERRORS, KeyError) as error:
            raise ContentError(f"the model failed to run: {_line(error)}") from error

    def step(self, tensors: Mapping[str, NDArray[Any]], *, fresh: bool) -> dict[str, NDArray[Any]]:  # noqa: ARG002
        """See `engine.StatefulSession.step`: no model that keeps state gets here."""
        return self.run(tensors)

    def _check_names(self) -> None:
        names = self._compiled.get_signature_list()[self._key]
        for specs, found in ((self.inputs, names["inputs"]), (self.outputs, names["outputs"])):
            if {spec.name for spec in specs} != set(found):
                raise ValueError(f"its tensors have other names there: {', '.join(found)}")

    def _make_buffers(self) -> None:
        make_input, make_output = (
            self._compiled.create_input_buffer_by_name,
            self._compiled.create_output_buffer_by_name,
        )
        self._inputs = {spec.name: make_input(self._key, spec.name) for spec in self.inputs}
        self._outputs = {spec.name: make_output(self._key, spec.name) for spec in self.outputs}

    def _resize(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        changed = {name: value.shape for name, value in tensors.items() if value.shape != self._shapes[name]}
        for name, shape in changed.items():
            self._shapes[name] = ()  # an unfinished resize must not look finished to the next call
            self._compiled.resize_input_tensor_by_name(self._key, name, shape)
        if changed:
            self._make_buffers()
            self._shapes.update(changed)

    def _read(self, name: str, dtype: str) -> NDArray[Any]:
        shape = [int(n) for n in self._compiled.get_output_tensor_details(self._key)[name]["shape"]]
        values = self._outputs[name].read(int(np.prod(shape)), np.dtype(dtype).type)
        return np.array(values, dtype=dtype).reshape(shape)


def _compile(model: Path, accelerator: str) -> tuple[Any, str]:
    """The model compiled for the accelerator, and what to call that."""
    try:
        from ai_edge_litert.compiled_model import CompiledModel, HardwareAccelerator  # noqa: PLC0415 - who asks for it
    except (ImportError, OSError) as error:
        raise DeviceError(f"this LiteRT has no accelerators: {error}") from error
    wanted = HardwareAccelerator[accelerator.upper()]
    try:
        return CompiledModel.from_file(str(model), hardware_accel=wanted), accelerator
    except _ERRORS as error:
        # With the CPU beside it an absent NPU is no error, but nothing runs there either: who could tell?
        if accelerator == "npu":
            raise DeviceError(f"the npu takes no model, or not all of this one: {_line(error)}") from error
    try:
        compiled = CompiledModel.from_file(str(model), hardware_accel=wanted | HardwareAccelerator.CPU)
    except _ERRORS as error:
        raise DeviceError(f"there is no {accelerator} that LiteRT can use: {_line(error)}") from error
    return compiled, f"{accelerator} (partly, the rest on the cpu)"


def _line(error: BaseException) -> str:
    """LiteRT's errors are a trail of places in its source, the reason last."""
    lines = [line.strip("└ ").strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
