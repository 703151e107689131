"""What a runtime must offer to be an engine, and how one is chosen."""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from edge_runtime.contract.states import State
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import DeviceError

Kernels = Literal["fast", "builtin"]


# Accelerators of an engine itself; any other name is that of an external delegate's library.
ACCELERATORS = ("gpu", "npu")


@dataclass(frozen=True, slots=True)
class Delegate:
    """What is to run a model's nodes in place of the CPU: an accelerator, or a library and its options; "": nothing."""

    name: str = ""
    options: dict[str, str] = field(default_factory=dict)


class Session(Protocol):
    """One loaded model, ready to run. Not thread-safe: one call at a time."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Specs of the inputs, in the model's order."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Specs of the outputs, in the model's order."""
        ...

    @property
    def sample_bytes(self) -> int:
        """What all tensors of the model need together, weights included, with open dimensions 1."""
        ...

    @property
    def runs_on(self) -> str:
        """For people: "cpu", or the delegate and what it took of the model."""
        ...

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name for inputs by name, all in stored dtypes; the arrays are the caller's own.

        Raises:
            ContentError: the model itself failed.
        """
        ...


class StatefulSession(Session, Protocol):
    """A session of a model that may keep state between runs. What `run` answers does not depend on it."""

    def step(self, tensors: Mapping[str, NDArray[Any]], *, fresh: bool) -> dict[str, NDArray[Any]]:
        """As `run`, but from the state that the last step left, unless `fresh`.

        Raises:
            ContentError: the model failed, or the state is lost; only a fresh step can follow.
        """
        ...


class Engine(Protocol):
    """A runtime that opens models."""

    @property
    def name(self) -> str:
        """What it is called in the configuration."""
        ...

    @property
    def version(self) -> str:
        """Version of the package that it came in."""
        ...

    @property
    def delegate(self) -> Delegate:
        """What its sessions use in place of the CPU."""
        ...

    def with_delegate(self, delegate: Delegate) -> "Engine":
        """The same engine with another delegate."""
        ...

    def open(self, model: Path, kernels: Kernels, threads: int, state: State = "variables") -> StatefulSession:
        """Load a model file that keeps this kind of state.

        Raises:
            ContentError: the engine refuses it.
            DeviceError: the delegate is not to be had here.
        """
        ...


@dataclass(frozen=True)
class _Candidate:
    package: str
    module: str


# In order of preference: LiteRT is 25 times faster on int8 (docs/adr/0002).
_CANDIDATES = {
    "litert": _Candidate("ai_edge_litert", "edge_runtime.inference.litert"),
    "tflite-runtime": _Candidate("tflite_runtime", "edge_runtime.inference.tflite_runtime"),
}


def available() -> tuple[str, ...]:
    """Names of the engines that are installed here, best first."""
    return tuple(name for name, c in _CANDIDATES.items() if importlib.util.find_spec(c.package) is not None)


def choose(name: str = "auto") -> Engine:
    """The engine called `name`, or the best one that is installed.

    Raises:
        DeviceError: it is not installed, or cannot be loaded on this CPU or system.
    """
    installed = available()
    wanted = installed[0] if name == "auto" and installed else name
    if wanted not in installed:
        what = "no engine is" if name == "auto" else f"engine {name!r} is not"
        raise DeviceError(
            f"{what} installed; `pip install ai-edge-litert`, or `pip install edge-runtime[tflite-runtime]` "
            "(Python <= 3.11)"
        )
    try:
        module = importlib.import_module(_CANDIDATES[wanted].module)
    except (ImportError, OSError) as error:
        raise DeviceError(f"engine {wanted!r} is installed but cannot be loaded here: {error}") from error
    engine: Engine = module.engine()
    return engine
