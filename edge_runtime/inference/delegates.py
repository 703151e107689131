"""Delegate libraries: loading one with an error that says what is missing, and what it took of a model."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.errors import DeviceError
from edge_runtime.inference.engine import Delegate

# Of an external delegate, tensorflow/lite/delegates/external/external_delegate_interface.h.
_SYMBOLS = ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate")
# What an interpreter calls a node that stands for those that a delegate took.
_DELEGATE_NODE = "DELEGATE"


def load(load_delegate: Callable[..., Any], delegate: Delegate) -> Any:
    """The engine's own object for an external delegate's library.

    Raises:
        DeviceError: it is not installed, is no delegate, or does not find what it drives.
    """
    name = delegate.name
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise DeviceError(
            f"the delegate {name} cannot be loaded: {error}; install its library, or give its path"
        ) from error
    # The engines find that out, too, but then call what is not there.
    missing = [symbol for symbol in _SYMBOLS if not hasattr(library, symbol)]
    if missing:
        raise DeviceError(f"{name} is no TFLite delegate: it has no {missing[0]}")
    try:
        return load_delegate(name, dict(delegate.options))
    except (ValueError, RuntimeError, OSError, UnicodeDecodeError) as error:
        said = " ".join(str(error).removeprefix(f"Failed to load delegate from {name}").split())
        raise DeviceError(f"the delegate {name} refuses to start: {said or 'without a reason'}") from error


def share(operators: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """How many nodes of a graph delegates took, and how many it has; from the details of its operators.

    A delegate's node has the outermost tensors of what it stands for: everything between them is its own.
    """
    standing_for = [op for op in operators if op["op_name"] == _DELEGATE_NODE]
    own = [op for op in operators if op["op_name"] != _DELEGATE_NODE]
    maker = {int(tensor): op for op in own for tensor in op["outputs"]}
    taken: set[int] = set()
    for node in standing_for:
        given, wanted = {int(t) for t in node["inputs"]}, [int(t) for t in node["outputs"]]
        while wanted:
            op = maker.get(wanted.pop())
            if op is not None and int(op["index"]) not in taken:
                taken.add(int(op["index"]))
                wanted += [int(t) for t in op["inputs"] if int(t) not in given]
    return len(taken), len(own)


def told(delegate: Delegate, interpreter: Any) -> str:
    """What a model runs on, for people: the delegate and how many nodes it took, where the engine says so.

    To be asked before tensors are allocated: that is when an engine's own delegate (XNNPACK) takes the rest.
    """
    name = Path(delegate.name).name
    try:
        taken, nodes = share(interpreter._get_ops_details())  # noqa: SLF001 - "experimental", and there is no other
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
        return name
    return f"{name} ({taken} of {nodes} nodes{'' if taken else ': it runs on the cpu'})"
