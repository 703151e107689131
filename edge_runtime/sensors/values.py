"""From a frame to a reading: a 1-D float64 array, one finite value for each channel."""

import json
import math
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.sensors.faults import Agreement, Fault, Faults

Reading = NDArray[np.float64]


class ValueDecoder(Protocol):
    """Frames to readings."""

    faults: Faults

    def decode(self, frame: bytes) -> Reading | None:
        """The reading of shape (channels,) float64, or None for a bad frame, which is counted. Never raises."""
        ...

    def reset(self) -> None:
        """Forget what earlier frames looked like: another sensor may be talking now."""
        ...


class _BadFrameError(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


class CsvValues:
    """Numbers separated by commas, semicolons, tabs or spaces; one kind a frame, and one may stand at the end.

    With semicolons or commas, spaces around a number do not count. A decimal comma is a bad frame, not two numbers,
    wherever something else separates.
    """

    def __init__(self) -> None:
        self.faults: Faults = Faults()

    def decode(self, frame: bytes) -> Reading | None:
        """The reading of shape (channels,) float64, or None for a bad frame, which is counted."""
        try:
            return _finite([_number(field) for field in _fields(_text(frame, "ascii"))])
        except _BadFrameError as error:
            self.faults[error.fault] += 1
            return None

    def reset(self) -> None:
        """Nothing is remembered from frame to frame."""


class JsonValues:
    """A number, an array of numbers, or an object of numbers: its channels are in the key order of the first one."""

    def __init__(self) -> None:
        self.faults: Faults = Faults()
        self.reset()

    def reset(self) -> None:
        """Forget the keys."""
        self._keys: tuple[str, ...] = ()
        self._agreement: Agreement[frozenset[str]] = Agreement()

    def decode(self, frame: bytes) -> Reading | None:
        """The reading of shape (channels,) float64, or None for a bad frame, which is counted."""
        try:
            return _finite(self._numbers(_json(_text(frame, "utf-8"))))
        except _BadFrameError as error:
            self.faults[error.fault] += 1
            return None

    def _numbers(self, document: object) -> list[float]:
        if isinstance(document, dict):
            return self._in_key_order(document)
        return [_json_number(item) for item in (document if isinstance(document, list) else [document])]

    def _in_key_order(self, document: dict[str, object]) -> list[float]:
        numbers = {key: _json_number(value) for key, value in document.items()}
        _finite(numbers.values())  # before its keys can set the order
        if not self._agreement.accepts(frozenset(numbers)):
            raise _BadFrameError(Fault.KEYS)
        if numbers.keys() != set(self._keys):
            self._keys = tuple(numbers)
        return [numbers[key] for key in self._keys]


def _text(frame: bytes, encoding: str) -> str:
    try:
        return frame.decode(encoding)
    except UnicodeDecodeError as error:
        raise _BadFrameError(Fault.NOT_TEXT) from error


def _fields(text: str) -> list[str]:
    separator = ";" if ";" in text else "," if "," in text else None
    fields = [field.strip() for field in text.split(separator)]
    return fields[:-1] if len(fields) > 1 and not fields[-1] else fields


def _number(field: str) -> float:
    try:
        if "_" not in field:  # Python's float() takes 1_000, a sensor that sends it is garbled
            return float(field)
    except ValueError:
        pass
    raise _BadFrameError(Fault.NOT_NUMBERS)


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _BadFrameError(Fault.NOT_JSON) from error


def _json_number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _BadFrameError(Fault.NOT_NUMBERS)
    try:
        return float(value)
    except OverflowError as error:
        raise _BadFrameError(Fault.NOT_FINITE) from error


def _finite(numbers: Iterable[float]) -> Reading:
    values = list(numbers)
    if not values:
        raise _BadFrameError(Fault.NOT_NUMBERS)
    if not all(map(math.isfinite, values)):
        raise _BadFrameError(Fault.NOT_FINITE)
    return np.array(values, dtype=np.float64)
