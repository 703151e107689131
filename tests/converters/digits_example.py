"""Where the digits example is, and the type of the `convert` fixture."""

from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"

Convert = Callable[..., int]
