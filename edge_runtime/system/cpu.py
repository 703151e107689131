"""Which processor this is: measurements hold for one kind of it."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_CPUINFO, _BOARD = Path("/proc/cpuinfo"), Path("/proc/device-tree/model")
# What names the processor, best first: x86, 32-bit ARM boards, ARM's implementer and part numbers.
_NAMES = ("model name", "Model", "Hardware", "CPU part")
_MAX_NAME = 120


@dataclass(frozen=True, slots=True)
class Cpu:
    """A processor as a program sees it: its name, the board's where it is known, and the cores that may be used."""

    model: str
    cores: int


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def identity(cpuinfo: Path = _CPUINFO, board: Path = _BOARD) -> Cpu:
    """This box's processor."""
    return Cpu((_board(board) or _cpu_name(cpuinfo) or platform.processor() or platform.machine())[:_MAX_NAME], cores())


def _board(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _cpu_name(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return next((found[name] for name in _NAMES if found.get(name)), "")
