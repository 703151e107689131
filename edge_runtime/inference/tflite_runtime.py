"""tflite-runtime 2.14: the engine of 32-bit ARM, Coral, and boxes that must keep it."""

from importlib.metadata import version
from typing import Any

from tflite_runtime.interpreter import Interpreter, OpResolverType, load_delegate

from edge_runtime.inference.engine import Engine, Kernels
from edge_runtime.inference.interpreter import InterpreterEngine


def engine() -> Engine:
    """The engine of this module; its fast kernels are XNNPACK's."""
    resolvers: dict[Kernels, Any] = {
        "fast": OpResolverType.AUTO,
        "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    }
    return InterpreterEngine("tflite-runtime", version("tflite-runtime"), Interpreter, resolvers, load_delegate)
