"""Where the digits example is, the type of the `convert` fixture, and what every refusal has in common."""

from collections.abc import Callable
from pathlib import Path

import pytest

from converters import cli

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
MODEL = DIGITS / "digits_float.tflite"

Convert = Callable[..., int]


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run edge-convert, insist on exit 1, one line on stderr and no file; returns the line."""
    before = set(tmp_path.iterdir())
    status = cli.main([*arguments, "-o", str(tmp_path / "m-1.0.0.edgemodel")])
    line = capsys.readouterr().err
    assert status == 1
    assert line.startswith("edge-convert: ")
    assert line.count("\n") == 1
    assert set(tmp_path.iterdir()) == before
    return line
