"""What numbers of the configuration may be, and how that is checked."""

from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from edge_runtime.contract.errors import ContractError


def require(condition: object, message: str) -> None:
    """Raise ContractError with `message` unless the condition holds."""
    if not condition:
        raise ContractError(message)


@dataclass(frozen=True, slots=True)
class Range:
    """What a number of the configuration may be, both ends included: outside of it the box could not work."""

    least: float
    most: float


MINUTE, DAY = 60.0, 24 * 3600.0
KIB, MIB, GIB = 2**10, 2**20, 2**30

Port = Annotated[int, Range(0, 65535)]
Count = Annotated[int, Range(1, 1_000_000)]
MemoryBytes = Annotated[int, Range(1, 2**31 - 1)]  # what is held in memory; gRPC counts in 32 bits, too
DiskBytes = Annotated[int, Range(1, 2**50)]
Wait = Annotated[float, Range(0.05, DAY)]  # something is retried, given up or looked at after it
Linger = Annotated[float, Range(0, 10 * MINUTE)]  # 0: not at all


def ranges(section: type) -> dict[str, Range]:
    """The numbers of a section of the configuration, also those that may be left open, and what each may be."""
    hints = get_type_hints(section, include_extras=True)
    return {key: found for key, hint in hints.items() if (found := _range(hint))}


def _range(hint: Any) -> Range | None:
    parts = get_args(hint)  # of Annotated[int, Range(...)], or of "that | None"
    return next((part for part in parts if isinstance(part, Range)), None) or next(
        filter(None, map(_range, parts)), None
    )


def check_numbers(section: Any) -> None:
    """Raise ContractError for a number of `section` that is outside of its range."""
    for key, allowed in ranges(type(section)).items():
        value = getattr(section, key)
        require(
            value is None or allowed.least <= value <= allowed.most,
            f"{key} must be {_plain(allowed.least)} to {_plain(allowed.most)}, but is {value}",
        )


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)
