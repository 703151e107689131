"""What the values of a declaration must be: each rule raises ContractError with the key."""

import math
from collections.abc import Sequence

from edge_runtime.contract.errors import ContractError

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 100, 384_000  # Hz, of sound
MAX_WINDOW_SAMPLES = 4_000_000
MAX_CHANNELS = 64


def require(condition: object, message: str) -> None:
    """Raise ContractError with the message unless the condition holds."""
    if not condition:
        raise ContractError(message)


def within(key: str, value: float, least: float, most: float) -> None:
    """Raise ContractError unless the value is between both ends, or one of them."""
    require(least <= value <= most, f"{key} must be {least:g} to {most:g}, but is {value:g}")


def values_of(shape: Sequence[int], window: int) -> int:
    """How many values one sample of an input of this shape has.

    An open batch dimension counts as 1; any other open dimension takes a window of so many values as it is.
    """
    open_length = any(n < 0 for n in shape[1:]) or (len(shape) == 1 and shape[0] < 0)
    fixed = math.prod(n for n in shape if n > 0)
    return window if open_length and window and window % max(1, fixed) == 0 else fixed
