"""Numbers in a document: .npy, CSV, JSON."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CallerError, Code

NPY_MAGIC = b"\x93NUMPY"
JSON_TYPES = ("application/json", "text/json", "application/x-www-form-urlencoded")
_SEPARATORS = (";", "\t", ",")
_HEAD_BYTES = 4096
_TAKEN = "a picture (JPEG, PNG, BMP, WebP), sound (WAV), an .npy file, CSV or JSON"
_SHOWN = 40  # characters of a cell that go into a message


def npy_array(data: bytes) -> NDArray[Any]:
    """The array of an .npy file of numbers; raises CallerError if it is none."""
    try:
        array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError, MemoryError) as error:
        raise CallerError(f"the .npy file cannot be read: {str(error)[:120]}") from error
    if array.dtype.kind not in "iufb":
        raise CallerError(f"the .npy file must hold numbers, but holds {array.dtype}")
    return array


def looks_like_table(data: bytes) -> bool:
    """Whether bytes of no known type are lines of cells with numbers in them (and not JSON)."""
    head = data[:_HEAD_BYTES].decode("utf-8-sig", "ignore")
    lines = [line for line in head.splitlines() if line.strip()][:2]
    if not lines or lines[0].lstrip()[:1] in ("[", "{", '"') or "\0" in head:
        return False
    cells = [cell for cell in re.split(r"[,;\s]+", lines[-1]) if cell]
    return len(lines) + len(cells) > 2 and any(map(_is_number, cells))


def csv_array(data: bytes, columns: Sequence[str] = ()) -> NDArray[np.float64]:
    """The numbers of a CSV: float64 (rows, columns) where all rows are as long, else one after another.

    Cells are separated by commas, semicolons, tabs or spaces, the same ones in all lines. A first line without any
    number is a header; with one, `columns` chooses by name and gives the order.

    Raises:
        CallerError: no text, no numbers, a cell that is no number, a column that is not there.
    """
    rows = _rows(data)
    first = next(rows, [])
    header = [name.strip() for name in first] if first and not any(map(_is_number, first)) else []
    chosen = _chosen(header, columns)
    values: list[list[float]] = []
    for number, row in enumerate(rows if header else _again(first, rows), 2 if header else 1):
        cells = [row[i] for i in chosen if i < len(row)] if chosen else row
        if chosen and len(cells) < len(chosen):
            raise CallerError(f"line {number} of the CSV has {len(row)} cells, but {header[chosen[-1]]!r} is needed")
        values.append([_cell(cell, number) for cell in cells])
    if len({len(row) for row in values}) == 1:
        return np.array(values)
    return np.array([value for row in values for value in row])


def json_document(data: bytes, kind: str) -> Any:
    """The document; raises CallerError, with what else was expected."""
    if not data:
        raise CallerError(f"the body is empty; send {_TAKEN}")
    if kind.startswith("multipart/"):
        raise CallerError(
            "a form is not taken: send the file itself as the body (curl --data-binary @FILE, not -F)",
            Code.UNSUPPORTED_MEDIA,
        )
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        why = "" if isinstance(error, UnicodeDecodeError) else f": {str(error)[:120]}"
        raise CallerError(
            f"the body ({kind or 'no content type'}, {len(data)} bytes) is neither a picture (JPEG, PNG, BMP, WebP), "
            f"nor sound (WAV), nor an .npy file, nor CSV, nor JSON{why}",
            Code.UNSUPPORTED_MEDIA if kind and kind not in JSON_TYPES else Code.INVALID_INPUT,
        ) from error


def json_array(document: Any) -> NDArray[Any]:
    """The numbers of a parsed JSON array; raises CallerError if there is anything else."""
    if isinstance(document, dict):
        if set(document) != {"input"}:
            raise CallerError(
                'a JSON object must be {"input": [...]}, or {"inputs": {"name": [...], ...}}; a bare array will do; '
                "for named tensors use /v2"
            )
        document = document["input"]
    try:
        array = np.asarray(document)
    except ValueError as error:
        raise CallerError(f"the JSON array is ragged: {error}") from error
    if array.dtype.kind not in "iufb":
        raise CallerError("the JSON array must hold numbers only")
    return array


def _rows(data: bytes) -> Iterator[list[str]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CallerError(f"the CSV is not UTF-8: {error}") from error
    lines = (line for line in text.splitlines() if line.strip())
    first = next(lines, "")
    separator = next((s for s in _SEPARATORS if s in first), None)
    if separator is None:
        return ([cell for cell in re.split(r"[,;\s]+", line) if cell] for line in _again(first, lines) if line)
    return _separated(_again(first, lines), separator)


def _separated(lines: Iterator[str], separator: str) -> Iterator[list[str]]:
    try:
        for row in csv.reader(lines, delimiter=separator, skipinitialspace=True):
            yield row[:-1] if len(row) > 1 and not row[-1].strip() else row  # a separator at the end of each line
    except csv.Error as error:
        raise CallerError(f"the CSV cannot be read: {error}") from error


def _again(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _chosen(header: Sequence[str], columns: Sequence[str]) -> list[int]:
    if not header or not columns:
        return []
    missing = [name for name in columns if name not in header]
    if missing:
        raise CallerError(f"the CSV has no column {missing[0]!r}; it has {', '.join(header)[:200]}")
    return [header.index(name) for name in columns]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _cell(cell: str, line: int) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise CallerError(f"the CSV must hold numbers, but line {line} has {cell[:_SHOWN]!r}") from error
