"""LiteRT (`ai-edge-litert`): the default engine."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from ai_edge_litert.interpreter import Interpreter, OpResolverType, load_delegate

from edge_runtime.inference.engine import Engine, Kernels, StatefulSession
from edge_runtime.inference.interpreter import InterpreterEngine, InterpreterSession


def engine() -> Engine:
    """The engine of this module; its fast kernels are XNNPACK's."""
    resolvers: dict[Kernels, Any] = {
        "fast": OpResolverType.AUTO,
        "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    }
    return InterpreterEngine("litert", version("ai-edge-litert"), Interpreter, resolvers, load_delegate, _accelerate)


def _accelerate(model: Path, accelerator: str, described: InterpreterSession) -> StatefulSession:
    from edge_runtime.inference.accelerated import AcceleratedSession  # noqa: PLC0415 - few boxes need it

    return AcceleratedSession(model, accelerator, described)
