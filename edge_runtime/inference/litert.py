"""LiteRT (`ai-edge-litert`): the default engine."""

from importlib.metadata import version
from typing import Any

from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edge_runtime.inference.engine import Engine, Kernels
from edge_runtime.inference.interpreter import InterpreterEngine


def engine() -> Engine:
    """The engine of this module; its fast kernels are XNNPACK's."""
    resolvers: dict[Kernels, Any] = {
        "fast": OpResolverType.AUTO,
        "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    }
    return InterpreterEngine("litert", version("ai-edge-litert"), Interpreter, resolvers)
