"""Text for a terminal: aligned columns, and nothing in them that could steer it."""

import unicodedata
from collections.abc import Iterable, Sequence


def printable(text: str) -> str:
    """`text` with what is not printable replaced: names come from the network, and could hold escape sequences."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def render(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Aligned columns under their titles, two spaces apart, without a final newline."""
    cells = [list(head), *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    return "\n".join(_line(row, widths) for row in cells)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True))
    return "  ".join(padded).rstrip()


def _width(text: str) -> int:
    """Columns that a terminal gives to `text` (Unicode Standard Annex 11; combining marks take none)."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(bool(unicodedata.combining(char)) for char in text)
